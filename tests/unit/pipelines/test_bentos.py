# SPDX-License-Identifier: Apache-2.0
"""Raw rows to a rendered Bento under the real `bentoml`: the answers of `packager serve`, and its refusals."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from packager.server import batch, config
from tests.matrix import raw_calls
from tests.matrix.raw_sources import PIPELINES, Raw
from tests.support import bentos_served
from tests.support.deployments import rendered
from tests.support.raw_client import Client
from tests.support.raw_models import Made

pytestmark = pytest.mark.slow  # BentoML starts in ten seconds


@contextmanager
def served(raw: Raw, folder: Path) -> Iterator[Client]:
    out = rendered("bentoml", raw_calls.bundle(raw, folder), folder / "bento")
    (folder / "home").mkdir()
    with bentos_served.served(out, "tiny:1.0.0", folder / "home") as (address, _):
        yield Client(int(address.rpartition(":")[2]))


def test_texts_in_answers_out(classifier: Made, tmp_path: Path) -> None:
    classifier.step(tmp_path / "pipeline", {"task": "text-classification"}, strings=20)
    raw = Raw(classifier, {"task": "text-classification"}, [], [])
    texts = ["a small cat", "", "naïve 東京 🙂"]
    with served(raw, tmp_path) as client:
        opened = batch.open_model(config.read(tmp_path / "bento" / "serve.json"), 1)
        expected = [row["answer"] for row in batch.answer_rows(opened, texts)]
        status, found = client.ask("/predict", {"rows": texts})
        assert status == 200 and scores(found) == [pytest.approx(row, abs=1e-6) for row in scores(expected)]
        assert client.ask("/predict", {"rows": [{"text": text} for text in texts]})[1] == found
        asked = tritonclient.http.InferInput("text", [3], "BYTES")
        asked.set_data_from_numpy(np.array([text.encode() for text in texts], object))
        with tritonclient.http.InferenceServerClient(client.address.removeprefix("http://")) as triton:
            answer = triton.infer("tiny", [asked])
            labels = [[label.decode() for label in row] for row in answer.as_numpy("label")]
            assert labels == [[item["label"] for item in row] for row in found]
            names = ("input_ids", "token_type_ids", "attention_mask")
            ids = [tritonclient.http.InferInput(name, [1, 3], "INT64") for name in names]
            for tensor in ids:
                tensor.set_data_from_numpy(np.ones((1, 3), np.int64))
            assert triton.infer("tiny", ids).as_numpy("logits").shape == (1, 3)
            asked.set_data_from_numpy(np.array([b"\xff"] * 3, object))
            with pytest.raises(InferenceServerException):
                triton.infer("tiny", [asked])
        for rows, said in (([], "rows, got 0"), ([{"text": 1}], "row 0"), ([{"text": "a", "more": 1}], "`more`")):
            status, refused = client.ask("/predict", {"rows": rows})
            assert status == 400 and said in json.dumps(refused), refused
        image = base64.b64encode(b"no picture").decode()
        assert client.ask("/predict", {"rows": [{"image": image}]})[0] == 400


def scores(answers: list[Any]) -> list[dict[str, float]]:
    return [{item["label"]: item["score"] for item in row} for row in answers]


def test_cells_of_a_table(tmp_path: Path) -> None:
    """Numbers and texts as they are, where the graph has one column of each; lists of one as before."""
    raw = PIPELINES["texts, categories, numbers"](tmp_path)
    with served(raw, tmp_path) as client:
        plain = client.ask("/predict", {"rows": raw.rows})
        listed = client.ask("/predict", {"rows": [{name: [cell] for name, cell in row.items()} for row in raw.rows]})
    assert plain[0] == 200 and plain == listed
    found = [raw.comparable(answer) for answer in plain[1]]
    np.testing.assert_allclose(found, raw.expected, atol=1e-5)
