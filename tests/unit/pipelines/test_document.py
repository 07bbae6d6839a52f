# SPDX-License-Identifier: Apache-2.0
"""Documents of pipelines and tokenizers may be hostile: one sentence each, bounded, before a library opens them."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from packager.server.pipeline import document, tokenizer_file

VALID: dict[str, Any] = {
    "format": 1,
    "task": "text-classification",
    "text": {
        "file": "tokenizer.json",
        "digest": "sha256:" + "0" * 64,
        "longest": 8,
        "cut": "right",
        "pairs": True,
        "inputs": {"input_ids": "ids"},
        "padding": {"id": 0, "type": 0, "side": "right"},
    },
    "answer": {"output": "logits", "function": "softmax", "labels": ["a"], "top": None},
}
TOKENIZER: dict[str, Any] = {
    "model": {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"},
    "normalizer": None,
    "pre_tokenizer": None,
}


def parse(value: Any) -> document.Document:
    return document.parse(json.dumps(value).encode())


def test_a_document() -> None:
    found = parse(VALID)
    assert found.text is not None and found.text.inputs == {"input_ids": "ids"}
    assert found.files == {"tokenizer.json": VALID["text"]["digest"]}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("format",), 2, "`format`: expected 1"),
        (("format",), True, "`format`: expected 1"),
        (("task",), "translation", "`task`: expected one of"),
        (("task",), "image-classification", "which needs `image`"),
        (("more",), 1, "unknown key `more`"),
        (("text", "file"), "../../etc/passwd", "the name of a file"),
        (("text", "digest"), "sha1:0", "its digest"),
        (("text", "longest"), 10**9, "a whole number from 1"),
        (("text", "longest"), True, "a whole number from 1"),
        (("text", "cut"), "middle", "one of left, right"),
        (("text", "inputs"), {"mask": "mask"}, "an input for `ids`"),
        (("text", "padding"), {"id": 0}, "lacks `side`"),
        (("answer", "function"), "exec", "expected one of softmax"),
        (("answer", "labels"), [], "1 to 200000 texts"),
        (("answer", "labels"), [1], "1 to 200000 texts"),
        (("answer", "top"), 0, "a whole number from 1"),
        (("answer",), [], "is not an object"),
    ],
)
def test_refused(path: tuple[str, ...], value: Any, said: str) -> None:
    changed = copy.deepcopy(VALID)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ValueError, match=said):
        parse(changed)


IMAGE = {"input": "pixels", "channels": 3, "size": [64], "resampling": "bilinear", "crop": None, "scale": 0.1}
IMAGE |= {"mean": [], "deviation": [], "longest": 96, "multiple": 16, "mask": "pixel_mask"}
SOUND = {"input": "waves", "rate": 16000, "normalize": False}
SOUND |= {"mels": {"bands": 128, "frames": 1024, "mean": -4.0, "deviation": 4.5}}
BOXES = {"scores": "logits", "boxes": "pred_boxes", "function": "softmax", "labels": ["a"], "threshold": 0.5}
PASSAGES = {"start": "s", "end": "e", "longest": 15, "top": 1, "null": 2, "impossible": False}
CHOICES = {"output": "logits_per_image", "labels": [], "template": "a {}", "top": None}
TEXT = VALID["text"]
OTHERS: dict[str, dict[str, Any]] = {
    "object-detection": {"image": IMAGE, "answer": BOXES},
    "image-segmentation": {"image": IMAGE, "answer": {"output": "logits", "labels": ["a"]}},
    "audio-classification": {"audio": SOUND, "answer": VALID["answer"]},
    "question-answering": {"text": {**TEXT, "overlap": 4}, "answer": PASSAGES},
    "zero-shot-image-classification": {"image": IMAGE, "text": TEXT, "answer": CHOICES},
}


@pytest.mark.parametrize("task", OTHERS)
def test_other_tasks(task: str) -> None:
    found = parse({"format": 1, "task": task, **OTHERS[task]})
    assert found.task == task and found.columns[0] in ("question", "image", "audio")
    with pytest.raises(ValueError, match=r"is `text-classification`|expected one of|lacks `function`"):
        parse({"format": 1, "task": "text-classification", **OTHERS[task]})


@pytest.mark.parametrize(
    ("task", "part", "change", "said"),
    [
        ("object-detection", "image", {"longest": 10**6}, "a whole number from 1 to"),
        ("object-detection", "image", {"multiple": 0}, "a whole number from 1 to"),
        ("object-detection", "image", {"mask": 3}, "expected a string"),
        ("object-detection", "answer", {"function": "none"}, "one of softmax, sigmoid"),
        ("object-detection", "answer", {"threshold": "high"}, "expected a number"),
        ("audio-classification", "audio", {"rate": 10**9}, "a whole number from"),
        ("audio-classification", "audio", {"mels": {**SOUND["mels"], "deviation": 0}}, "a number that is not 0"),
        ("audio-classification", "audio", {"mels": {**SOUND["mels"], "frames": 10**9}}, "a whole number from"),
        ("question-answering", "text", {"overlap": 8}, "a whole number from 0 to 7"),
        ("question-answering", "text", {"overlap": None}, "`text.overlap` is for answers to questions"),
        ("question-answering", "answer", {"longest": 10**6}, "a whole number from 1 to 512"),
        ("zero-shot-image-classification", "answer", {"template": "a"}, "with one `{}`"),
        ("zero-shot-image-classification", "answer", {"template": "{}" * 9}, "with one `{}`"),
        ("zero-shot-image-classification", "answer", {"labels": ["a"] * 2000}, "at most 1000 texts"),
    ],
)
def test_other_tasks_refused(task: str, part: str, change: dict[str, Any], said: str) -> None:
    value = {"format": 1, "task": task, **OTHERS[task], part: {**OTHERS[task][part], **change}}
    with pytest.raises(ValueError, match=said):
        parse(value)


@pytest.mark.parametrize("data", [b"", b"[]", b"nul", b"\xff", b'{"format":' + b"[" * 100_000, b"1e999"])
def test_no_document(data: bytes) -> None:
    with pytest.raises(ValueError, match="pipeline"):
        document.parse(data)


def replace(content: str, pattern: Any) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def nested(depth: int) -> dict[str, Any]:
    step: dict[str, Any] = {"type": "NFC"}
    for _ in range(depth):
        step = {"type": "Sequence", "normalizers": [step]}
    return step


@pytest.mark.parametrize(
    ("normalizer", "said"),
    [
        (replace("", {"Regex": "a" * 5000}), "longer than 4096 characters"),
        ({"type": "Sequence", "normalizers": [replace("", {"Regex": "a" * 4000})] * 20}, "longer than 4096"),
        ({"type": "Sequence", "normalizers": [replace("aa", {"String": "a"})] * 40}, "64 times as long"),
        (replace("a" * 200, {"Regex": ""}), "64 times as long"),
        (replace("a" * 300, {"String": "b"}), "`content` of a step"),
        ({"type": "Prepend", "prepend": "x" * 10_000}, "`prepend` of a step"),
        ({"type": "Precompiled", "precompiled_charsmap": "A" * (5 << 20)}, "character map"),
        (nested(50), "nested deeper"),
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}] * 500}, "501 steps"),
    ],
)
def test_hostile_tokenizers(normalizer: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tokenizer_file.check(json.dumps({**TOKENIZER, "normalizer": normalizer}).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b'{"model": 1}', b'{"model": {"type": "Python"}}', b"[" * 200_000])
def test_no_tokenizer(data: bytes) -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        tokenizer_file.check(data)


def test_doublings_inside_a_real_tokenizers_bounds() -> None:
    sequence = {"type": "Sequence", "normalizers": [replace('"', {"String": "``"}), replace(" ", {"Regex": " {2,}"})]}
    assert tokenizer_file.check(json.dumps({**TOKENIZER, "normalizer": sequence}).encode())
