# SPDX-License-Identifier: Apache-2.0
"""A version is bumped and the lock is not: that it holds the old model is said, and whether its alias moved."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import onnx
import onnx.helper as h
import pytest

from packager.formats import platforms
from tests.e2e.conftest import Project
from tests.support.mlflow_registries import client_of


def log(tracking: str, operator: str, folder: Path) -> None:
    """Log a graph of one operator as the next version of `net`; its alias `champion` means it from now on."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    x, y = (h.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    made = h.make_model(
        h.make_graph([h.make_node(operator, ["x"], ["y"])], "g", [x], [y]),
        opset_imports=[h.make_opsetid("", 17)],
        ir_version=8,
    )
    rows = np.zeros((2, 4), np.float32)
    with client_of(tracking), contextlib.ExitStack() as stack:
        place = mlflow.create_experiment(operator, artifact_location=str(folder / operator))
        stack.enter_context(mlflow.start_run(experiment_id=place))
        found = mlflow.onnx.log_model(
            made,
            name="model",
            signature=mlflow.models.infer_signature(rows, rows),
            registered_model_name="net",
            pip_requirements=["numpy"],
        )
        mlflow.MlflowClient().set_registered_model_alias("net", "champion", str(found.registered_model_version))


@pytest.mark.slow  # test_watch.py moves an alias by default
def test_a_new_version_of_the_same_model_is_no_surprise(project: Callable[..., Project], tmp_path: Path) -> None:
    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    log(tracking, "Relu", tmp_path)
    here = project(
        f"name: net\nversion: 1.0.0\nsource: models:/net@champion\nregistry: {tracking}\nplatforms: [{platforms.name_host()}]\n"
    )
    assert "holds the model" not in here.run("build").stderr, "the first of its name"
    assert "holds the model" not in here.run("build").stderr, "the same version again"

    here.write((here.folder / "bundle.yaml").read_text().replace("1.0.0", "1.1.0"))
    said = here.run("build").stderr
    assert "warning: net:1.1.0 holds the model of 1.0.0" in said and "packager lock" not in said, "nothing moved"

    log(tracking, "Neg", tmp_path)
    said = here.run("build", "--replace").stderr
    assert "`models:/net@champion` means `models:/m-" in said and "run `packager lock`" in said
    asleep = here.run("build", "--locked").stderr
    assert "`packager lock` would take what `models:/net@champion` means now" in asleep, (
        "a locked build asks no registry"
    )

    source = here.run("inspect", "net:1.1.0", "--json")["source"]
    assert (source["name"], source["version"], source["reference"]) == ("net", "1", "models:/net@champion")
    assert "net version 1, as models:/net@champion" in here.run("inspect", "net:1.1.0").stdout
    here.run("lock")
    assert "holds the model" not in here.run("build", "--locked", "--replace").stderr
