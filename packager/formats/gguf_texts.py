# SPDX-License-Identifier: Apache-2.0
"""Ways to split texts before byte pairs are merged: by llama.cpp's name, and as `tokenizer.json` writes them.

llama.cpp knows them by name alone, and transformers reads no names. A wrong way gives other ids without a word, so both
directions know the same few, whose patterns are equal on both sides.

Source: llama.cpp `src/llama-vocab.cpp` (b-series of September 2026), `tokenizers` 0.23 for `ByteLevel` and `Digits`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from packager.canonical import JSON
from packager.formats.gguf import Header

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS: Mapping[str, str] = {
    "llama-bpe": _WORDS + r"\p{N}{1,3}" + _REST,
    "qwen2": _WORDS + r"\p{N}" + _REST,
}
NORMAL, CONTROL, USER, UNUSED = 1, 3, 4, 5
"""Types of tokens."""
NAMES = ("gpt-2", "smollm", *_PATTERNS)


def name_split(split: JSON) -> str | None:
    """Return llama.cpp's name of a `pre_tokenizer`, None where it has none that is known here."""
    parts = split.get("pretokenizers") if isinstance(split, dict) and split.get("type") == "Sequence" else [split]
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        return None
    kinds, last = [part.get("type") for part in parts], parts[-1]
    if kinds[-1] != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if last.get("use_regex", True):
        one_by_one = kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits")
        return "gpt-2" if len(kinds) == 1 else "smollm" if one_by_one else None
    if kinds != ["Split", "ByteLevel"] or parts[0].get("behavior") != "Isolated" or parts[0].get("invert"):
        return None
    pattern = parts[0].get("pattern", {}).get("Regex")
    return next((name for name, known in _PATTERNS.items() if known == pattern), None)


def split_of(name: str) -> JSON:
    """Return the `pre_tokenizer` that llama.cpp calls by a name of `NAMES`."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": name not in _PATTERNS}
    if name == "gpt-2":
        return level
    first: JSON = {"type": "Digits", "individual_digits": True}
    if name in _PATTERNS:
        first = {"type": "Split", "pattern": {"Regex": _PATTERNS[name]}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [first, level]}


def build_tokenizer(header: Header) -> bytes:
    """Return the tokenizer of a file as `tokenizer.json`. Raises ValueError for one that is not understood."""
    values = {key.removeprefix("tokenizer.ggml."): value for key, value in header.values.items()}
    if values.get("model") != "gpt2" or values.get("pre") not in NAMES:
        found = " split as ".join(f"`{values.get(name)!s:.40}`" for name in ("model", "pre"))
        raise ValueError(f"its tokenizer is {found}, and `gpt2` is read, split as {', '.join(NAMES)}")
    tokens, kinds, merges = (_listed(values.get(name), name) for name in ("tokens", "token_type", "merges"))
    if len(kinds) != len(tokens) or len({*tokens}) != len(tokens):
        raise ValueError("its tokens are not all different, or have not one type each")
    added = [
        {"id": number, "content": text, "special": kind == CONTROL, **_AS_IS}
        for number, (text, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (CONTROL, USER)
    ]
    vocabulary = {text: number for number, text in enumerate(tokens)}  # added ones too: else they get other ids
    table = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": split_of(str(values["pre"])),
        "post_processor": _around(values, tokens),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", **_PLAIN, "vocab": vocabulary, "merges": [_pair(merge) for merge in merges]}
        | {"ignore_merges": values["pre"] == "llama-bpe"},
    }
    return json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()


_AS_IS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
_PLAIN = {
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
}


def _listed(value: object, name: str) -> Sequence[object]:
    kind = int if name == "token_type" else str
    if not isinstance(value, list) or not all(type(item) is kind for item in value):
        raise ValueError(f"its `tokenizer.ggml.{name}` is no list of its kind")
    return value


def _pair(merge: object) -> list[str]:
    parts = str(merge).split(" ")
    if len(parts) != 2:
        raise ValueError(f"`{merge!s:.40}` is no merge of two")
    return parts


def _around(values: Mapping[str, object], tokens: Sequence[object]) -> JSON:
    """Return what puts the first and the last token around texts, None for neither."""
    step, texts = [{"Sequence": {"id": "A", "type_id": 0}}], {}
    for name, place in (("bos", 0), ("eos", 2)):
        if values.get(f"add_{name}_token") is not True:
            continue
        number = values.get(f"{name}_token_id")
        if type(number) is not int or not 0 <= number < len(tokens):
            raise ValueError(f"it puts a token `{name}` around texts and names none")
        text = str(tokens[number])
        step.insert(place, {"SpecialToken": {"id": text, "type_id": 0}})
        texts[text] = {"id": text, "ids": [number], "tokens": [text]}
    pair = [*step, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": step, "pair": pair, "special_tokens": texts} if texts else None
