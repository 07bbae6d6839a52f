# SPDX-License-Identifier: Apache-2.0
"""Small real MLflow registries for tests, and how tests speak to the source under test.

MLflow's global tracking address points at a closed port between writes: whatever uses it instead of the recipe's fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from packager.errors import PackagerError
from packager.events import ignore
from packager.sources import Pin, Settings
from packager.sources import mlflow as source

NOWHERE = "http://127.0.0.1:1"


@dataclass(frozen=True)
class Registry:
    """What the fixture logged: where, and under which ids."""

    base: Path
    artifacts: Path
    pt2: str
    pickled: str
    onnx: str
    run: str

    @property
    def settings(self) -> Settings:
        return Settings(self.base, timeout=5)


@contextlib.contextmanager
def client_of(tracking: str) -> Iterator[Any]:
    """Point MLflow's global state at a registry while a test writes to it, and at nothing afterwards."""
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.set_tracking_uri(tracking)
    try:
        mlflow.set_experiment(experiment_id="0")  # another test's experiment is not of this registry
        yield mlflow
    finally:
        mlflow.set_tracking_uri(NOWHERE)


def log_models(tracking: str, artifacts: str | None = None) -> tuple[str, str, str, str]:
    """Log one small network in three forms, as versions 1 to 3 of `digits`; alias `champion` on 1, `next` on 3."""
    import mlflow.onnx
    import mlflow.pytorch
    import numpy as np
    import onnx.helper
    import torch

    example = np.zeros((2, 4), np.float32)
    network = torch.nn.Linear(4, 2).eval()
    signature = mlflow.models.infer_signature(example, example[:, :2])
    x, y = (onnx.helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    common = {"signature": signature, "registered_model_name": "digits", "pip_requirements": ["numpy"]}
    with client_of(tracking):
        mlflow.set_experiment(experiment_id=mlflow.create_experiment("made", artifact_location=artifacts))
        pickled = {"serialization_format": "pickle", **common}
        pt2 = {"input_example": example, "serialization_format": "pt2", **common}
        with mlflow.start_run() as run:
            forms = [
                mlflow.pytorch.log_model(network, name="pt2", **pt2),
                mlflow.pytorch.log_model(network, name="pickled", **pickled),
                mlflow.onnx.log_model(made, name="graph", **common),
            ]
            mlflow.log_text("plain", "notes/a.txt")
        client = mlflow.MlflowClient()
        client.set_registered_model_alias("digits", "champion", "1")
        client.set_registered_model_alias("digits", "next", "3")
    return forms[0].model_id, forms[1].model_id, forms[2].model_id, run.info.run_id


def fetched(pin: Pin, settings: Settings, out: Path) -> dict[str, bytes]:
    out.mkdir(exist_ok=True)
    source.fetch(Pin.from_json(json.loads(json.dumps(pin.to_json()))), settings, out, ignore)
    assert not any(path.is_symlink() for path in out.rglob("*"))
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def refusal(ref: str, settings: Settings) -> PackagerError:
    with pytest.raises(PackagerError) as caught:
        source.resolve(ref, settings)
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"
    assert "\n" not in caught.value.message
    return caught.value


def state(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}
