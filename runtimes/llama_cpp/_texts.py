# SPDX-License-Identifier: Apache-2.0
"""What `tokenizer.json` is in GGUF: tokens, their types, merges, and how texts are split, by a name.

llama.cpp knows ways to split a text by name alone, and takes a wrong name without a word. So a name is chosen only
where `tokenizer.json` splits exactly as llama.cpp's source does under that name; any other way ends the build.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.errors import StepError
from packager.formats.gguf_texts import CONTROL, NORMAL, UNUSED, USER, name_split

_HINT = "promise `onnxruntime` instead: there the tokenizer's own library reads it"


def describe(path: Path, template: str | None, special: JSON, size: int) -> dict[str, Any]:
    """Return the pairs of a tokenizer. Raises StepError for one that llama.cpp would not repeat."""
    table = json.loads(path.read_bytes())
    model = table["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise StepError("the tokenizer is no byte-level BPE, which is what is written as GGUF here", hint=_HINT)
    if table.get("normalizer") is not None and table["normalizer"].get("type") != "NFC":
        raise StepError("the tokenizer normalises texts, which llama.cpp does not do", hint=_HINT)
    added = {row["id"]: row for row in table.get("added_tokens", [])}
    texts = {number: text for text, number in model["vocab"].items()} | {n: row["content"] for n, row in added.items()}
    if outside := [number for number in texts if number >= size]:
        raise StepError(f"the tokenizer has the token {max(outside)}, and the model a vocabulary of {size}", hint=_HINT)
    first, last = _around(table.get("post_processor"), special)
    found: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": choose_name(table.get("pre_tokenizer")),
        "tokenizer.ggml.tokens": [texts.get(number, f"[PAD{number}]") for number in range(size)],
        "tokenizer.ggml.token_type": [_type(number, texts, added) for number in range(size)],
        "tokenizer.ggml.merges": [item if isinstance(item, str) else " ".join(item) for item in model["merges"]],
        "tokenizer.ggml.add_bos_token": first,
        "tokenizer.ggml.add_eos_token": last,
    }
    ids = {"bos": special["bos"], "eos": next(iter(special["eos"]), None), "padding": special["pad"]}
    found |= {f"tokenizer.ggml.{name}_token_id": number for name, number in ids.items() if number is not None}
    return found | ({"tokenizer.chat_template": template} if template is not None else {})


def _type(number: int, texts: Mapping[int, str], added: Mapping[int, Mapping[str, Any]]) -> int:
    if number in added:
        return CONTROL if added[number].get("special") else USER
    return NORMAL if number in texts else UNUSED


def choose_name(split: JSON) -> str:
    """Return llama.cpp's name of a way to split texts. Raises StepError for one that it has no name for here."""
    name = name_split(split)
    if name is None:
        raise StepError("the tokenizer splits texts in a way that llama.cpp has no name for here", hint=_HINT)
    return name


def _around(processor: JSON, special: JSON) -> tuple[bool, bool]:
    """Return whether texts begin with the first token and end with the last one. Raises StepError for anything else."""
    steps: Sequence[JSON] = processor["processors"] if processor and processor["type"] == "Sequence" else [processor]
    for step in steps:
        if step is None or step["type"] == "ByteLevel":
            continue
        if step["type"] != "TemplateProcessing":
            raise StepError(f"the tokenizer's `{step['type']}` has no form in GGUF", hint=_HINT)
        ids = [
            _only(step["special_tokens"], part["SpecialToken"]["id"]) if "SpecialToken" in part else None
            for part in step["single"]
        ]
        place = ids.index(None)
        before, after = ids[:place], ids[place + 1 :]
        if before not in ([], [special["bos"]]) or after not in ([], [next(iter(special["eos"]), None)]):
            raise StepError("the tokenizer puts other tokens around texts than GGUF has words for", hint=_HINT)
        return bool(before), bool(after)
    return False, False


def _only(table: Mapping[str, Any], name: str) -> int:
    (number,) = table[name]["ids"]
    return int(number)
