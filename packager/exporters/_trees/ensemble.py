# SPDX-License-Identifier: Apache-2.0
"""The common form of trees: arrays over nodes, and columns that are made of the inputs before the trees see them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree: arrays over its nodes, the root first.

    A row with `column <= threshold` goes left, a missing value where `missing` says left; `columns` are positions among
    those of the ensemble. `values` holds [nodes, width] numbers, read at leaves. A tree with one number per leaf adds
    to the output named `target`; one with more adds to all.
    """

    leaf: Any
    column: Any
    threshold: Any
    left: Any
    right: Any
    missing: Any
    values: Any
    target: int = 0


@dataclass(frozen=True, slots=True)
class Members:
    """A column that is 0 where the category of an input is in `codes`, 1 where it is not, NaN where it is missing."""

    feature: int
    codes: frozenset[int]


@dataclass(frozen=True, slots=True)
class Voided:
    """A column that is an input in which zeros are missing values."""

    feature: int


Derived: TypeAlias = Members | Voided


@dataclass(slots=True)
class Columns:
    """The columns that trees look at: `width` inputs, then derived ones, each once."""

    width: int
    derived: list[Derived] = field(default_factory=list)
    _positions: dict[Derived, int] = field(default_factory=dict)

    def member(self, feature: int, codes: frozenset[int]) -> int:
        """Return the position of the column that says whether the category of an input is in a set."""
        return self.position(Members(feature, codes))

    def position(self, made: Derived) -> int:
        """Return the position of a derived column, adding it the first time."""
        if made not in self._positions:
            self._positions[made] = self.width + len(self.derived)
            self.derived.append(made)
        return self._positions[made]


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Trees in the order in which they are added up, from `base` (one number per output) on.

    `compared` is the type in which thresholds are compared, `added` the type of the sums. Categories are the whole
    parts of inputs from `lowest_code` on; `zero` is the largest magnitude that the library takes for zero.
    """

    trees: Sequence[Tree]
    base: Sequence[float]
    columns: Columns
    compared: str = "float32"
    added: str = "float64"
    lowest_code: float = 0.0
    zero: float = 0.0

    @property
    def outputs(self) -> int:
        return len(self.base)


def round_down(values: Any) -> Any:
    """Round down to float32: no float32 lies between a number and the result, so both split them alike."""
    numpy = importlib.import_module("numpy")
    largest = float(numpy.finfo("float32").max)
    stated = numpy.asarray(values, "float64")
    near = numpy.clip(stated, -largest, largest).astype("float32")
    below = numpy.nextafter(near, numpy.float32(-numpy.inf))
    return numpy.where(near.astype("float64") <= stated, near, below).astype("float32")


def step_below(values: Any) -> Any:
    """Step to the float32 before: at most that is less than the number itself."""
    numpy = importlib.import_module("numpy")
    return numpy.nextafter(numpy.asarray(values, "float32"), numpy.float32(-numpy.inf))


def reachable(tree: Tree) -> Tree:
    """Drop the nodes that no path from the root meets: pruning leaves some, and a runtime takes them for roots."""
    numpy = importlib.import_module("numpy")
    met, waiting = numpy.zeros(len(tree.leaf), bool), [0]
    while waiting:
        node = waiting.pop()
        met[node] = True
        waiting += [] if tree.leaf[node] else [int(tree.left[node]), int(tree.right[node])]
    positions = numpy.cumsum(met) - 1

    def kept(values: Any) -> Any:
        return numpy.asarray(values)[met]

    left, right = (
        numpy.where(tree.leaf, -1, positions[numpy.where(tree.leaf, 0, side)]) for side in (tree.left, tree.right)
    )
    return Tree(
        kept(tree.leaf),
        kept(tree.column),
        kept(tree.threshold),
        kept(left),
        kept(right),
        kept(tree.missing),
        kept(tree.values),
        tree.target,
    )


def list_thresholds(ensemble: Ensemble) -> list[list[float]]:
    """Return the values of every input that decide something, sorted: thresholds, and codes of categories."""
    found: list[set[float]] = [set() for _ in range(ensemble.columns.width)]
    for tree in ensemble.trees:
        inner = ~tree.leaf
        for column, threshold in zip(tree.column[inner].tolist(), tree.threshold[inner].tolist(), strict=True):
            if column < ensemble.columns.width:
                found[column].add(threshold)
            elif isinstance(made := ensemble.columns.derived[column - ensemble.columns.width], Voided):
                found[made.feature].add(threshold)
    for made in ensemble.columns.derived:
        if isinstance(made, Members):
            found[made.feature] |= {float(code) for code in made.codes}
    return [sorted(own) for own in found]
