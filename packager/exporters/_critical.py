# SPDX-License-Identifier: Apache-2.0
"""Rows on which a model for tables shows what it is: one in every leaf of its trees, and what its family adds.

A value alone says little about a tree: a leaf is reached by several at once. So one row is made per leaf, alternately
on the last value that still goes there and on the first one beyond the other border. Rows are made where an estimator
looks and pulled back through the steps before it, as far as those have an inverse.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from packager.exporters import _boosted

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
    if not hasattr(step, "inverse_transform"):
        return None
    try:
        found = step.inverse_transform(made.astype("float64"))
    except Exception:  # an inverse is a hint for where to look: an estimator may raise what it likes
        return None
    found = numpy.asarray(found.toarray() if hasattr(found, "toarray") else found)
    return found if found.ndim == 2 and found.shape[1] == width else None


def _pulled_columns(step: Any, made: Any, width: int) -> Any:
    numpy = importlib.import_module("numpy")
    found = numpy.zeros((len(made), width), dtype="object")
    known = False
    for name, part, _ in step.transformers_:
        places = [int(place) for place in getattr(step, "_transformer_to_input_indices", {}).get(name, ())]
        slots = step.output_indices_.get(name, slice(0, 0))
        if part == "drop" or not places or slots.stop == slots.start:
            continue
        own = made[:, slots]
        back = own if part == "passthrough" else _pulled_part(part, own, len(places))
        if back is not None and back.shape[1] == len(places):
            found[:, places] = back
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
    trees = _own_trees(model)
    return _leaf_rows(list(trees), width) if trees is not None else None


def _own_trees(model: Any) -> list[tuple[Any, Any, Any, Any]] | None:
    """Return left, right, feature and threshold of every tree that belongs to an estimator itself, None without any."""
    if _boosted.is_foreign(model):
        return [(tree.left, tree.right, tree.feature, tree.threshold) for tree in _boosted.read(model).trees]
    if hasattr(model, "tree_"):
        return [_plain(model.tree_)]
    if hasattr(model, "_predictors"):
        return [_histogram(item) for stage in model._predictors for item in stage]
    listed = getattr(model, "estimators_", None)
    flat = list(getattr(listed, "ravel", lambda: listed)()) if listed is not None else []
    if flat and all(hasattr(item, "tree_") for item in flat):
        return [_plain(item.tree_) for item in flat]
    return None


def _plain(tree: Any) -> tuple[Any, Any, Any, Any]:
    return tree.children_left, tree.children_right, tree.feature, tree.threshold


def _histogram(predictor: Any) -> tuple[Any, Any, Any, Any]:
    nodes, numpy = predictor.nodes, importlib.import_module("numpy")
    leaf = nodes["is_leaf"].astype(bool)
    left, right = (numpy.where(leaf, -1, nodes[side].astype("int64")) for side in ("left", "right"))
    return left, right, nodes["feature_idx"], nodes["num_threshold"]


def _leaf_rows(trees: Sequence[tuple[Any, Any, Any, Any]], width: int) -> Any:
    numpy = importlib.import_module("numpy")
    each = max(1, _MOST // max(1, len(trees)))
    base = _ordinary(trees, width)
    found = []
    for tree in trees[:_MOST]:
        bounds = list(_leaves(*tree))
        for number, borders in enumerate(bounds[:: max(1, -(-len(bounds) // each))]):
            row = base.copy()
            for feature, (low, high) in borders.items():
                row[feature] = _inside(low, high, last=number % 2 == 0)
            found.append(row)
    return numpy.array(found) if found else None


def _ordinary(trees: Sequence[tuple[Any, Any, Any, Any]], width: int) -> Any:
    """Return a row of middle thresholds: what a column is where a leaf does not ask for it."""
    numpy = importlib.import_module("numpy")
    row = numpy.zeros(width)
    features = numpy.concatenate([numpy.asarray(tree[2])[numpy.asarray(tree[0]) >= 0] for tree in trees])
    thresholds = numpy.concatenate([numpy.asarray(tree[3])[numpy.asarray(tree[0]) >= 0] for tree in trees])
    finite = numpy.isfinite(thresholds)
    for feature in numpy.unique(features[finite]):
        if 0 <= feature < width:
            row[feature] = numpy.sort(thresholds[finite & (features == feature)])[
                (finite & (features == feature)).sum() // 2
            ]
    return row


def _leaves(left: Any, right: Any, feature: Any, threshold: Any) -> Iterator[dict[int, tuple[float, float]]]:
    """Yield for every leaf the borders of the columns that lead there: above the first, up to the second."""
    waiting: list[tuple[int, dict[int, tuple[float, float]]]] = [(0, {})]
    while waiting:
        node, borders = waiting.pop()
        if left[node] < 0 or left[node] == right[node]:
            yield borders
            continue
        column, cut = int(feature[node]), float(threshold[node])
        low, high = borders.get(column, (-math.inf, math.inf))
        waiting.append((int(left[node]), {**borders, column: (low, min(high, cut))}))
        waiting.append((int(right[node]), {**borders, column: (max(low, cut), high)}))


def _inside(low: float, high: float, *, last: bool) -> float:
    """Return the last value up to `high`, or the first float32 above `low`."""
    numpy = importlib.import_module("numpy")
    if math.isfinite(high) and (last or not math.isfinite(low)):
        return high
    with numpy.errstate(over="ignore"):
        beyond = float(numpy.nextafter(numpy.float32(low), numpy.float32(numpy.inf)))
    return beyond if low < beyond <= high else min(high, math.nextafter(low, math.inf))
