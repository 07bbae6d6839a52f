# SPDX-License-Identifier: Apache-2.0
"""Marian models as their authors save them: `source.spm`, `target.spm` and `vocab.json`, without `tokenizer.json`."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from tests.support import language_models

SPECIAL = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
LANGUAGES = (">>de<<", ">>fr_BE<<")
_SWAPPED = str.maketrans({"e": "ß", "a": "я", "i": "жд"})


def spm(pieces: Iterable[tuple[str, float, int]], algorithm: int = 1, more: bytes = b"") -> bytes:
    """Return a SentencePiece model of (text, score, kind), with settings of its normaliser `more`."""

    def field(number: int, content: bytes) -> bytes:
        size, rest = bytearray(), len(content)
        while rest >= 0x80:
            size.append(rest & 0x7F | 0x80)
            rest >>= 7
        return bytes([number << 3 | 2, *size, rest]) + content

    def piece(text: str, score: float, kind: int) -> bytes:
        return field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([3 << 3, kind])

    whole = b"".join(field(1, piece(*row)) for row in pieces)
    return whole + field(2, bytes([3 << 3, algorithm])) + field(3, more)


def train(folder: Path) -> list[str]:
    """Train both sides with sentencepiece, write the three files, and return the tokens in the order of their ids."""
    import sentencepiece

    source = [" ".join(part.split()) for key in sorted(topics)[:20] for part in topics[key].split("\n\n")]
    sides = {"source": source, "target": [line.swapcase().translate(_SWAPPED) for line in source]}
    tokens = [*list(SPECIAL.values())[:2], *LANGUAGES]
    for side, lines in sides.items():
        (folder / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
        asked = {"vocab_size": 300, "hard_vocab_limit": False, "num_threads": 1, "minloglevel": 2}
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "lines.txt"), model_prefix=str(folder / side), model_type="unigram", **asked
        )
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
        (folder / f"{side}.vocab").unlink()
        opened = sentencepiece.SentencePieceProcessor()
        opened.Load(str(folder / f"{side}.spm"))
        tokens += [opened.IdToPiece(number) for number in range(opened.GetPieceSize())]
    (folder / "lines.txt").unlink()
    tokens = [*dict.fromkeys(token for token in tokens if token != "<s>"), SPECIAL["pad"]]
    write_vocabulary(folder, tokens)
    return tokens


def write_vocabulary(folder: Path, tokens: Sequence[str]) -> None:
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))


def write(folder: Path, generation: dict[str, Any]) -> Path:
    """Save a seeded model with a trained tokenizer, as `save_pretrained` of MarianTokenizer leaves it."""
    from transformers import MarianTokenizer

    (folder / "spm").mkdir(parents=True)
    tokens = train(folder / "spm")
    last = len(tokens) - 1
    numbers = {"eos_token_id": 0, "pad_token_id": last, "decoder_start_token_id": last, "bos_token_id": 0}
    saved = folder / "model"
    rules = {**numbers, "bad_words_ids": [[last]], "forced_eos_token_id": 0, **generation}
    language_models.write(saved, "marian", generation=rules, vocab_size=len(tokens), **numbers)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        (saved / name).unlink(missing_ok=True)
    paths = (str(folder / "spm" / name) for name in ("source.spm", "target.spm", "vocab.json"))
    MarianTokenizer(*paths, source_lang="en", target_lang="de").save_pretrained(saved)
    return saved
