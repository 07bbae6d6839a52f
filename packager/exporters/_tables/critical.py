# SPDX-License-Identifier: Apache-2.0
"""Rows that exercise a model for tables: one in every leaf of its trees, and what its family adds.

A value alone says little about a tree: a leaf is reached by several at once. So one row is made per leaf, alternately
on the last value that still goes there and on the first one beyond the other border. Rows are made where an estimator
looks and pulled back through the steps before it, as far as those have an inverse.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from packager.errors import StepError
from packager.exporters._sklearn import trees
from packager.exporters._sklearn.critical import critical_rows as family_rows
from packager.exporters._trees import lightgbm, xgboost
from packager.exporters._trees.ensemble import Ensemble, Members, Tree

_OFF = 1e-7
_EXACT = (  # what they compute is one operation after the other, the same everywhere
    "Binarizer",
    "KBinsDiscretizer",
    "MaxAbsScaler",
    "MinMaxScaler",
    "OneHotEncoder",
    "OrdinalEncoder",
    "RFE",
    "RFECV",
    "RobustScaler",
    "SelectFromModel",
    "SelectKBest",
    "SelectPercentile",
    "StandardScaler",
    "VarianceThreshold",
)
_IN = 0.5  # the border of a column that says whether a category is in a set: 0 it is, 1 it is not
_MOST = 4096  # rows of one estimator; more are thinned evenly


def rows(model: Any, width: int, names: Sequence[str]) -> Any:
    """Return critical rows [count, width] in the space of the model's inputs, None where none are known.

    Cells are numbers, or texts where an encoder's inverse gives them.
    """
    if hasattr(model, "steps"):
        return _through([step for _, step in model.steps if step not in (None, "passthrough")], width, names)
    members = [found for found in (rows(member, width, ()) for member in _members(model, width)) if found is not None]
    own = _own(model, width)
    found = [*members, *([own] if own is not None else [])]
    return _thinned(importlib.import_module("numpy").concatenate(found)) if found else None


def _through(steps: Sequence[Any], width: int, names: Sequence[str]) -> Any:
    """Return the rows of the last step, pulled back through the others."""
    widths = [width, *(getattr(step, "n_features_in_", 0) for step in steps[1:])]
    found = rows(steps[-1], widths[-1], ()) if steps else None
    for step, own in reversed(list(zip(steps[:-1], widths[:-1], strict=True))):
        if found is None:
            return None
        found = _pulled(step, found, own)
    return found


def _pulled(step: Any, made: Any, width: int) -> Any:
    """Return rows that a transformer turns into `made`, or what is near to that; None where it has no inverse."""
    numpy = importlib.import_module("numpy")
    if hasattr(step, "transformers_"):
        return _pulled_columns(step, made, width)
    if hasattr(step, "statistics_") and made.shape[1] >= width:
        return made[:, :width]
    if hasattr(step, "powers_"):  # of polynomials: the columns as they came
        own = (step.powers_.sum(axis=1) == 1) & (made.shape[1] == len(step.powers_))
        return made[:, numpy.argsort(step.powers_[own].argmax(axis=1))] if own.sum() == width else None
    if not hasattr(step, "inverse_transform") or hasattr(step, "vocabulary_"):  # the inverse of text is lists of words
        return None
    try:
        found = step.inverse_transform(made.astype("float64"))
    except Exception:  # an inverse is a hint for where to look: an estimator may raise what it likes
        return None
    found = numpy.asarray(found.toarray() if hasattr(found, "toarray") else found)
    return round_apart(step, found) if found.ndim == 2 and found.shape[1] == width else None


def round_apart(step: Any, values: Any) -> Any:
    """Return numbers pulled back through a step, off by a ten-millionth where the step rounds in another way.

    Powers, products of matrices and the like differ in their last bits between processors and between rows of one
    batch; a threshold behind them decides nothing about a number that stands on it.
    """
    if type(step).__name__ in _EXACT or values.dtype.kind not in "fiu":
        return values
    return values + _OFF * abs(values)


def _pulled_columns(step: Any, made: Any, width: int) -> Any:
    numpy = importlib.import_module("numpy")
    found = numpy.zeros((len(made), width), dtype="object")
    known = False
    for name, part, _ in step.transformers_:
        positions = [int(position) for position in getattr(step, "_transformer_to_input_indices", {}).get(name, ())]
        slots = step.output_indices_.get(name, slice(0, 0))
        if part == "drop" or not positions or slots.stop == slots.start:
            continue
        own = made[:, slots]
        back = own if part == "passthrough" else _pulled_part(part, own, len(positions))
        if back is not None and back.shape[1] == len(positions):
            found[:, positions] = back
            known = True
    return found if known else None


def _pulled_part(part: Any, made: Any, width: int) -> Any:
    if hasattr(part, "steps"):
        for step in reversed([step for _, step in part.steps if step not in (None, "passthrough")]):
            made = None if made is None else _pulled(step, made, width)
        return made
    return _pulled(part, made, width)


def _members(model: Any, width: int) -> list[Any]:
    """Return the estimators that look at the same rows as a meta-estimator."""
    found = [getattr(model, name) for name in ("estimator_", "best_estimator_", "regressor_") if hasattr(model, name)]
    found += [item.estimator for item in getattr(model, "calibrated_classifiers_", ())]
    listed = getattr(model, "estimators_", ())
    if not hasattr(model, "tree_") and _own_trees(model) is None:
        flat = getattr(listed, "ravel", lambda: listed)()
        found += [item[-1] if isinstance(item, tuple) else item for item in flat]
    return [item for item in found if getattr(item, "n_features_in_", width) == width and item is not model]


def _thinned(found: Any) -> Any:
    step = max(1, -(-len(found) // _MOST))
    return found[::step]


# -- what an estimator itself says


def _own(model: Any, width: int) -> Any:
    numpy = importlib.import_module("numpy")
    found = [_fitting(family_rows(model), width)]
    grown = ensembles(model)
    if grown:
        found.append(leaf_rows(grown, width))
    kept = [item for item in found if item is not None]
    return numpy.concatenate(kept) if kept else None


def _fitting(found: Any, width: int) -> Any:
    return found if found is not None and found.ndim == 2 and found.shape[1] == width else None


def ensembles(model: Any) -> Ensemble | None:
    """Return the trees of an estimator of any of the libraries, None for one without trees."""
    library = type(model).__module__.partition(".")[0]
    try:
        if library == "xgboost" and hasattr(model, "get_booster"):
            return xgboost.read(model.get_booster(), best=True).ensemble
        if library == "lightgbm" and hasattr(model, "booster_"):
            return lightgbm.read(model.booster_).ensemble
        return trees.ensemble_of(model)
    except StepError:  # what has no ONNX form is refused when it is written; here it only gives no hints
        return None


def _own_trees(model: Any) -> list[Any] | None:
    found = ensembles(model)
    return list(found.trees) if found else None


def leaf_rows(grown: Ensemble, width: int) -> Any:
    """Return two rows [count, width] for every leaf: on the last values that go there, and on the first ones.

    A threshold that is off by one step of its type sends one of them elsewhere. Categories are codes.
    """
    numpy = importlib.import_module("numpy")
    each = max(1, _MOST // (2 * max(1, len(grown.trees))))
    base = _ordinary(grown.trees, width)
    found = []
    for tree in grown.trees[:_MOST]:
        bounds = list(_leaves(tree))
        for borders in bounds[:: max(1, -(-len(bounds) // each))]:
            found += [_row(base, borders, grown, last=last) for last in (True, False)]
    return numpy.array(found) if found else None


def _row(base: Any, borders: dict[int, tuple[float, float]], grown: Ensemble, *, last: bool) -> Any:
    """Return a row that goes to the leaf behind `borders`; of a category one that is in its set, or is not."""
    row, columns = base.copy(), grown.columns
    for position, (low, high) in borders.items():
        made = columns.derived[position - columns.width] if position >= columns.width else None
        if isinstance(made, Members):
            inside = high <= _IN
            row[made.feature] = min(made.codes) if inside and made.codes else max(made.codes, default=-1) + 1
        elif position < len(row):
            row[position] = _inside(low, high, grown.compared, last=last)
        elif made is not None:
            row[made.feature] = _inside(low, high, grown.compared, last=last)
    return row


def _ordinary(grown: Sequence[Tree], width: int) -> Any:
    """Return a row of middle thresholds: what a column is where a leaf does not depend on it."""
    numpy = importlib.import_module("numpy")
    row = numpy.zeros(width)
    positions = numpy.concatenate([tree.column[~tree.leaf] for tree in grown])
    cuts = numpy.concatenate([tree.threshold[~tree.leaf].astype("float64") for tree in grown])
    for position in numpy.unique(positions):
        own = numpy.sort(cuts[(positions == position) & numpy.isfinite(cuts)])
        if position < width and len(own):
            row[position] = own[len(own) // 2]
    return row


def _leaves(tree: Tree) -> Iterator[dict[int, tuple[float, float]]]:
    """Yield for every leaf the borders of the columns that lead there: above the first, up to the second."""
    waiting: list[tuple[int, dict[int, tuple[float, float]]]] = [(0, {})]
    while waiting:
        node, borders = waiting.pop()
        if tree.leaf[node]:
            yield borders
            continue
        column, cut = int(tree.column[node]), float(tree.threshold[node])
        low, high = borders.get(column, (-math.inf, math.inf))
        waiting.append((int(tree.left[node]), {**borders, column: (low, min(high, cut))}))
        waiting.append((int(tree.right[node]), {**borders, column: (max(low, cut), high)}))


def _inside(low: float, high: float, compared: str, *, last: bool) -> float:
    """Return the last value up to `high`, or the first one above `low` of the type that is compared."""
    numpy = importlib.import_module("numpy")
    if math.isfinite(high) and (last or not math.isfinite(low)):
        return high
    if compared == "float64":
        return math.nextafter(low, math.inf)
    with numpy.errstate(over="ignore"):
        beyond = float(numpy.nextafter(numpy.float32(low), numpy.float32(numpy.inf)))
    return beyond if low < beyond <= high else min(high, math.nextafter(low, math.inf))
