# SPDX-License-Identifier: Apache-2.0
"""A Marian tokenizer as its authors save it, as one `tokenizer.json`: `source.spm` splits, `vocab.json` numbers.

Three ways of transformers' MarianTokenizer have no member of their own in `tokenizer.json`, and are put into its steps:

* Pieces that the target alone has are never split off; but a run of characters that `source.spm` does not know becomes
  one of them if it is that piece as a whole. Such runs are set between two marks, and so are those pieces.
* A text that begins with a language (`>>de<<`) loses it to one token. Each language has a character of its own.
* Decoding joins pieces of both languages, and drops the marks.

Marks are noncharacters of Unicode; a text that holds one has an unknown character there, as before.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path

from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters._transformers.files import read_json
from packager.formats import sentencepiece

SOURCE, VOCABULARY = "source.spm", "vocab.json"
_BLANK, _STRANGE = "\u2581", "\ufdd1"
_OPEN, _CLOSE = "\ufdd0", "\ufdd2"
_FIRST, _LAST = 0x100000, 0x10FFFD  # private characters: one for each language, the last for one that is not known
_ANY = f"[{chr(_FIRST)}-{chr(_LAST)}]"
_MAX_BYTES = 64 << 20
_HINT = "load the model with a tokenizer that has a fast form, and save that with `save_pretrained(DIR)`"


def is_marian(folder: Path) -> bool:
    """Return whether a Marian tokenizer lies here in its authors' form."""
    return all((folder / name).is_file() for name in (SOURCE, VOCABULARY))


def tokenizer_json(folder: Path, special: Mapping[str, str]) -> bytes:
    """Return the tokenizer as `tokenizer.json`; `special` are the texts of `eos`, `unk` and `pad`. Raises StepError."""
    if (folder / SOURCE).stat().st_size > _MAX_BYTES:
        raise StepError(f"`{SOURCE}` is larger than {_MAX_BYTES} bytes", hint=_HINT)
    if (folder / "target_vocab.json").is_file():
        raise StepError("the tokenizer has a vocabulary for each side (`target_vocab.json`), expected one", hint=_HINT)
    try:
        model = sentencepiece.parse((folder / SOURCE).read_bytes())
        made = _build(model, _numbered(read_json(folder / VOCABULARY)), special)
    except ValueError as error:
        raise StepError(
            f"`{SOURCE}` and `{VOCABULARY}` have no form in `tokenizer.json`: {error}", hint=_HINT
        ) from error
    return json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode()


def _numbered(table: JSON) -> list[str]:
    """Return the tokens in the order of their ids."""
    if not isinstance(table, dict) or sorted(table.values(), key=str) != sorted(range(len(table)), key=str):
        raise ValueError("the ids are not 0, 1, 2, … of as many tokens")
    return sorted(table, key=lambda token: table[token])


def _build(model: sentencepiece.Model, tokens: list[str], special: Mapping[str, str]) -> JSON:
    if model.algorithm != sentencepiece.UNIGRAM or not model.plain:
        raise ValueError("it is not a unigram model with its ordinary treatment of blanks")
    kinds = {piece.kind for piece in model.pieces}
    if kinds & {sentencepiece.USER_DEFINED, sentencepiece.BYTE}:
        raise ValueError("it has pieces that a user defined, or bytes")
    own = {piece.text: piece.score for piece in model.pieces if piece.kind == sentencepiece.NORMAL}
    alphabet = {character for text in own for character in text} | {_BLANK}
    if missing := sorted(alphabet - {*own}) + sorted({*own, *special.values()} - {*tokens}):
        raise ValueError(f"`{missing[0]:.40}` is missing, and {len(missing) - 1} others")
    if reserved := sorted(c for c in {*"".join(tokens)} if c in (_OPEN, _CLOSE, _STRANGE) or _FIRST <= ord(c) <= _LAST):
        raise ValueError(f"a token has the reserved character U+{ord(reserved[0]):04X}")
    codes = [token for token in tokens if token.startswith(">>") and token.endswith("<<") and token not in own]
    stand_ins = {code: chr(_FIRST + number) for number, code in enumerate(codes)}
    lowest = min(own.values())
    entries: list[tuple[str, float]] = []
    for token in tokens:
        if token in own:
            entries.append((token, own[token]))
        elif token in special.values():
            entries.append((token, lowest))
        else:
            entries.append((stand_ins.get(token, f"{_OPEN}{token}{_CLOSE}"), lowest))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(tokens.index(text), text) for text in dict.fromkeys(special.values())],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model, alphabet, stand_ins)},
        "pre_tokenizer": None,
        "post_processor": _ending(special["eos"], tokens.index(special["eos"])),
        "decoder": {"type": "Sequence", "decoders": _decoders(stand_ins)},
        "model": {
            "type": "Unigram",
            "unk_id": tokens.index(special["unk"]),
            "vocab": entries,
            "byte_fallback": False,
        },
    }


def _added(number: int, text: str) -> JSON:
    as_is = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": text, "special": True, **as_is}


def _replace(pattern: str, content: str) -> JSON:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _normalizers(model: sentencepiece.Model, alphabet: set[str], stand_ins: Mapping[str, str]) -> list[JSON]:
    """Return the steps: languages, SentencePiece's own table and blanks, marks around what it does not know."""
    table = base64.b64encode(model.charsmap).decode()
    unknown = f"[^{''.join(map(_escaped, sorted(alphabet)))}{_OPEN}{_CLOSE}{_ANY[1:-1]}]"
    return [
        _replace(f"{_OPEN}|{_CLOSE}|{_ANY}", _STRANGE),
        *(_replace(rf"\A{re.escape(code)}", own) for code, own in stand_ins.items()),
        _replace(r"\A>>(?:(?!<<)[\s\S])*<<", chr(_LAST)),
        *([{"type": "Precompiled", "precompiled_charsmap": table}] if table else []),
        _replace(rf"\A +|(?<=\A{_ANY}) +", ""),
        _replace(" +", " "),
        _replace(rf"\A(?!{_ANY})(?=[\s\S])|(?<=\A{_ANY})(?=[\s\S])", _BLANK),
        _replace(" ", _BLANK),
        _replace(rf"{_BLANK}+\z", ""),
        _replace(rf"(?<!{unknown})(?={unknown})", _OPEN),
        _replace(rf"(?<={unknown})(?!{unknown})", _CLOSE),
    ]


def _escaped(character: str) -> str:
    return f"\\{character}" if character in r"\[]^-&" else character


def _decoders(stand_ins: Mapping[str, str]) -> list[JSON]:
    texts = {_OPEN: "", _CLOSE: "", **{own: code for code, own in stand_ins.items()}, _BLANK: " "}
    replaced: list[JSON] = [
        {"type": "Replace", "pattern": {"String": found}, "content": text} for found, text in texts.items()
    ]
    return [*replaced, {"type": "Fuse"}, _replace(r"\A\s+|\s+\z", "")]


def _ending(text: str, number: int) -> JSON:
    first: JSON = {"Sequence": {"id": "A", "type_id": 0}}
    second: JSON = {"Sequence": {"id": "B", "type_id": 0}}
    last: JSON = {"SpecialToken": {"id": text, "type_id": 0}}
    known = {text: {"id": text, "ids": [number], "tokens": [text]}}
    return {
        "type": "TemplateProcessing",
        "single": [first, last],
        "pair": [first, second, last],
        "special_tokens": known,
    }
