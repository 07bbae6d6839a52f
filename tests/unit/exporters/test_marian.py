# SPDX-License-Identifier: Apache-2.0
"""Marian tokenizers in their authors' form against transformers' own class, and what of them is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from packager.errors import StepError
from packager.exporters._generation import files, marian
from packager.pipelines.strings import draw_strings
from packager.server.generation.tokenizer import Tokenizer
from tests.support import marian_models
from tests.unit.exporters.test_seq2seq import EXPORT as COMMON
from tests.unit.exporters.test_seq2seq import STEPS, TEXTS, Made, findings, measure, reference, run

PIECES = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
PIECES += [("\u2581", -3.0, 1), ("a", -2.0, 1), ("b", -2.5, 1), ("ab", -3.0, 1), ("\u2581ab", -3.5, 1)]
TOKENS = ["</s>", "<unk>", ">>de<<", "\u2581", "a", "b", "ab", "\u2581ab", "ß", "\u2581яж", "яж", "abß", "ba", "<pad>"]


def tokenizer(folder: Path) -> Tokenizer:
    (folder / "tokenizer.json").write_bytes(marian.tokenizer_json(folder, marian_models.SPECIAL))
    return Tokenizer.open(folder / "tokenizer.json")


def write(folder: Path, spm: bytes | None = None, tokens: list[str] = TOKENS) -> Path:
    (folder / "source.spm").write_bytes(marian_models.spm(PIECES) if spm is None else spm)
    marian_models.write_vocabulary(folder, tokens)
    return folder


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("ab a", ["\u2581ab", "\u2581", "a"]),
        ("  abab ", ["\u2581ab", "ab"]),
        (">>de<< ab", [">>de<<", "\u2581ab"]),
        (">>xx<<ab", ["<unk>", "\u2581ab"]),
        ("ab</s>ab", ["\u2581ab", "</s>", "\u2581ab"]),
        ("aß", ["\u2581", "a", "ß"]),  # a token of the target, as a whole run of unknown characters
        ("ßß b", ["\u2581", "<unk>", "\u2581", "b"]),
        ("яжa", ["\u2581", "яж", "a"]),
        ("abß", ["\u2581ab", "ß"]),
        ("çbaç", ["\u2581", "<unk>", "b", "a", "<unk>"]),  # a token of the target that the source could spell
        ("a\ufdd0\U00100000b", ["\u2581", "a", "<unk>", "b"]),
    ],
)
def test_texts_are_split_as_marian_does(text: str, tokens: list[str], tmp_path: Path) -> None:
    assert tokenizer(write(tmp_path)).encode(text) == [TOKENS.index(token) for token in [*tokens, "</s>"]]


def test_ids_of_both_sides_become_one_text(tmp_path: Path) -> None:
    ids = [TOKENS.index(token) for token in (">>de<<", "\u2581яж", "ß", "\u2581", "abß", "<pad>", "</s>")]
    assert tokenizer(write(tmp_path)).decode(ids) == ">>de<< яжß abß"


@pytest.mark.parametrize(
    ("spm", "tokens", "words"),
    [
        (b"no model", TOKENS, "it is no SentencePiece model"),
        (b"", TOKENS, "it has 0 pieces"),
        (marian_models.spm(PIECES, algorithm=2), TOKENS, "not a unigram model"),
        (marian_models.spm(PIECES, more=b"\x18\x00"), TOKENS, "ordinary treatment of blanks"),
        (marian_models.spm([*PIECES, ("q", 0.0, 4)]), TOKENS, "pieces that a user defined"),
        (marian_models.spm([*PIECES, ("a", float("nan"), 1)]), TOKENS, "a score that is no number"),
        (None, [token for token in TOKENS if token != "ab"], "`ab` is missing, and 0 others"),
        (marian_models.spm([*PIECES, ("bc", -1.0, 1)]), TOKENS, "`c` is missing"),
        (None, [*TOKENS, "x\ufdd0"], r"reserved character U\+FDD0"),
    ],
)
def test_what_has_no_such_form_is_refused(spm: bytes | None, tokens: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=words) as refused:
        marian.tokenizer_json(write(tmp_path, spm, tokens), marian_models.SPECIAL)
    assert "save_pretrained" in (refused.value.hint or "")


def test_ids_have_no_gaps_and_there_is_one_vocabulary(tmp_path: Path) -> None:
    for table in ({"</s>": 0, "a": 2}, {"</s>": 0, "a": 0}, {"</s>": "0"}, []):
        (write(tmp_path) / "vocab.json").write_text(json.dumps(table))
        with pytest.raises(StepError, match="the ids are not 0, 1, 2"):
            marian.tokenizer_json(tmp_path, marian_models.SPECIAL)
    (write(tmp_path) / "target_vocab.json").write_text("{}")
    with pytest.raises(StepError, match="a vocabulary for each side"):
        marian.tokenizer_json(tmp_path, marian_models.SPECIAL)


def test_the_library_that_transformers_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (write(tmp_path, b"no model") / "config.json").write_text('{"model_type": "marian"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "MarianTokenizer"}')
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(StepError, match="cannot be opened") as refused:
        files.open_tokenizer(tmp_path, tmp_path)
    assert "model-packager[marian]" in (refused.value.hint or "")


def test_ids_and_texts_are_those_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    from transformers import MarianTokenizer

    tokens = marian_models.train(tmp_path)
    theirs: Any = MarianTokenizer(*(str(tmp_path / name) for name in ("source.spm", "target.spm", "vocab.json")))
    own = tokenizer(tmp_path)
    drawn = random.Random(0)
    rows = [list(theirs("жд я, я").input_ids)]
    for text in ("жд я, я", ">>fr_BE<< Hello", *draw_strings(300, tokens=theirs.all_special_tokens)):
        rows.append(list(theirs(text).input_ids))
        assert own.encode(text) == rows[-1], text
    rows += [[drawn.randrange(len(tokens)) for _ in range(drawn.randrange(20))] for _ in range(300)]
    for row in rows:
        assert own.decode(row) == theirs.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False), row


@pytest.mark.slow  # half a minute of tracing
def test_a_model_as_its_authors_save_it(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    source = marian_models.write(tmp_path / "made", {"num_beams": 4, "max_length": 40})
    assert not (source / "tokenizer.json").exists()
    facts = run("export_generation", {"source": source}, tmp_path / "graph", {**COMMON, "task": TEXTS})
    made = Made(source, tmp_path / "graph", reference(source, tmp_path / "reference"), facts, TEXTS)
    cases = measure(made, tmp_path / "m")
    assert len(cases) >= 7 and findings(cases) == []
    answers = json.loads((made.reference / "outputs.json").read_text())["prompts"]
    assert len({tuple(row["tokens"]) for row in answers}) > 2 and max(len(row["tokens"]) for row in answers) == STEPS
    assert all(row["beams"]["tokens"] for row in answers)
