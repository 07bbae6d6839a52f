# SPDX-License-Identifier: Apache-2.0
"""A rendered Bento under the real `bentoml`: it builds, serves typed batches and the protocol, and is a model too."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.e2e.conftest import Project
from tests.support import bentos_served

pytestmark = pytest.mark.slow

AS_MODEL = """
import sys, json, bentoml, numpy
import bentoml.onnx
model = bentoml.models.import_model(sys.argv[1], "folder")
session = bentoml.onnx.load_model(f"{model.tag.name}:{model.tag.version}")
images = numpy.full((2, 1, 8, 8), 0.5, numpy.float32)
print(json.dumps([str(model.tag), model.info.metadata["bundle"], session.run(None, {"image": images})[0].tolist()]))
"""


@pytest.fixture(scope="module")
def bento(deployable: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bento") / "cnn"
    done = deployable.run(
        "render",
        "bentoml",
        "1.2.3.bundle.tar",
        out,
        "--key",
        "release.pub",
        "--set",
        "bentoml.max_latency=5000",
        "--set",
        "batch.max=16",
        "--json",
    )
    assert done["steps"][0] == f"cd {out} && bentoml build --version 1.2.3"
    return out


def post(url: str, document: Any) -> tuple[int, Any]:
    request = urllib.request.Request(url, json.dumps(document).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_it_serves_typed_batches_and_the_protocol(bento: Path, tmp_path: Path) -> None:
    session = onnxruntime.InferenceSession(bento / "model" / "saved_model.onnx")
    images = np.random.default_rng(5).random((48, 1, 8, 8), dtype=np.float32)
    expected = session.run(None, {"image": images})[0]
    with bentos_served.served(bento, "cnn:1.2.3", tmp_path) as (url, log), ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda row: post(f"{url}/predict", {"rows": [{"image": row.tolist()}]}), images))
        assert {status for status, _ in answers} == {200}
        got = np.array([body[0]["output"] for _, body in answers])
        np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-4)
        metrics = urllib.request.urlopen(f"{url}/metrics").read().decode()
        runs = re.search(r'adaptive_batch_size_count{[^}]*method_name="predict"[^}]*} ([0-9.]+)', metrics)
        assert runs
        assert float(runs[1]) < len(images), "some requests ran together"
        about = json.loads(urllib.request.urlopen(f"{url}/v2/models/cnn").read())
        assert about["parameters"]["digest"] == json.loads((bento / "deployment.json").read_text())["bundle"]
        assert json.loads(urllib.request.urlopen(f"{url}/v2/knobs").read())["values"]["batch.max"] == 16
        wrong = "ERROR", "WARNING", "Traceback"
        assert not [row for row in log.read_text().splitlines() if any(word in row for word in wrong)]
        status, reason = post(f"{url}/predict", {"rows": [{"image": [0.5] * 64}]})
        assert (status, "expected shape [1, 8, 8], got [64]" in reason) == (400, True)
        tensor = {"name": "image", "shape": [17, 1, 8, 8], "datatype": "FP32", "data": [0.5] * 64 * 17}
        status, reason = post(f"{url}/v2/models/cnn/infer", {"inputs": [tensor]})
        assert (status, "`batch` of 1 to 16, got 17" in reason) == (400, True)


def test_a_bad_row_fails_its_own_request_alone(bento: Path, tmp_path: Path) -> None:
    """Rows of several requests run together, and the contract is held against each before."""
    rows = [np.full((1, 8, 8), 0.5 if number % 4 else 7, np.float32).tolist() for number in range(64)]
    with bentos_served.served(bento, "cnn:1.2.3", tmp_path) as (url, _), ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda row: post(f"{url}/predict", {"rows": [{"image": row}]}), rows))
    assert [status for status, _ in answers] == [200 if number % 4 else 400 for number in range(64)]
    assert "image" in answers[0][1] and "7" in answers[0][1], answers[0][1]


def test_it_is_a_model_of_bentoml_too(bento: Path, tmp_path: Path) -> None:
    executable = bentos_served.python(bento)
    done = subprocess.run(
        [executable, "-c", AS_MODEL, bento / "model"],
        capture_output=True,
        text=True,
        check=False,
        env=bentos_served.environment(executable, tmp_path),
    )
    assert done.returncode == 0, done.stderr
    tag, digest, answer = json.loads(done.stdout.splitlines()[-1])
    session = onnxruntime.InferenceSession(bento / "model" / "saved_model.onnx")
    expected = session.run(None, {"image": np.full((2, 1, 8, 8), 0.5, np.float32)})[0]
    assert (tag, digest) == ("cnn:1.2.3", json.loads((bento / "deployment.json").read_text())["bundle"])
    np.testing.assert_allclose(answer, expected, atol=1e-5, rtol=1e-4)


def test_a_changed_file_is_not_served(bento: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(bento, tmp_path / "changed")
    graph = changed / "model" / "saved_model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    refused = pytest.raises(AssertionError, match="is not the file of the bundle")
    with refused, bentos_served.served(changed, "cnn:1.2.3", tmp_path):
        pass
