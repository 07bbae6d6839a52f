# SPDX-License-Identifier: Apache-2.0
"""A model rendered for MLServer: what MLServer reads of it, and what is not rendered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from packager.errors import UsageError
from packager.knobs.knobs import Override
from tests.support.deployments import rendered
from tests.unit.deploy.test_mlflow import LINEAR, bundle_of, linear


def test_settings_name_the_class_and_the_addresses(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "store", linear(), LINEAR)
    out = rendered("mlserver", bundle, tmp_path / "out", Override("server.port", "9000", "test"))
    server, model = (json.loads((out / name).read_text()) for name in ("settings.json", "model-settings.json"))
    assert (server["host"], server["http_port"]) == ("127.0.0.1", 9000)
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert model["parameters"]["extra"]["bundle"] == bundle.digest
    package, _, name = model["implementation"].partition(".")
    assert (out / package / "model.py").is_file() and name == "model.Model"
    record = json.loads((out / "deployment.json").read_text())
    assert {f"{package}/model.py", "serve.json"} <= set(record["program"])
    assert "bundle/model/model.onnx" in record["files"]


def test_a_bundle_cannot_bring_settings_of_its_own(tmp_path: Path) -> None:
    """MLServer imports what any `model-settings.json` below its directory names."""
    hostile = json.dumps({"name": "x", "implementation": "os.path"}).encode()
    bundle = bundle_of(tmp_path / "store", linear(), LINEAR, **{"model/model-settings.json": hostile})
    with pytest.raises(UsageError, match="has the name of MLServer's settings"):
        rendered("mlserver", bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()
