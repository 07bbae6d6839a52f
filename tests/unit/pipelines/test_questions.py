# SPDX-License-Identifier: Apache-2.0
"""Question answering: windows of long texts, passages as transformers finds them, and every way in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import transformers
import tritonclient.http

from packager.server.errors import RequestError
from packager.server.pipeline import passages
from packager.server.pipeline.parts import Passages
from packager.server.pipeline.pipeline import Pipeline, open_pipeline
from packager.server.pipeline.text import Tokens
from packager.server.protocol.interface import Interface
from tests.support.raw_models import Made, made
from tests.unit.pipelines.test_served import serving

SPEC = {"task": "question-answering", "max-length": 32}
ROW = {"question": "who sat?", "context": "A small cat sits on the mat. " * 8}


@pytest.fixture(scope="module")
def folder(reader: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pipeline")
    facts = reader.step(out, SPEC, strings=200)
    assert facts["inputs"] == 200 and facts["rows"] > 40 and facts["max_abs"] < 1e-5
    return out


@pytest.fixture(scope="module")
def opened(reader: Made, folder: Path) -> Pipeline:
    return open_pipeline(folder, Interface.from_json(reader.interface))


def test_a_long_text_has_windows(opened: Pipeline) -> None:
    prepared = opened.prepare([ROW, {"question": "a", "context": "b"}])
    assert prepared.windows[0] > 3 and prepared.windows[1] == 1
    assert prepared.count == sum(prepared.windows) == len(prepared.tokens)
    assert prepared.feeds["input_ids"].shape[1] <= 32


@pytest.mark.slow  # a second model; the first one has the windows
def test_a_byte_level_tokenizer(tmp_path: Path) -> None:
    model = (
        transformers.RobertaForQuestionAnswering,
        lambda **sizes: transformers.RobertaConfig(**sizes, pad_token_id=1),
    )
    facts = made(tmp_path, model, "byte-level").step(tmp_path / "out", {"task": "question-answering"}, strings=100)
    assert facts["rows"] > 40 and facts["max_abs"] < 1e-5


def test_every_way_in(reader: Made, folder: Path) -> None:
    with serving(reader, folder) as client:
        about = client.ask("/predict/about")[1]
        assert about["task"] == "question-answering" and about["columns"] == ["question", "context"]
        (answer,) = client.predict([ROW])
        (best,) = answer
        assert best["text"] == ROW["context"][best["start"] : best["end"]] and 0 < best["score"] < 1
        assert client.ask("/predict", ROW)[1]["answers"] == [answer]
        assert [len(row) for row in client.ask("/predict", {"rows": [ROW, ROW], "top": 3})[1]["answers"]] == [3, 3]
        inputs = []
        for name, value in ROW.items():
            inputs.append(tritonclient.http.InferInput(name, [1], "BYTES"))
            inputs[-1].set_data_from_numpy(np.array([value.encode()], object))
        with tritonclient.http.InferenceServerClient(client.address.removeprefix("http://")) as triton:
            assert best["text"] in triton.infer("model", inputs).as_numpy("answer")[0].decode()
        for row in ({"question": "a"}, {"question": "", "context": "b"}, {"question": "a", "context": 1}, "a text"):
            status, refused = client.ask("/predict", {"rows": [row]})
            assert (status == 400 and "context" in refused["error"]) or "question" in refused["error"]
        status, refused = client.ask("/predict", {"rows": [{"question": "why " * 60, "context": "b"}]})
        assert status == 400 and "expected a question of at most 12 tokens" in refused["error"]


def test_no_answer_is_an_answer_where_that_is_stated() -> None:
    tokens = Tokens(np.array([2, 5, 3, 6, 7]), np.zeros(5), [(0, 0), (0, 1), (0, 0), (0, 3), (4, 7)], [1, 1, 1, 0, 0])
    starts, ends = np.array([4.0, 0, 0, 1, 0]), np.array([4.0, 0, 0, 0, 1])
    about = Passages("s", "e", 15, 2, 2, impossible=True)
    found = passages.find_passages(about, [(tokens, starts, ends)], "cat mat")
    assert [item["text"] for item in found] == ["", "cat mat"] and found[0]["score"] > 0.5
    (one,) = passages.find_passages(Passages("s", "e", 1, 1, 2, impossible=False), [(tokens, starts, ends)], "cat mat")
    assert one["text"] in ("cat", "mat")


def test_a_text_with_too_many_windows(reader: Made, folder: Path) -> None:
    interface = reader.interface | {"dimensions": reader.interface["dimensions"] | {"batch": {"min": 1, "max": 4}}}
    narrow = open_pipeline(folder, Interface.from_json(interface))
    with pytest.raises(RequestError, match="windows, and the model takes 4 at once") as caught:
        narrow.prepare([ROW])
    assert caught.value.status == 413
