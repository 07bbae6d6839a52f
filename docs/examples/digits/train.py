# SPDX-License-Identifier: Apache-2.0
"""Train a small CNN on scikit-learn's handwritten digits and register it in MLflow as `digits@champion`.

Usage: train.py FOLDER. Writes FOLDER/mlflow.db, FOLDER/artifacts and FOLDER/held-out.npz.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path

import mlflow
import mlflow.pytorch
import numpy as np
import torch
from mlflow.models import infer_signature
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

NAME, ALIAS = "digits", "champion"


class Digits(nn.Module):
    """Two convolutions and a classifier for 8x8 grey images in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
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
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    if mlflow.get_experiment_by_name(NAME) is None:
        mlflow.create_experiment(NAME, artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment(NAME)
    with torch.no_grad():
        signature = infer_signature(example, model(torch.from_numpy(example)).numpy())
    with mlflow.start_run():
        info = mlflow.pytorch.log_model(
            model, name="model", signature=signature, input_example=example,
            registered_model_name=NAME, pip_requirements=["torch"],
        )  # fmt: skip
    version = str(info.registered_model_version)
    mlflow.MlflowClient().set_registered_model_alias(NAME, ALIAS, version)
    return version


def main(folder: Path) -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    split = train_test_split(images, digits.target, test_size=0.25, random_state=0, stratify=digits.target)
    images_train, images_test, labels_train, labels_test = split
    model = train(images_train, labels_train)
    with torch.no_grad():
        accuracy = float((model(torch.from_numpy(images_test)).argmax(1).numpy() == labels_test).mean())
    version = register(folder.resolve(), model, images_train[:4])
    np.savez(folder / "held-out.npz", images=images_test, labels=labels_test)
    print(json.dumps({"version": version, "accuracy": accuracy, "held_out": len(labels_test)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
