# SPDX-License-Identifier: Apache-2.0
"""Pipelines derived from real sources: equal token ids, equal answers, and planted differences that end the build."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packager.errors import StepError
from packager.pipelines.strings import draw_strings
from packager.server.pipeline.pipeline import open_pipeline
from packager.server.protocol.interface import Interface
from tests.support.raw_models import Made


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies a source and changes members of one of its JSON files."""

    def change(source: Path, file: str, **members: Any) -> Path:
        shutil.copytree(source, tmp_path / "changed")
        path = tmp_path / "changed" / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **members}))
        return tmp_path / "changed"

    return change


def test_a_text_classifier(classifier: Made, tmp_path: Path) -> None:
    facts = classifier.step(tmp_path, {"task": "text-classification"})
    assert facts["inputs"] == 600 and facts["rows"] == 48 and facts["max_abs"] < 1e-5
    document = json.loads((tmp_path / "pipeline.json").read_text())
    assert document["answer"] == {
        "output": "logits",
        "function": "softmax",
        "labels": ["bad", "fair", "good"],
        "top": None,
    }
    assert document["text"]["longest"] == 40 and document["text"]["pairs"]


def test_a_token_classifier(tagger: Made, tmp_path: Path) -> None:
    for grouping in ("none", "simple"):
        facts = tagger.step(tmp_path / grouping, {"task": "token-classification", "grouping": grouping})
        assert facts["rows"] > 30 and facts["max_abs"] < 1e-5


def test_a_sentence_encoder_that_pads_on_the_left(encoder: Made, tmp_path: Path) -> None:
    facts = encoder.step(tmp_path, {"task": "sentence-embedding"})
    assert facts["rows"] == 48 and facts["max_abs"] < 1e-5
    assert json.loads((tmp_path / "pipeline.json").read_text())["text"]["longest"] == 24


def test_a_wrong_tokenizer_class_ends_the_build(classifier: Made, changed: Callable[..., Path], tmp_path: Path) -> None:
    source = changed(classifier.source, "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=False)
    with pytest.raises(StepError, match=r"gives other ids for `.*` than the source's `BertTokenizer`: expected"):
        classifier.step(tmp_path / "out", {"task": "text-classification"}, source=source)


def test_another_vocabulary_ends_the_build(tagger: Made, changed: Callable[..., Path], tmp_path: Path) -> None:
    """The file says one thing, the class that the source names makes another of it."""
    source = changed(tagger.source, "tokenizer_config.json", tokenizer_class="RobertaTokenizer", add_prefix_space=True)
    with pytest.raises(StepError, match="gives other ids for"):
        tagger.step(tmp_path / "out", {"task": "token-classification"}, source=source)


def test_another_function_ends_the_build(classifier: Made, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"answers `A small cat sits on the mat\.` otherwise"):
        classifier.step(tmp_path, {"task": "text-classification", "function": "sigmoid"})


def test_labels_that_are_too_few(classifier: Made, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="returns 3 scores, and 2 labels are named"):
        classifier.step(tmp_path, {"task": "text-classification", "labels": ["a", "b"]})


def test_more_tokens_than_the_model_takes(classifier: Made, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="is 1000, and the model takes 48 tokens") as caught:
        classifier.step(tmp_path, {"task": "text-classification", "max-length": 1000})
    assert caught.value.edits[0].value == 48


def test_pairs_and_a_lower_top(classifier: Made, tmp_path: Path) -> None:
    classifier.step(tmp_path, {"task": "text-classification"}, strings=50)
    pipeline = open_pipeline(tmp_path, Interface.from_json(classifier.interface))
    one, pair = pipeline.prepare(["a"]), pipeline.prepare([{"text": "a", "text_pair": "b"}])
    assert pair.feeds["token_type_ids"].max() == 1 and pair.token_count > one.token_count


def test_the_strings_are_the_same_everywhere() -> None:
    found = list(draw_strings(4000))
    assert found == list(draw_strings(4000)) and found[:500] == list(draw_strings(500))
    assert len(set(found)) > 3900 and "" in found and any(len(text) >= 20000 for text in found)
    assert sum(any(0x0900 <= ord(character) < 0x0E00 for character in text) for text in found) > 300


@pytest.mark.slow  # three tokenizer families over 100,000 strings
@pytest.mark.parametrize("family", ["classifier", "tagger", "encoder"])
def test_a_hundred_thousand_strings(family: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    task = {"classifier": "text-classification", "tagger": "token-classification", "encoder": "sentence-embedding"}
    facts = request.getfixturevalue(family).step(tmp_path, {"task": task[family]}, strings=100_000)
    assert facts["inputs"] == 100_000
