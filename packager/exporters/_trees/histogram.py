# SPDX-License-Identifier: Apache-2.0
"""Trees of scikit-learn's histogram boosting: doubles are compared as they are, sets of categories by their codes."""

from __future__ import annotations

import importlib
from typing import Any

from packager.exporters._trees.ensemble import Columns, Ensemble, Tree


def read(model: Any) -> Ensemble:
    """Return the trees in the order in which they are added to the baseline; columns are as behind its encoder."""
    numpy = importlib.import_module("numpy")
    columns = Columns(model._n_features)
    trees = [_tree(item, target, columns) for stage in model._predictors for target, item in enumerate(stage)]
    base = [float(value) for value in numpy.ravel(model._baseline_prediction)]
    return Ensemble(trees, base, columns, compared="float64")


def _tree(predictor: Any, target: int, columns: Columns) -> Tree:
    nodes = predictor.nodes
    column, threshold = nodes["feature_idx"].astype("int64"), nodes["num_threshold"].copy()
    leaf = nodes["is_leaf"].astype(bool)
    for node in (nodes["is_categorical"].astype(bool) & ~leaf).nonzero()[0].tolist():
        codes = _codes(predictor.raw_left_cat_bitsets[nodes["bitset_idx"][node]])
        column[node], threshold[node] = columns.member(int(column[node]), codes), 0.5
    return Tree(
        leaf,
        column,
        threshold,
        nodes["left"].astype("int64"),
        nodes["right"].astype("int64"),
        nodes["missing_go_to_left"].astype(bool),
        nodes["value"].reshape(-1, 1),
        target,
    )


def _codes(words: Any) -> frozenset[int]:
    """Return the numbers of the bits set in words of 32 bits."""
    return frozenset(
        32 * position + bit for position, word in enumerate(words.tolist()) for bit in range(32) if word >> bit & 1
    )
