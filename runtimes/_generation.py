# SPDX-License-Identifier: Apache-2.0
"""What compilers of models that generate text have in common: the special tokens of a tokenizer by name."""

from __future__ import annotations

import json
from pathlib import Path

from packager.canonical import JSON


def find_special_names(tokenizer: Path, special: JSON) -> dict[str, str]:
    """Return the texts of the special tokens of `generation`, under the names that transformers gives them."""
    added = {row["id"]: row["content"] for row in json.loads(tokenizer.read_bytes()).get("added_tokens", [])}
    ids = {"bos_token": special["bos"], "eos_token": next(iter(special["eos"]), None), "pad_token": special["pad"]}
    return {name: added[number] for name, number in ids.items() if number in added}
