# SPDX-License-Identifier: Apache-2.0
"""The values of its input columns that matter to a fitted model, found by walking backwards through its steps.

What a step looks at is turned into what its inputs must be for that: thresholds of trees, centres and spreads of
scalers, known categories, words of vocabularies.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from packager.exporters._tables import critical as _critical
from packager.exporters._trees.ensemble import list_thresholds

Values: TypeAlias = list[Any]  # of one column
TEXTS = (
    "",
    " ",
    "a",
    "!?",
    "caf\u00e9 cafe\u0301",
    "\u4f60\u597d\uff0c\u4e16\u754c",
    "\U0001f600 ok",
    "\u0130stanbul KAD\u0130R",
    "\u039f\u0394\u039f\u03a3",
    "STRASSE Stra\u00dfe",
    "don't stop",
    "x_1 y-2 3.14",
    "a\tb\n\nc",
    "\u212aelvin",
)


def critical_columns(model: Any, width: int, names: Sequence[str] = ()) -> list[Values]:
    """Return for each of `width` input columns the values that matter to a fitted model."""
    return _back(model, width, names, None)


def _back(step: Any, width: int, names: Sequence[str], wanted: list[Values] | None) -> list[Values]:
    """Return what the input columns of a step should be; `wanted` is the same for its outputs, if requested."""
    rows, edges = _asked(step, width, names, wanted), _edges(step)
    return [[*own, *more] for own, more in zip(edges, rows, strict=True)] if len(edges) == len(rows) else rows


def _edges(step: Any) -> list[Values]:
    """Return, by column, where a transformer turns from one formula to the next; nothing for one that has none."""
    width = getattr(step, "n_features_in_", 0)
    if hasattr(step, "bin_edges_"):
        return [own.tolist() for own in step.bin_edges_]
    if hasattr(step, "bsplines_"):
        return [own.t.tolist() for own in step.bsplines_]
    if hasattr(step, "quantiles_"):
        return [list(own) for own in step.quantiles_.T.tolist()]
    return [[float(step.threshold)]] * width if type(step).__name__ == "Binarizer" else []


def _asked(step: Any, width: int, names: Sequence[str], wanted: list[Values] | None) -> list[Values]:
    if hasattr(step, "steps"):
        return _pipeline([part for _, part in step.steps], width, names, wanted)
    if hasattr(step, "transformers_"):
        return _columns(step, width, names, wanted)
    if hasattr(step, "token_pattern"):
        return [_texts(step)]
    if hasattr(step, "categories_"):
        return [_categories(known) for known in step.categories_]
    if hasattr(step, "inverse_transform") and wanted is not None and len(wanted) == width:
        return _inverted(step, wanted)
    if hasattr(step, "statistics_") and wanted is not None and len(wanted) >= width:
        known = [[*own, value] for own, value in zip(wanted, step.statistics_.tolist(), strict=False)]
        return known if len(known) == width else _nothing(width)
    return _thresholds(step, width)


def _nothing(width: int) -> list[Values]:
    return [[] for _ in range(width)]


def _pipeline(steps: Sequence[Any], width: int, names: Sequence[str], wanted: list[Values] | None) -> list[Values]:
    steps = [step for step in steps if step not in (None, "passthrough")]
    if not steps:
        return wanted if wanted is not None and len(wanted) == width else _nothing(width)
    widths = [width, *(getattr(step, "n_features_in_", 0) for step in steps[1:])]
    for step, own in reversed(list(zip(steps, widths, strict=True))):
        wanted = _back(step, own, names if step is steps[0] else (), wanted)
    return wanted or _nothing(width)


def _columns(step: Any, width: int, names: Sequence[str], wanted: list[Values] | None) -> list[Values]:
    """Split the outputs of a column transformer among its parts, and put together what they want."""
    found = _nothing(width)
    fitted = [str(name) for name in getattr(step, "feature_names_in_", names)]
    for name, part, chosen in step.transformers_:
        positions = _chosen(chosen, fitted, width)
        outputs = step.output_indices_.get(name, slice(0, 0))
        own = wanted[outputs] if wanted is not None else None
        if part == "drop":
            continue
        values = (own or _nothing(len(positions))) if part == "passthrough" else _back(part, len(positions), (), own)
        for position, value in zip(positions, values, strict=False):
            target = list(names).index(fitted[position]) if names and fitted else position
            found[target] = [*found[target], *value]
    return found


def _chosen(chosen: Any, fitted: Sequence[str], width: int) -> list[int]:
    """Return the positions of the columns that a part of a column transformer takes."""
    if isinstance(chosen, str | int):
        chosen = [chosen]
    if isinstance(chosen, slice):
        return list(range(width))[chosen]
    listed = list(chosen)
    if listed and all(isinstance(item, bool) or type(item).__name__ == "bool" for item in listed):
        return [position for position, taken in enumerate(listed) if taken]
    return [fitted.index(item) if isinstance(item, str) else int(item) for item in listed]


def _inverted(step: Any, wanted: list[Values]) -> list[Values]:
    """Return what a scaler turns into the wanted values, and into a few standard ones."""
    numpy = importlib.import_module("numpy")
    lists = [[*(value for value in own if math.isfinite(value)), 0.0, 1.0, -1.0, 3.0] for own in map(_numbers, wanted)]
    rows = numpy.zeros((max(map(len, lists)), len(lists)))
    for index, own in enumerate(lists):
        rows[: len(own), index] = own
    try:
        back = numpy.asarray(step.inverse_transform(rows), dtype="float64")
    except Exception:  # an inverse is a hint for where to look: an estimator may raise what it likes
        return _nothing(len(wanted))
    back = _critical.round_apart(step, back)
    return [back[: len(own), index].tolist() for index, own in enumerate(lists)] if back.shape == rows.shape else lists


def _numbers(values: Iterable[Any]) -> list[float]:
    return [float(value) for value in values if isinstance(value, int | float)]


def _categories(known: Any) -> Values:
    return [item for item in known.tolist() if item is not None]


def _texts(step: Any) -> Values:
    """Return texts made of a vocabulary: its words alone, in capitals and titles, and side by side with others."""
    vocabulary = getattr(step, "vocabulary_", {})  # hashed words have none
    words = sorted(vocabulary, key=lambda word: int(vocabulary[word]))
    chosen = [words[index * len(words) // min(len(words), 48)] for index in range(min(len(words), 48))]
    single = [form for word in chosen for form in (word, word.upper(), word.title())]
    joined = [f"{a}, {around} {b.upper()}." for a, b, around in zip(chosen, chosen[1:], TEXTS * 4, strict=False)]
    pairs = [" ".join(chosen[start : start + 5]) for start in range(0, len(chosen), 3)]
    return list(dict.fromkeys([*TEXTS, *single, *joined, *pairs]))


def _thresholds(step: Any, width: int) -> list[Values]:
    """Return the thresholds of every tree inside an estimator and its members, by column."""
    found = _nothing(width)
    for splits in _splits(step):
        for column, threshold in splits:
            if 0 <= column < width:
                found[column].append(threshold)
    for member in _members(step):
        if getattr(member, "n_features_in_", None) == width:
            for own, more in zip(found, _back(member, width, (), None), strict=True):
                own += [value for value in more if not isinstance(value, str)]
    return [sorted(set(values)) for values in found]


def _splits(step: Any) -> Iterator[Iterable[tuple[int, float]]]:
    """Yield column and threshold of the splits of the trees that belong to an estimator itself."""
    grown = _critical.ensembles(step)
    if grown:
        for column, values in enumerate(list_thresholds(grown)):
            yield [(column, value) for value in values]


def _members(step: Any) -> list[Any]:
    """Return the estimators that a meta-estimator gives its own input to."""
    if hasattr(step, "calibrated_classifiers_"):
        return [item.estimator for item in step.calibrated_classifiers_]
    members = getattr(step, "estimators_", ())
    return list(getattr(members, "ravel", lambda: members)())
