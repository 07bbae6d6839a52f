# SPDX-License-Identifier: Apache-2.0
"""Train a scikit-learn classifier on its handwritten digits and register it in MLflow as `digits@champion`.

Usage: train.py FOLDER [C], where C is the penalty of the support vector machine. Writes FOLDER/mlflow.db,
FOLDER/artifacts and FOLDER/held-out.npz; the last line is JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import registered
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC


def main(folder: Path, penalty: float = 10) -> None:
    registered.say("load 1797 images of digits, 8x8 pixels each")
    digits = load_digits()
    images = digits.data.astype(np.float32)
    split = train_test_split(images, digits.target, test_size=0.25, random_state=0, stratify=digits.target)
    images_train, images_test, labels_train, labels_test = split
    registered.say("fit a scaler and a support vector machine")
    model = make_pipeline(StandardScaler(), SVC(C=penalty))
    model.fit(images_train, labels_train)
    accuracy = float((model.predict(images_test) == labels_test).mean())

    registered.say("start MLflow, with a registry in one file, and register the model")
    with registered.run(folder) as arguments:
        import mlflow.sklearn
        from mlflow.models import infer_signature

        signature = infer_signature(images_train[:4], model.predict(images_train[:4]))
        info = mlflow.sklearn.log_model(
            model, **arguments, signature=signature, input_example=images_train[:4], pip_requirements=["scikit-learn"]
        )
    version = registered.point(info)
    np.savez(folder / "held-out.npz", images=images_test, labels=labels_test)
    print(json.dumps({"version": version, "accuracy": accuracy, "held_out": len(labels_test)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *map(float, sys.argv[2:]))
