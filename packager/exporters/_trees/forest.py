# SPDX-License-Identifier: Apache-2.0
"""Trees of scikit-learn's `tree_`: its input is rounded to float32, its leaves and sums are binary64."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from packager.exporters._trees.ensemble import Columns, Ensemble, Tree, floor32


def read(grown: Iterable[Any], width: int, values: Sequence[Any] | None = None) -> Ensemble:
    """Return fitted trees (estimators with a `tree_`) as an ensemble that starts from zero.

    `values` are the numbers of the nodes [nodes, outputs] by tree, else those that fitting left.
    """
    found = list(grown)
    numbers = values or [item.tree_.value.reshape(item.tree_.node_count, -1) for item in found]
    trees = [tree(item.tree_, own) for item, own in zip(found, numbers, strict=True)]
    return Ensemble(trees, [0.0] * numbers[0].shape[1], Columns(width))


def tree(grown: Any, values: Any, target: int = 0, features: Any = None) -> Tree:
    """Return a `tree_` with these numbers; `features` are the columns of the input that it saw, if not all."""
    leaf = grown.children_left == -1
    missing = grown.__getstate__()["nodes"]["missing_go_to_left"].astype(bool)
    column = grown.feature if features is None else features[grown.feature.clip(0)]
    return Tree(
        leaf, column, floor32(grown.threshold).astype("float64"), grown.children_left, grown.children_right, missing,
        values, target,
    )  # fmt: skip


def read_stages(model: Any) -> Ensemble:
    """Return the trees of gradient boosting, weighted by the learning rate, in the order in which it adds them up."""
    scale, outputs = float(model.learning_rate), model.estimators_.shape[1]
    trees = [
        tree(item.tree_, item.tree_.value.reshape(item.tree_.node_count, -1) * scale, target)
        for stage in model.estimators_
        for target, item in enumerate(stage)
    ]
    return Ensemble(trees, [0.0] * outputs, Columns(model.n_features_in_))


def read_isolation(model: Any) -> Ensemble:
    """Return the trees of an isolation forest; a leaf holds the depth that it stands for."""
    trees = []
    for place, (item, features) in enumerate(zip(model.estimators_, model.estimators_features_, strict=True)):
        lengths = model._decision_path_lengths[place] + model._average_path_length_per_tree[place] - 1.0
        trees.append(tree(item.tree_, lengths.reshape(-1, 1), features=features))
    return Ensemble(trees, [0.0], Columns(model.n_features_in_))
