# SPDX-License-Identifier: Apache-2.0
"""Tensors and raw rows to the real `mlserver`: the answers of `packager serve`, refusals, and changed files."""

from __future__ import annotations

import base64
import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from packager.server import batch, config
from tests.matrix import raw_calls
from tests.matrix.raw_sources import Raw
from tests.support import mlservers
from tests.support.deployments import rendered
from tests.support.raw_models import Made
from tests.unit.deploy.test_mlflow import LINEAR, bundle_of, linear
from tests.unit.pipelines.test_ways import PICTURES

JSON = {"content-type": "application/json"}
pytestmark = pytest.mark.slow  # its environment is 70 packages


def post(server: mlservers.Running, model: str, *inputs: dict[str, Any]) -> tuple[int, Any]:
    body = json.dumps({"inputs": inputs}).encode()
    address = f"{server.http}/v2/models/{model}/infer"
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, JSON), timeout=60) as answer:
            return answer.status, {item["name"]: item for item in json.loads(answer.read())["outputs"]}
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]


def given(name: str, datatype: str, data: Any, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data}


def test_texts_and_tensors(classifier: Made, tmp_path: Path) -> None:
    """Two models in one server, each with a program of its own."""
    classifier.step(tmp_path / "pipeline", {"task": "text-classification"}, strings=20)
    raw = Raw(classifier, {"task": "text-classification"}, [], [])
    texts = ["a small cat", "", "naïve 東京 🙂"]
    out = rendered("mlserver", raw_calls.bundle(raw, tmp_path), tmp_path / "classifier")
    other = rendered("mlserver", bundle_of(tmp_path / "store", linear(), LINEAR), tmp_path / "linear")
    settings = json.loads((other / "model-settings.json").read_text())
    (other / "model-settings.json").write_text(json.dumps({**settings, "name": "linear"}))
    opened = batch.open_model(config.read(out / "serve.json"), 1)
    expected = [row["answer"] for row in batch.answer_rows(opened, texts)]
    with mlservers.served(tmp_path / "home", out, other) as server:
        status, found = post(server, "tiny", given("text", "BYTES", texts, 3))
        assert status == 200 and found["label"]["shape"] == [3, len(expected[0])]
        assert found["label"]["data"] == [item["label"] for row in expected for item in row]
        np.testing.assert_allclose(
            found["score"]["data"], [item["score"] for row in expected for item in row], atol=1e-6
        )
        asked = tritonclient.grpc.InferInput("text", [3], "BYTES")
        asked.set_data_from_numpy(np.array([text.encode() for text in texts], object))
        with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
            answer = client.infer("tiny", [asked])
            assert [cell.decode() for cell in answer.as_numpy("label").ravel()] == found["label"]["data"]
            asked.set_data_from_numpy(np.array([b"\xff"] * 3, object))
            with pytest.raises(InferenceServerException, match="expected UTF-8"):
                client.infer("tiny", [asked])
        names = ("input_ids", "token_type_ids", "attention_mask")
        status, found = post(server, "tiny", *(given(name, "INT64", [[1, 1, 1]], 1, 3) for name in names))
        assert (status, found["logits"]["shape"]) == (200, [1, 3])
        status, found = post(server, "linear", given("x", "FP32", [1, 0, 0, 0], 1, 4))
        assert (status, found["y"]["data"], found["total"]["data"]) == (200, [0, 1], [1])
        refusals = (
            (given("x", "FP32", [0.0] * 36, 9, 4), "`batch` of 1 to 8, got 9"),
            (given("x", "FP32", [0.0] * 3, 1, 4), "expected 4 elements"),
            (given("x", "INT64", [0] * 4, 1, 4), "expected datatype FP32"),
            (given("z", "FP32", [0.0] * 4, 1, 4), "unknown input"),
        )
        for wrong, said in refusals:
            status, reason = post(server, "linear", wrong)
            assert (status, said in reason) == (400, True), reason


def test_pictures(pictures_model: Made, tmp_path: Path) -> None:
    """In base64 over HTTP, as they are over gRPC."""
    pictures_model.step(tmp_path / "pipeline", {"task": "image-classification"}, strings=20)
    raw = Raw(pictures_model, {"task": "image-classification"}, [], [])
    out = rendered("mlserver", raw_calls.bundle(raw, tmp_path), tmp_path / "out")
    coded = [base64.b64encode(data).decode() for data in PICTURES]
    opened = batch.open_model(config.read(out / "serve.json"), 1)
    expected = [item["label"] for row in batch.answer_rows(opened, coded) for item in row["answer"]]
    with mlservers.served(tmp_path / "home", out) as server:
        status, found = post(server, "tiny", given("image", "BYTES", coded, len(coded)))
        assert (status, found["label"]["data"]) == (200, expected)
        asked = tritonclient.grpc.InferInput("image", [len(coded)], "BYTES")
        asked.set_data_from_numpy(np.array(PICTURES, object))
        with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
            answer = client.infer("tiny", [asked]).as_numpy("label")
        assert [cell.decode() for cell in answer.ravel()] == expected
        status, reason = post(server, "tiny", given("image", "BYTES", [base64.b64encode(b"no picture").decode()], 1))
        assert status == 400 and "row 0" in reason


@pytest.mark.parametrize("name", ["bundle/model/model.onnx", "serve.json", "server/batch.py"])
def test_a_changed_byte_is_not_served(name: str, tmp_path: Path) -> None:
    out = rendered("mlserver", bundle_of(tmp_path / "store", linear(), LINEAR), tmp_path / "out")
    changed = shutil.copytree(out, tmp_path / "changed")
    (file,) = [*changed.glob(name), *changed.glob(f"packaged_*/{name}")]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with (
        pytest.raises(AssertionError, match="is not the file of the bundle"),
        mlservers.served(tmp_path / "home", changed),
    ):
        pass
