# SPDX-License-Identifier: Apache-2.0
"""Characters of texts, as `analyzer='char'` and `'char_wb'` cut them: runs of white space are one space.

Characters are units of one character. What Python makes of one unit (a letter that it lowers to two, the spaces around
a word) is written beside it, in arrays of the same shape that are interleaved; what stays empty moves to the end.
"""

from __future__ import annotations

from typing import Any

from packager.exporters._sklearn import refuse, tokens
from packager.exporters._sklearn.builder import Builder, Value
from packager.exporters._sklearn.tokens import Grams

_SPACES = r"\x{9}-\x{d}\x{1c}-\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
_PAD, _EMPTY = "##", "#-"  # no text has them for a character


def cut_characters(builder: Builder, model: Any, text: Value, grams: Grams) -> tuple[Value, str]:
    """Return the characters of texts, and what they are filled with."""
    if model.analyzer == "char":
        found = tokens.cut(builder, text, f"(?s)[{_SPACES}][{_SPACES}]+|.", _PAD)
        columns = [tokens.replace_all_but(builder, found, f"(?s)^.$|^{_PAD}$", " ", _PAD)]
    else:
        found = tokens.cut(builder, text, f"(?s)[{_SPACES}]+|.", _PAD)
        columns = [tokens.replace_all_but(builder, found, f"^[^{_SPACES}]$|^{_PAD}$", _EMPTY, _PAD)]
    if model.lowercase:
        columns = _lowered(builder, columns[0], grams.units)
    if model.analyzer == "char_wb":
        columns = _bounded(builder, columns)
    if len(columns) == 1:
        return columns[0], _PAD
    return tokens.move_behind(builder, tokens.interleave(builder, columns), [_EMPTY], _PAD), _PAD


def grams_of_characters(model: Any) -> Grams:
    """Return the n-grams of the lengths that are counted; `char_wb` counts a word shorter than that as a whole."""
    if model.lowercase and any("σ" in gram or "ς" in gram for gram in model.vocabulary_):
        refuse(
            model,
            "counts the letter `σ`: Python lowers a final `Σ` to `ς`, ONNX's StringNormalizer to `σ`",
            hint="lower the text before the model and use `lowercase=False`",
        )
    shortest, longest = model.ngram_range
    columns: dict[tuple[str, ...], int] = {}
    for gram, column in model.vocabulary_.items():
        if model.analyzer == "char_wb" and "  " in gram:
            continue  # no word holds it, so it is never counted
        word = model.analyzer == "char_wb" and 3 <= len(gram) < shortest and gram[0] == gram[-1] == " "
        if shortest <= len(gram) <= longest or word:
            columns[tuple(gram)] = int(column)
    return Grams(columns, len(model.vocabulary_))


def _lowered(builder: Builder, units: Value, known: set[str]) -> list[Value]:
    """Lower the characters that count; `İ` becomes `i` and a dot above, as in Python."""
    dotted = tokens.is_one_of(builder, units, ["İ"])
    lowered = tokens.lower_letters(builder, units, known, units)
    return [tokens.replace(builder, dotted, "i", lowered), tokens.replace(builder, dotted, "\u0307", _EMPTY)]


def _bounded(builder: Builder, columns: list[Value]) -> list[Value]:
    """Put a space before and behind every word; no n-gram of the vocabulary spans the two between words."""
    outside = builder.cast(tokens.is_one_of(builder, columns[0], [_EMPTY, _PAD]), "int64")
    inside = builder.binary("Equal", outside, 0)
    first = builder.binary("And", inside, _neighbour(builder, outside, before=True))
    last = builder.binary("And", inside, _neighbour(builder, outside, before=False))
    return [
        tokens.replace(builder, first, " ", _EMPTY),
        *columns,
        tokens.replace(builder, last, " ", _EMPTY),
    ]


def _neighbour(builder: Builder, flags: Value, *, before: bool) -> Value:
    """Return the flags of the unit before or behind, true at the ends."""
    start, stop = ([0], [-1]) if before else ([1], [1 << 62])
    inner = builder.node("Slice", [flags.name, *(builder.constant(item, "int64") for item in (start, stop, [1]))])
    end = builder.spread(flags, [1], "int64")
    names = [end.name, inner] if before else [inner, end.name]
    return builder.cast(Value(builder.node("Concat", names, axis=1), "int64", 1), "bool")
