# SPDX-License-Identifier: Apache-2.0
"""Trees of scikit-learn's `tree_`: its input is rounded to float32, its leaves and sums are binary64."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from packager.exporters._trees.ensemble import Columns, Ensemble, Tree, round_down

_COUNTS = 1e-6  # further from one than this, the numbers of a leaf are counts


def read(grown: Iterable[Any], width: int, values: Sequence[Any] | None = None) -> Ensemble:
    """Return fitted trees (estimators with a `tree_`) as an ensemble that starts from zero.

    `values` are the numbers of the nodes [nodes, outputs] by tree, else those that fitting left.
    """
    found = list(grown)
    numbers = values or [_answers(item.tree_) for item in found]
    trees = [tree(item.tree_, own) for item, own in zip(found, numbers, strict=True)]
    return Ensemble(trees, [0.0] * numbers[0].shape[1], Columns(width))


def _answers(grown: Any) -> Any:
    """Return the numbers of the nodes of a `tree_`, as its `predict` gives them.

    Until scikit-learn 1.3 those of a classifier are counts, which a prediction divides by their sum.
    """
    values = grown.value
    sums = values.sum(axis=2, keepdims=True)
    if grown.max_n_classes > 1 and abs(sums - 1).max() > _COUNTS:
        values = values / sums
    return values.reshape(grown.node_count, -1)


def tree(grown: Any, values: Any, target: int = 0, features: Any = None) -> Tree:
    """Return a `tree_` with these numbers; `features` are the columns of the input that it saw, if not all."""
    leaf = grown.children_left == -1
    nodes = grown.__getstate__()["nodes"]
    knows = "missing_go_to_left" in nodes.dtype.names  # before 1.3 trees take no missing values
    missing = nodes["missing_go_to_left"].astype(bool) if knows else leaf & False
    column = grown.feature if features is None else features[grown.feature.clip(0)]
    return Tree(
        leaf,
        column,
        round_down(grown.threshold).astype("float64"),
        grown.children_left,
        grown.children_right,
        missing,
        values,
        target,
    )


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
    for position, (item, features) in enumerate(zip(model.estimators_, model.estimators_features_, strict=True)):
        lengths = model._decision_path_lengths[position] + model._average_path_length_per_tree[position] - 1.0
        trees.append(tree(item.tree_, lengths.reshape(-1, 1), features=features))
    return Ensemble(trees, [0.0], Columns(model.n_features_in_))
