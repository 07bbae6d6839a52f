# SPDX-License-Identifier: Apache-2.0
"""Put an ensemble into a graph: the leaf of every tree, the leaf's numbers, and their sum in order.

The nodes of trees of ai.onnx.ml add up by themselves, but their answer is float32, their order depends on threads and
batch, and between two classes ONNX Runtime guesses the label. Here they only say which leaf a row falls into, as one
output per tree; numbers come from a table and are added by `CumSum`, one after the other. See ADR 151 for sets.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from packager.errors import StepError
from packager.exporters._sklearn.builder import ML, Builder, Frame, Value
from packager.exporters._trees.ensemble import Ensemble, Members, Tree, Voided

_MOST_LEAVES = 1 << 24  # of one tree: their numbers travel as float32
MOST_CELLS = 1 << 28  # of the table that says which category is in which set, one byte each
_NO_CODE = -1


def write_sums(
    builder: Builder, ensemble: Ensemble, matrix: Value, start: Value | None = None, *, divided: int = 1
) -> Value:
    """Write the sum of the leaves of a row [batch, outputs] from `base`, or from what `start` computes, divided."""
    if not ensemble.trees:
        return start or builder.spread(matrix, ensemble.base, ensemble.added)
    trees = in_rounds(ensemble.trees, ensemble.outputs)
    leaves = write_leaves(builder, replace(ensemble, trees=trees), matrix)
    table = _numbers(trees, [0.0] * ensemble.outputs if start else ensemble.base, ensemble.added)
    terms = builder.node("Gather", [builder.constant(table, ensemble.added), leaves.name], axis=0)
    width = len(trees) * (ensemble.outputs if table.ndim == 2 else 1)
    summed = add_up(builder, Value(terms, ensemble.added, width), ensemble.outputs, start)
    return summed if divided == 1 else builder.div(summed, float(divided))


def add_up(builder: Builder, terms: Value, outputs: int, start: Value | None = None) -> Value:
    """Add what trees say, round after round, each with a number for every output: the last of the running sums."""
    rounds = terms.width // outputs
    shaped = builder.node("Reshape", [terms.name, builder.constant([0, rounds, outputs], "int64")])
    if start is not None:
        first = builder.node("Reshape", [start.name, builder.constant([0, 1, outputs], "int64")])
        shaped, rounds = builder.node("Concat", [first, shaped], axis=1), rounds + 1
    sums = builder.node("CumSum", [shaped, builder.constant([1], "int64")])
    last = builder.node("Gather", [sums, builder.constant([rounds - 1], "int64")], axis=1)
    return Value(builder.node("Reshape", [last, builder.constant([0, outputs], "int64")]), terms.dtype, outputs)


def in_rounds(trees: Sequence[Tree], outputs: int) -> list[Tree]:
    """Return trees of one number per leaf so that every round has one for each output, in order; others as they are."""
    if outputs == 1 or trees[0].values.shape[1] > 1:
        return list(trees)
    by_output = [[tree for tree in trees if tree.target == output] for output in range(outputs)]
    nothing = [replace(_single(trees[0]), target=output) for output in range(outputs)]
    rounds = itertools.zip_longest(*by_output)
    return [tree or nothing[output] for each in rounds for output, tree in enumerate(each)]


def _single(like: Tree) -> Tree:
    """Return a tree that adds nothing."""
    numpy = importlib.import_module("numpy")
    return replace(
        like,
        leaf=numpy.array([True]),
        column=numpy.array([0]),
        threshold=numpy.zeros(1),
        left=numpy.array([-1]),
        right=numpy.array([-1]),
        missing=numpy.array([False]),
        values=numpy.zeros((1, like.values.shape[1])),
    )


def _numbers(trees: Sequence[Tree], base: Sequence[float], kind: str) -> Any:
    """Return the numbers of all leaves in the type of the sum, the base already added to those of the first round."""
    numpy = importlib.import_module("numpy")
    many = trees[0].values.shape[1] > 1
    parts = [numpy.asarray(tree.values)[tree.leaf].astype(kind) for tree in trees]
    first = 1 if many else len(base)
    for position, part in enumerate(parts[:first]):
        own = numpy.asarray(base, kind) if many else numpy.asarray(base[position], kind)
        parts[position] = own + part
    whole = numpy.concatenate(parts)
    return whole if many else whole.reshape(-1)


def _starts(trees: Sequence[Tree]) -> Any:
    numpy = importlib.import_module("numpy")
    counts = [int(numpy.count_nonzero(tree.leaf)) for tree in trees]
    if max(counts) >= _MOST_LEAVES:
        raise StepError(
            f"a tree of the model has {max(counts)} leaves, expected at most {_MOST_LEAVES}",
            hint="limit the depth or the leaves of the trees",
        )
    return numpy.concatenate([[0], numpy.cumsum(counts)[:-1]]).astype("int64")


def write_leaves(builder: Builder, ensemble: Ensemble, matrix: Value) -> Value:
    """Write which leaf every tree sends a row to [batch, trees], counted through all trees."""
    if builder.inexact:
        raise StepError(
            f"trees stand behind `{builder.inexact}, whose last bit is numpy's own: rows near a threshold would fall "
            "into another leaf",
            hint="leave the function out, which trees do not need, or use `double` columns and one without limits",
        )
    numpy = importlib.import_module("numpy")
    trees, starts = ensemble.trees, _starts(ensemble.trees)
    owner = numpy.concatenate(
        [numpy.full(numpy.count_nonzero(tree.leaf), position) for position, tree in enumerate(trees)]
    )
    inside = numpy.concatenate([numpy.arange(numpy.count_nonzero(tree.leaf)) for tree in trees])
    found = write_trees(builder, ensemble, matrix, owner, inside, len(trees))
    return builder.add(builder.cast(found, "int64"), starts)


def write_trees(builder: Builder, ensemble: Ensemble, matrix: Value, targets: Any, weights: Any, width: int) -> Value:
    """Write trees whose leaves, counted through all trees, add `weights` to one of `width` float32 outputs each."""
    columns = write_columns(builder, ensemble, matrix)
    attributes = {**_nodes(ensemble.trees, columns.dtype), **_leaves(ensemble.trees, targets, weights, columns.dtype)}
    made = builder.node("TreeEnsembleRegressor", [columns.name], domain=ML, n_targets=width, **attributes)
    return Value(made, "float32", width)


def _nodes(trees: Sequence[Tree], dtype: str) -> dict[str, Any]:
    """Return the attributes that describe the splits."""
    numpy = importlib.import_module("numpy")
    leaf = numpy.concatenate([tree.leaf for tree in trees])

    def inner(name: str, kind: str = "int64") -> Any:
        return numpy.where(leaf, 0, numpy.concatenate([getattr(tree, name) for tree in trees])).astype(kind)

    return {
        "nodes_treeids": [position for position, tree in enumerate(trees) for _ in range(len(tree.leaf))],
        "nodes_nodeids": [node for tree in trees for node in range(len(tree.leaf))],
        "nodes_featureids": inner("column").tolist(),
        "nodes_modes": ["LEAF" if end else "BRANCH_LEQ" for end in leaf.tolist()],
        "nodes_truenodeids": inner("left").tolist(),
        "nodes_falsenodeids": inner("right").tolist(),
        "nodes_missing_value_tracks_true": inner("missing").tolist(),
        **_typed("nodes_values", inner("threshold", dtype)),
    }


def _leaves(trees: Sequence[Tree], targets: Any, weights: Any, dtype: str) -> dict[str, Any]:
    """Return the attributes that describe the leaves."""
    numpy = importlib.import_module("numpy")
    ends = [numpy.flatnonzero(tree.leaf).tolist() for tree in trees]
    return {
        "target_treeids": [position for position, own in enumerate(ends) for _ in own],
        "target_nodeids": [node for own in ends for node in own],
        "target_ids": targets.astype("int64").tolist(),
        **_typed("target_weights", weights.astype(dtype)),
    }


def _typed(name: str, values: Any) -> dict[str, Any]:
    """Return numbers as the attribute of their type: float32 has lists, float64 only tensors."""
    if values.dtype.name == "float32":
        return {name: values.tolist()}
    tensor = importlib.import_module("onnx.numpy_helper").from_array(values, name)
    return {f"{name}_as_tensor": tensor}


# -- columns


def write_columns(builder: Builder, ensemble: Ensemble, matrix: Value) -> Value:
    """Write the columns that the trees look at: the inputs, and those derived from them."""
    given = builder.cast(matrix, ensemble.compared)
    derived = ensemble.columns.derived
    if not derived:
        return given
    order: list[int] = []
    blocks = [given]
    for feature in sorted({made.feature for made in derived}):
        own = [position for position, made in enumerate(derived) if made.feature == feature]
        blocks += _derived(builder, ensemble, builder.take(given, [feature]), [derived[position] for position in own])
        order += sorted(own, key=lambda position: isinstance(derived[position], Voided))
    whole = builder.concat(blocks)
    back = sorted(range(len(order)), key=lambda index: order[index])
    return builder.take(whole, [*range(given.width), *(given.width + position for position in back)])


def _derived(builder: Builder, ensemble: Ensemble, given: Value, wanted: Sequence[Members | Voided]) -> list[Value]:
    """Return the columns that one input makes: those of sets, then the one without zeros."""
    sets = [made.codes for made in wanted if isinstance(made, Members)]
    found = [_members(builder, ensemble, given, sets)] if sets else []
    if len(sets) < len(wanted):
        tiny = builder.binary("LessOrEqual", builder.unary("Abs", given), ensemble.zero)
        found.append(builder.where(tiny, float("nan"), given))
    return found


def _members(builder: Builder, ensemble: Ensemble, given: Value, sets: Sequence[frozenset[int]]) -> Value:
    """Look up, for the category of every row, which sets do not have it."""
    numpy = importlib.import_module("numpy")
    known = sorted(frozenset().union(*sets))
    if (len(known) + 1) * len(sets) > MOST_CELLS:
        raise StepError(
            f"a column of the model has {len(known)} categories in {len(sets)} splits, expected at most "
            f"{MOST_CELLS} pairs of both",
            hint="group rare categories before training, or limit the number of trees",
        )
    table = numpy.ones((len(known) + 1, len(sets)), "uint8")
    positions = {code: position for position, code in enumerate(known)}
    for column, codes in enumerate(sets):
        table[[positions[code] for code in codes], column] = 0
    rows = builder.look_up(table, position_of_code(builder, _codes(builder, ensemble, given), known))
    outside = builder.cast(rows, given.dtype)
    return builder.where(builder.unary("IsNaN", given), float("nan"), outside)


def _codes(builder: Builder, ensemble: Ensemble, given: Value) -> Value:
    """Return the whole part of a number where that is a code, else one that no category has."""
    above = builder.binary("GreaterOrEqual", given, ensemble.lowest_code)
    inside = builder.binary("And", above, builder.binary("Less", given, float(1 << 31)))
    return builder.cast(builder.where(inside, given, float(_NO_CODE)), "int64")


def position_of_code(builder: Builder, code: Value, known: Sequence[int]) -> Value:
    """Return the position of every code among the known ones, their number for another one."""
    if not known:
        return builder.spread(code, [0] * code.width, "int64")
    made = builder.node(
        "LabelEncoder",
        [code.name],
        domain=ML,
        keys_int64s=list(known),
        values_int64s=list(range(len(known))),
        default_int64=len(known),
    )
    return Value(made, "int64", code.width)


def cast_columns(builder: Builder, frame: Frame, dtype: str) -> Value:
    """Return a frame as one matrix, every column cast by itself: integers do not go through float64."""
    return builder.concat([builder.cast(block, dtype) for block in frame.blocks])
