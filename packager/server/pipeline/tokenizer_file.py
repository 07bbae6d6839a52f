# SPDX-License-Identifier: Apache-2.0
"""The bounds of a `tokenizer.json`, checked before the library opens it.

A tokenizer is data, and data may be hostile: a pattern of 100 MB, replacements that double a text forty times, steps
nested a thousand deep. What a real one holds is far inside these bounds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

MAX_FILE = 64 << 20  # bytes; the largest known, of 256,000 pieces in many scripts, has 34 MB
MAX_PATTERN = 4096  # characters of one pattern
MAX_PATTERNS = 1 << 16  # characters of all patterns
MAX_TEXT = 256  # characters that a step may insert
MAX_CHARACTER_MAP = 4 << 20  # characters of a precompiled map, in base64
MAX_STEPS = 256
MAX_GROWTH = 64  # how often a text may come to be as long, by all steps together
MAX_DEPTH = 12
_MODELS = ("BPE", "WordPiece", "Unigram", "WordLevel")
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def check(data: bytes) -> Mapping[str, Any]:
    """Return a tokenizer's JSON if it is within the bounds. Raises ValueError."""
    if len(data) > MAX_FILE:
        raise ValueError(f"the tokenizer is longer than {MAX_FILE} bytes")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the tokenizer is not JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict) or not isinstance(value.get("model"), dict):
        raise ValueError("the tokenizer has no `model`")
    kind = value["model"].get("type", "BPE")
    if kind not in _MODELS:
        raise ValueError(f"the tokenizer's model `{kind!s:.40}` is none of {', '.join(_MODELS)}")
    steps = [step for part in _PARTS for step in _steps(value.get(part), part, MAX_DEPTH)]
    if len(steps) > MAX_STEPS:
        raise ValueError(f"the tokenizer has {len(steps)} steps, expected at most {MAX_STEPS}")
    _check_patterns(steps)
    _check_growth(steps)
    return value


def _steps(value: Any, where: str, depth: int) -> Iterator[dict[str, Any]]:
    """Yield every step below a part, whatever it is nested in."""
    if depth == 0:
        raise ValueError(f"`{where}` of the tokenizer is nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        if "type" in value:
            yield value
        for member in value.values():
            yield from _steps(member, where, depth - 1)
    elif isinstance(value, list):
        for item in value:
            yield from _steps(item, where, depth - 1)


def _check_patterns(steps: list[dict[str, Any]]) -> None:
    total = 0
    for step in steps:
        pattern, is_map = _pattern(step), step.get("precompiled_charsmap")
        total += len(pattern)
        if len(pattern) > MAX_PATTERN or total > MAX_PATTERNS:
            raise ValueError(
                f"a pattern of the tokenizer (`{step['type']!s:.40}`) is longer than {MAX_PATTERN} characters"
            )
        if isinstance(is_map, str) and len(is_map) > MAX_CHARACTER_MAP:
            raise ValueError(f"the character map of the tokenizer is longer than {MAX_CHARACTER_MAP} characters")
        for name in ("content", "prepend", "replacement", "prefix", "suffix"):
            if isinstance(step.get(name), str) and len(step[name]) > MAX_TEXT:
                raise ValueError(f"`{name}` of a step of the tokenizer is longer than {MAX_TEXT} characters")


def _pattern(step: Mapping[str, Any]) -> str:
    pattern = step.get("pattern")
    if isinstance(pattern, dict):
        return next((text for text in pattern.values() if isinstance(text, str)), "")
    return pattern if isinstance(pattern, str) else ""


def _check_growth(steps: list[dict[str, Any]]) -> None:
    growth = 1.0
    for step in steps:
        content = step.get("content")
        if step.get("type") != "Replace" or not isinstance(content, str):
            continue
        plain = isinstance(step.get("pattern"), dict) and "String" in step["pattern"]
        growth *= max(1.0, len(content) / max(1, len(_pattern(step)) if plain else 1))
        if growth > MAX_GROWTH:
            raise ValueError(f"the replacements of the tokenizer make a text more than {MAX_GROWTH} times as long")
