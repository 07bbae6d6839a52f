# SPDX-License-Identifier: Apache-2.0
"""The real server over derived pipelines: raw requests in three ways, hostile ones, and the page."""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http

from packager.server.pipeline.document import digest_of
from packager.server.pipeline.pipeline import open_pipeline
from packager.server.protocol.interface import Interface
from tests.support.raw_client import Client
from tests.support.raw_models import Made

TEXTS = ["a small cat", "", "naïve 東京 🙂", "word " * 500]


@contextmanager
def serving(made: Made, folder: Path, *options: str, raw: bool = True) -> Iterator[Client]:
    config: dict[str, Any] = {
        "name": "model",
        "version": "1.0.0",
        "digest": f"sha256:{'0' * 64}",
        "runtime": "onnxruntime",
        "target": "onnxruntime-cpu-fp32",
        "artefact": str(made.graph / "model" / "model.onnx"),
        "interface": made.interface,
    }
    if raw:
        digest = digest_of((folder / "pipeline.json").read_bytes())
        config["pipeline"] = {"path": "pipeline.json", "digest": digest}
    (folder / "serve.json").write_text(json.dumps(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "packager.server", str(folder / "serve.json"), "--port", str(port), *options]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log)
    client = Client(port)
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()
            try:
                if client.ask("/v2/health/ready")[0] == 200:
                    break
            except OSError:
                pass
            time.sleep(0.1)
        yield client
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def classes(classifier: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("served")
    classifier.step(folder, {"task": "text-classification"}, strings=20)
    with serving(classifier, folder) as client:
        yield client


@pytest.fixture(scope="module")
def vectors(encoder: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("served")
    encoder.step(folder, {"task": "sentence-embedding"}, strings=20)
    with serving(encoder, folder) as client:
        yield client


def test_three_ways_give_one_answer(classes: Client) -> None:
    found = classes.predict(TEXTS)
    assert [len(row) for row in found] == [3] * 4 and {item["label"] for item in found[0]} == {"bad", "fair", "good"}
    assert all(row == sorted(row, key=lambda item: -item["score"]) for row in found)
    assert [classes.predict([text])[0] for text in TEXTS[:2]] == [
        [{**item, "score": pytest.approx(item["score"], abs=1e-6)} for item in row] for row in found[:2]
    ]
    raw = tritonclient.http.InferInput("text", [4], "BYTES")
    raw.set_data_from_numpy(np.array([text.encode() for text in TEXTS], object))
    with tritonclient.http.InferenceServerClient(classes.address.removeprefix("http://")) as triton:
        answer = triton.infer("model", [raw])
    labels, scores = answer.as_numpy("label"), answer.as_numpy("score")
    assert [[label.decode() for label in row] for row in labels] == [[item["label"] for item in row] for row in found]
    assert np.allclose(scores, [[item["score"] for item in row] for row in found], atol=1e-6)


def test_tensors_are_taken_as_before(classes: Client) -> None:
    names = ("input_ids", "token_type_ids", "attention_mask")
    inputs = [{"name": name, "datatype": "INT64", "shape": [1, 3], "data": [[1, 1, 1]]} for name in names]
    status, answer = classes.ask("/v2/models/model/infer", {"inputs": inputs})
    assert status == 200 and answer["outputs"][0]["shape"] == [1, 3]


def test_rows_of_every_form(classes: Client) -> None:
    assert classes.ask("/predict", {"text": "a cat"})[1]["answers"] == classes.predict(["a cat"])
    assert classes.ask("/predict", ["a cat"])[1]["answers"] == classes.predict(["a cat"])
    assert classes.ask("/predict", b"a cat", content_type="text/plain")[1]["answers"] == classes.predict(["a cat"])
    packed = gzip.compress(b'{"rows": ["a cat"]}')
    assert classes.ask("/predict", packed, content_encoding="gzip")[1]["answers"] == classes.predict(["a cat"])
    assert len(classes.predict(["a cat"], top=1)[0]) == 1
    assert classes.predict([{"text": "a", "text_pair": "b"}]) != classes.predict(["a"])


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b'"a"', 400, "an object with `rows`"),
        (b'{"rows": 1}', 400, "a list of objects or texts"),
        (b'{"rows": []}', 400, "rows, got 0"),
        (b'{"rows": [1]}', 400, "a list of objects or texts"),
        (b'{"rows": [{}]}', 400, "row 0: expected a `text`"),
        (b'{"rows": [{"text": 1}]}', 400, "row 0: expected a `text`"),
        (b'{"rows": [{"text": "a", "more": 1}]}', 400, "unknown member `more`"),
        (b'{"rows": ["a"], "more": 1}', 400, "unknown member `more`"),
        (b'{"rows": ["a"], "top": 0}', 400, "`top`"),
        (b'{"rows": ["\\ud800"]}', 400, "not JSON"),
        (b'{"rows": ["' + b"a" * 300_000 + b'"]}', 413, "at most 262144 characters"),
        (b"[" * 100_000, 400, "not JSON"),
        (b'{"rows": [' + b'{"text": "a"},' * 10_000 + b"1]}", 413, "objects"),
    ],
)
def test_hostile_bodies(classes: Client, body: bytes, status: int, said: str) -> None:
    got, answer = classes.ask("/predict", body)
    assert got == status and said in answer["error"], answer
    assert classes.ask("/v2/health/ready")[0] == 200


def test_other_types_of_bodies(classes: Client) -> None:
    assert classes.ask("/predict", b"x", content_type="application/x-tar")[0] == 415
    assert classes.ask("/predict")[0] == 405
    inputs = [{"name": "text", "datatype": "INT64", "shape": [1], "data": [1]}]
    assert classes.ask("/v2/models/model/infer", {"inputs": inputs})[0] == 400
    assert "not embeddings" in classes.ask("/v1/embeddings", {"input": "a"})[1]["error"]["message"]


def test_embeddings_as_openai_has_them(vectors: Client) -> None:
    status, answer = vectors.ask("/v1/embeddings", {"input": TEXTS, "model": "model"})
    assert status == 200 and answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 4
    expected = vectors.predict(TEXTS)
    assert np.allclose([item["embedding"] for item in answer["data"]], expected, atol=1e-7)
    assert np.allclose(np.linalg.norm(expected[0]), 1, atol=1e-5)
    packed = vectors.ask("/v1/embeddings", {"input": "a", "encoding_format": "base64"})[1]["data"][0]["embedding"]
    assert np.allclose(np.frombuffer(base64.b64decode(packed), "<f4"), vectors.predict(["a"])[0], atol=1e-6)
    for wrong in ({"input": [[1, 2]]}, {"input": "a", "dimensions": 3}, {"input": None}, {"input": "a", "model": "b"}):
        status, answer = vectors.ask("/v1/embeddings", wrong)
        assert status in (400, 404) and answer["error"]["type"] == "invalid_request_error"


def test_openais_client(vectors: Client) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{vectors.address}/v1", api_key="none", max_retries=0)
    answer = client.embeddings.create(model="model", input=TEXTS)
    assert np.allclose([item.embedding for item in answer.data], vectors.predict(TEXTS), atol=1e-6)
    with pytest.raises(openai.NotFoundError, match="unknown model"):
        client.embeddings.create(model="other", input="a")


def test_what_the_server_says_of_itself(vectors: Client) -> None:
    about = vectors.ask("/predict/about")[1]
    assert about["task"] == "sentence-embedding" and about["input"] == "text" and about["pairs"] is False
    paths = vectors.ask("/openapi.json")[1]["paths"]
    assert {"/predict", "/predict/about", "/v1/embeddings"} <= set(paths)


def test_the_page_requests_nothing_from_elsewhere(vectors: Client) -> None:
    with urllib.request.urlopen(f"{vectors.address}/") as answer:
        page, policy = answer.read().decode(), answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert not re.search(r"https?://|//[a-z]|innerHTML|eval\(", page)


def test_without_a_page_and_with_a_token(encoder: Made, tmp_path: Path) -> None:
    encoder.step(tmp_path, {"task": "sentence-embedding"}, strings=20)
    (tmp_path / "tokens").write_text("secret-token-of-a-client\n")
    (tmp_path / "tokens").chmod(0o600)
    with serving(encoder, tmp_path, "--page", "false", "--tokens", str(tmp_path / "tokens")) as client:
        assert client.ask("/", None)[0] in (401, 404)
        assert client.ask("/predict", {"rows": ["a"]})[0] == 401
        assert client.ask("/predict", {"rows": ["a"]}, authorization="Bearer secret-token-of-a-client")[0] == 200


def test_a_changed_tokenizer_does_not_start(encoder: Made, tmp_path: Path) -> None:
    encoder.step(tmp_path, {"task": "sentence-embedding"}, strings=20)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b"<unk>", b"<unq>"))
    with pytest.raises(ValueError, match=r"`tokenizer.json` is damaged"):
        open_pipeline(tmp_path, Interface.from_json(encoder.interface))
    with pytest.raises(AssertionError, match=r"tokenizer.json` is damaged"), serving(encoder, tmp_path):
        pass


def test_rows_of_a_bundle_without_a_pipeline(classifier: Made, tmp_path: Path) -> None:
    row = {"input_ids": [2, 5, 3], "token_type_ids": [0, 0, 0], "attention_mask": [1, 1, 1]}
    with serving(classifier, tmp_path, raw=False) as client:
        assert len(client.predict([row, row])[1]["logits"]) == 3
        assert client.ask("/predict", row)[1]["answers"] == client.predict([row])
        assert client.ask("/predict/about")[1]["outputs"] == ["logits"]
        for wrong in ("a text", {"rows": []}, {"rows": [{**row, "more": 1}]}, {"rows": [{"input_ids": [1]}]}):
            assert client.ask("/predict", wrong)[0] == 400
        assert client.ask("/predict", b"a,b\n1\n", content_type="text/csv")[0] == 400
        assert client.ask("/v1/embeddings", {"input": "a"})[0] == 404 == client.ask("/", None)[0]
