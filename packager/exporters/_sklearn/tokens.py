# SPDX-License-Identifier: Apache-2.0
r"""Words and characters of texts in ONNX Runtime's operators: cut, lowered, moved, counted.

Measured over all of Unicode 15 and glibc 2.36:

* Python's `\w` is `[\p{L}\p{N}_]` to RE2, so a tokenizer for the usual patterns exists.
* `StringNormalizer` (locale `C.UTF-8`) lowers like Python but for two letters. `İ` becomes two characters in Python,
  of which the second ends a word; so the words are cut before they are lowered, by a pattern that ends one at `İ`.
  A final `Σ` becomes `ς` in Python; a vocabulary in which that can matter is refused.
* `StringNormalizer` fails on a batch without words, so every text gets one more, which no vocabulary holds.

A *unit* is a word or a character; the units of a batch are [batch, most units of a text], filled with a pad.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from packager.errors import StepError
from packager.exporters._sklearn.builder import TEXT, Builder, Value

_WORDS = r"\p{L}\p{N}_"
_WORDS_BUT_I = r"(?:[^\P{L}İ]|[\p{N}_])"  # RE2 has no intersection of classes
_PATTERN = re.compile(
    r"(?:\(\?u\))?(?P<edge>\\b)?(?:(?P<pair>\\w\\w\+)|(?P<unit>\\w|\[[^\]\[\\]+\])(?P<count>\+|\{\d+,\}))(?P<end>\\b)?"
)


@dataclass(frozen=True, slots=True)
class Grams:
    """The n-grams of a vocabulary by their units, and which of `width` columns counts them; others are zero."""

    columns: dict[tuple[str, ...], int]
    width: int

    @property
    def units(self) -> set[str]:
        return {unit for gram in self.columns for unit in gram}

    @property
    def longest(self) -> int:
        return max(map(len, self.columns), default=1)


def pad_beside(stem: str, taken: set[str]) -> str:
    """Return a word that is none of those taken."""
    while stem in taken:
        stem += "#"
    return stem


def cut(builder: Builder, text: Value, expression: str, pad: str) -> Value:
    """Return the units that a pattern of RE2 finds in each text, behind one pad."""
    flat = builder.node("Reshape", [text.name, builder.constant([-1], "int64")])
    return _behind_pad(builder, _tokenize(builder, flat, expression, pad), pad)


def replace_all_but(builder: Builder, units: Value, expression: str, other: str, pad: str) -> Value:
    """Replace every unit in which a pattern finds nothing; it finds whole units, among them the pad."""
    found = _tokenize(builder, units.name, expression, other)
    return _behind_pad(builder, builder.node("Reshape", [found, builder.node("Shape", [units.name])]), pad)


def _tokenize(builder: Builder, texts: str, expression: str, filler: str) -> str:
    return builder.node("Tokenizer", [texts], domain=TEXT, mark=0, mincharnum=1, pad_value=filler, tokenexp=expression)


def _behind_pad(builder: Builder, units: str, pad: str) -> Value:
    """Put a pad before the units of each text.

    It is first of what is joined: onnx infers types from there, and crashes on a `LabelEncoder` of an unknown type.
    """
    rows = builder.node("Gather", [builder.node("Shape", [units]), builder.constant([0], "int64")])
    column = builder.node("Concat", [rows, builder.constant([1], "int64")], axis=0)
    pads = builder.node("Expand", [builder.constant([[pad]], "string"), column])
    return Value(builder.node("Concat", [pads, units], axis=1), "string", 1)


def lower_words(builder: Builder, units: Value, known: set[str]) -> Value:
    """Lower every word; the operator takes a line of them, and before 1.18 fails on one letter beyond U+FFFF."""
    line = builder.node("Reshape", [units.name, builder.constant([-1], "int64")])
    made = builder.node("StringNormalizer", [line], case_change_action="LOWER", locale="C.UTF-8", is_case_sensitive=1)
    lowered = Value(builder.node("Reshape", [made, builder.node("Shape", [units.name])]), "string", 1)
    return lower_letters(builder, units, {word for word in known if len(word) == 1 and word > "\uffff"}, lowered)


def lower_letters(builder: Builder, units: Value, known: set[str], otherwise: Value) -> Value:
    """Lower units that are one letter, whose lower form is known; take `otherwise` for all other units."""
    letters = [letter for letter in (*_capitals(), *sorted(known)) if letter.lower() in known and len(letter) == 1]
    if not letters:
        return otherwise
    code = builder.code_of(units, letters)
    table = builder.constant([letter.lower() for letter in letters], "string")
    found = builder.node("Gather", [table, builder.binary("Max", code, 0).name], axis=0)
    return replace(builder, builder.binary("Less", code, 0), otherwise, Value(found, "string", 1))


@functools.cache
def _capitals() -> tuple[str, ...]:
    return tuple(letter for letter in map(chr, range(sys.maxunicode + 1)) if letter.lower() != letter)


def is_one_of(builder: Builder, units: Value, known: Sequence[str]) -> Value:
    return builder.binary("GreaterOrEqual", builder.code_of(units, known), 0)


def replace(builder: Builder, where: Value, yes: str | Value, no: str | Value) -> Value:
    """Choose by unit between units, or one text for all."""
    sides = [side.name if isinstance(side, Value) else builder.constant([[side]], "string") for side in (yes, no)]
    return Value(builder.node("Where", [where.name, *sides]), "string", 1)


def move_behind(builder: Builder, units: Value, moved: Sequence[str], pad: str) -> Value:
    """Move some units behind the others, whose order stays, and make pads of them."""
    last = builder.cast(is_one_of(builder, units, moved), "int64")
    shape = builder.node("Shape", [units.name])
    position = builder.node("CumSum", [builder.node("Expand", [builder.constant([[1]]), shape]), builder.constant(1)])
    length = builder.node("Gather", [shape, builder.constant([1], "int64")])
    key = builder.node("Add", [position, builder.node("Mul", [last.name, length])])
    order = f"{builder.node('TopK', [key, length], outputs=2, axis=1, largest=0)}:1"
    ordered = Value(builder.node("GatherElements", [units.name, order], axis=1), "string", 1)
    behind = Value(builder.node("GatherElements", [last.name, order], axis=1), "int64", 1)
    return replace(builder, builder.cast(behind, "bool"), pad, ordered)


def interleave(builder: Builder, columns: Sequence[Value]) -> Value:
    """Put the units of several arrays [batch, units] one behind the other: first of all, second of all, …"""
    axis = builder.constant([2], "int64")
    deep = [builder.node("Unsqueeze", [column.name, axis]) for column in columns]
    made = builder.node("Concat", deep, axis=2)
    return Value(builder.node("Reshape", [made, builder.constant([0, -1], "int64")]), "string", 1)


def count(builder: Builder, units: Value, grams: Grams) -> Value:
    """Count the n-grams of a vocabulary."""
    counted = _counted(builder, units, grams) if grams.columns else []
    lacking = grams.width - sum(part.width for part in counted)
    zeros = [builder.spread(units, [0] * lacking, "float32")] if lacking else []
    return builder.concat([*counted, *zeros])


def _counted(builder: Builder, units: Value, grams: Grams) -> list[Value]:
    ordered = sorted(grams.columns, key=lambda gram: (len(gram), grams.columns[gram]))
    starts = [sum(len(gram) * (len(gram) < length) for gram in ordered) for length in range(1, grams.longest + 1)]
    made = builder.node(
        "TfIdfVectorizer",
        [units.name],
        mode="TF",
        max_skip_count=0,
        min_gram_length=len(ordered[0]),
        max_gram_length=grams.longest,
        ngram_counts=starts,
        ngram_indexes=[grams.columns[gram] for gram in ordered],
        pool_strings=[unit for gram in ordered for unit in gram],
    )
    return [Value(made, "float32", max(grams.columns.values()) + 1)]


# -- patterns


def tokenizer(pattern: str, *, lowered: bool) -> str:
    r"""Return the RE2 pattern that finds in the unchanged text the words that sklearn finds in the lowered one.

    `pattern` is a run of `\w` or of an ASCII class such as `[a-z0-9]`, at least so many. Raises StepError for others.
    """
    found = _PATTERN.fullmatch(pattern)
    inside = (found["unit"] or r"\w") if found else ""
    bounded = bool(found and (found["edge"] or found["end"]))
    if not found or (bounded and inside != r"\w") or not inside.isascii() or inside.startswith("[^"):
        raise StepError(
            f"token pattern `{pattern:.80}` has no proven form in ONNX Runtime's tokenizer",
            hint="use the default, a run of `\\w`, or a run of a class of ASCII characters such as `[a-z0-9]+`",
        )
    least = 2 if found["pair"] else 1 if found["count"] == "+" else int(found["count"][1:-2])
    return _expression(inside, max(least, 1), lowered)


def _expression(inside: str, least: int, lowered: bool) -> str:
    if not lowered:
        return f"[{_WORDS}]{{{least},}}" if inside == r"\w" else f"{inside}{{{least},}}"
    unit = _WORDS_BUT_I if inside == r"\w" else _before_lowering(inside)
    if not re.fullmatch(inside, "i"):
        return f"{unit}{{{least},}}"
    return f"{unit}{{{least - 1},}}İ|{unit}{{{least},}}"


def _before_lowering(inside: str) -> str:
    """Return the class of characters whose lower form is in the ASCII class `inside` (the Kelvin sign is a `k`)."""
    member = re.compile(inside)
    found = [chr(code) for code in (*range(128), 0x212A) if member.fullmatch(chr(code).lower())]
    return "[" + "".join(f"\\x{{{ord(letter):x}}}" for letter in found) + "]"
