# SPDX-License-Identifier: Apache-2.0
"""Train a small CNN on scikit-learn's handwritten digits and register it in MLflow as `digits@champion`.

Usage: train_cnn.py FOLDER. Writes FOLDER/mlflow.db, FOLDER/artifacts and FOLDER/held-out.npz; the last line is JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import registered
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn


class Digits(nn.Module):
    """Two convolutions and a classifier for 8x8 grey images in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.classify = nn.Sequential(nn.Linear(64 * 16, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classify(self.features(image))
        return logits


def train(images: np.ndarray, labels: np.ndarray, epochs: int = 30) -> nn.Module:
    """Fit the CNN with Adam."""
    torch.manual_seed(7)
    model = Digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-4)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model.eval()


def register(folder: Path, model: nn.Module, example: np.ndarray) -> str:
    """Log the model and point the alias at its new version; return that version."""
    import mlflow.pytorch
    from mlflow.models import infer_signature

    with torch.no_grad():
        signature = infer_signature(example, model(torch.from_numpy(example)).numpy())
    with registered.run(folder) as arguments:
        info = mlflow.pytorch.log_model(
            model, **arguments, signature=signature, input_example=example, pip_requirements=["torch"]
        )
    return registered.point(info)


def main(folder: Path) -> None:
    registered.say("load 1797 images of digits, 8x8 pixels each")
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    split = train_test_split(images, digits.target, test_size=0.25, random_state=0, stratify=digits.target)
    images_train, images_test, labels_train, labels_test = split
    registered.say("fit a CNN for 30 epochs on one thread")
    torch.set_num_threads(1)
    model = train(images_train, labels_train)
    with torch.no_grad():
        accuracy = float((model(torch.from_numpy(images_test)).argmax(1).numpy() == labels_test).mean())
    registered.say("start MLflow, with a registry in one file, and register the model")
    version = register(folder, model, images_train[:4])
    np.savez(folder / "held-out.npz", images=images_test, labels=labels_test)
    print(json.dumps({"version": version, "accuracy": accuracy, "held_out": len(labels_test)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
