# SPDX-License-Identifier: Apache-2.0
"""Models of CatBoost, read from their JSON form: float32 is compared, binary64 is added.

A model holds hashes of its categories, not their names. Names are found by hashing candidates, in the library itself:
whole numbers, and the texts of the logged example; where some stay unknown the model is refused.
"""

from __future__ import annotations

import ast
import importlib
import json
import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._trees.categories import write_codes
from packager.exporters._trees.ensemble import Columns, Ensemble, Tree
from packager.exporters._trees.write import write_sums

PROBABILITIES = ("Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll", "MultiLogloss", "MultiCrossEntropy")
SEVERAL = ("MultiLogloss", "MultiCrossEntropy")
EXPONENTIAL = ("Poisson", "Tweedie")
_NUMBERS = range(-100, 32_768)  # candidates for categories that are whole numbers
_IN = 0.5  # the border of a column that says whether a category is in a set
_OTHERWISE = (
    "train with `one_hot_max_size` above the number of categories, `cat_features` left out, or on columns that are "
    "encoded before the model"
)


@dataclass(frozen=True, slots=True)
class Model:
    """A model: its trees, what follows the sum, the loss, and the hashes of categories by column that it splits on."""

    ensemble: Ensemble
    scale: float
    loss: str
    names: Sequence[str]
    hashes: Mapping[int, Sequence[int]]


def read(model: Any) -> Model:
    """Return an opened model. Raises StepError, naming the column, for what has no ONNX form."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        model.save_model(str(path), format="json")
        stated = json.loads(path.read_bytes())
    features = stated["features_info"]
    _refuse_others(features)
    floats, categories = features.get("float_features", []), features.get("categorical_features", [])
    names = {int(item["flat_feature_index"]): str(item.get("feature_id", "")) for item in (*floats, *categories)}
    reader = _Reader(floats, categories, Columns(len(names)))
    grown = stated.get("oblivious_trees")
    trees = (
        [reader.oblivious(tree) for tree in grown] if grown is not None else list(map(reader.grown, stated["trees"]))
    )
    scale, bias = stated.get("scale_and_bias", [1, [0]])
    biases = [float(value) for value in (bias if isinstance(bias, list) else [bias])]
    outputs = trees[0].values.shape[1] if trees else len(biases)
    base = biases * outputs if len(biases) == 1 else biases
    hashes = {position: list(known) for position, known in reader.hashes.items()}
    return Model(
        Ensemble(trees, base, reader.columns),
        float(scale),
        _loss(stated),
        [names[position] for position in sorted(names)],
        hashes,
    )


def _refuse_others(features: Mapping[str, Any]) -> None:
    for kind in ("text", "embedding"):
        if features.get(f"{kind}_features"):
            raise StepError(f"the model reads columns of {kind}s, which have no ONNX form here", hint=_OTHERWISE)


def _loss(stated: Mapping[str, Any]) -> str:
    params = stated.get("model_info", {}).get("params", {})
    params = json.loads(params) if isinstance(params, str) else params
    return str((params.get("loss_function") or {}).get("type", ""))


class _Reader:
    """Trees of one model; remembers the hashes that splits look for, by column."""

    def __init__(self, floats: Sequence[JSON], categories: Sequence[JSON], columns: Columns) -> None:
        self.columns = columns
        self.hashes: dict[int, dict[int, int]] = {}
        self._floats = {int(item["feature_index"]): item for item in floats}
        self._categories = {int(item["feature_index"]): item for item in categories}

    def oblivious(self, stated: Mapping[str, Any]) -> Tree:
        """Return a tree with one condition for every level: the last one first, so that leaves keep their order."""
        numpy = importlib.import_module("numpy")
        rules = [self._rule(split) for split in reversed(stated["splits"] or [])]
        depth = len(rules)
        inner, count = (1 << depth) - 1, 1 << depth
        level = numpy.repeat(numpy.arange(depth), 1 << numpy.arange(depth)) if depth else numpy.zeros(0, "int64")
        values = numpy.array(stated["leaf_values"], "float64").reshape(count, -1)
        positions = numpy.arange(inner)
        return _tree(
            [rules[each] for each in level.tolist()],
            2 * positions + 1,
            2 * positions + 2,
            numpy.concatenate([numpy.zeros((inner, values.shape[1])), values]),
            numpy.arange(inner + count) >= inner,
        )

    def grown(self, stated: Mapping[str, Any]) -> Tree:
        """Return a tree that grew by leaves, its nodes in the order in which they are met."""
        numpy = importlib.import_module("numpy")
        nodes, waiting = [stated], [stated]
        children: dict[int, tuple[int, int]] = {}
        positions = {id(stated): 0}
        while waiting:
            here = waiting.pop()
            if "split" in here:
                children[positions[id(here)]] = (len(nodes), len(nodes) + 1)
                for side in ("left", "right"):
                    positions[id(here[side])] = len(nodes)
                    nodes.append(here[side])
                    waiting.append(here[side])
        width = max(len(_list(node.get("value", 0.0))) for node in nodes)
        values = numpy.zeros((len(nodes), width))
        for position, node in enumerate(nodes):
            values[position] = _list(node.get("value", 0.0)) if "split" not in node else 0.0
        leaf = numpy.array(["split" not in node for node in nodes])
        rules = [self._rule(node["split"]) if "split" in node else (0, 0.0, False, False) for node in nodes]
        left, right = (
            numpy.array([children.get(position, (-1, -1))[side] for position in range(len(nodes))]) for side in (0, 1)
        )
        return _tree(rules, left, right, values, leaf)

    def _rule(self, split: Mapping[str, Any]) -> tuple[int, float, bool, bool]:
        """Return the column of a split, its threshold, where a missing value goes, and whether yes is on the left."""
        kind = split["split_type"]
        if kind == "FloatFeature":
            feature = self._floats[int(split["float_feature_index"])]
            left = feature["nan_value_treatment"] != "AsTrue"
            return int(feature["flat_feature_index"]), float(split["border"]), left, False
        if kind == "OneHotFeature":
            feature = self._categories[int(split["cat_feature_index"])]
            position = int(feature["flat_feature_index"])
            known = self.hashes.setdefault(position, {})
            code = known.setdefault(int(split["value"]), len(known))
            return self.columns.member(position, frozenset([code])), _IN, False, True
        raise StepError(
            f"the model has statistics (`{kind}`) of categories of {self._named(split)}, which have no ONNX form here",
            hint=_OTHERWISE,
        )

    def _named(self, split: Mapping[str, Any]) -> str:
        """Name the columns of categories that a split looks at, or all where it does not say."""
        text = json.dumps(split)
        listed = [int(found) for found in re.findall(r'"cat_feature_index": (\d+)', text)]
        names = [str(self._categories[position]["feature_id"]) for position in listed if position in self._categories]
        names = names or [str(item["feature_id"]) for item in self._categories.values()]
        return ", ".join(f"`{name}`" for name in dict.fromkeys(names))


def _list(value: Any) -> list[float]:
    return [float(item) for item in value] if isinstance(value, list) else [float(value)]


def _tree(rules: Sequence[tuple[int, float, bool, bool]], left: Any, right: Any, values: Any, leaf: Any) -> Tree:
    """Return a tree of rules; arrays shorter than the values are padded for the leaves."""
    numpy = importlib.import_module("numpy")
    more = len(values) - len(rules)

    def padded(items: Sequence[Any], kind: str) -> Any:
        return numpy.concatenate([numpy.array(items, kind), numpy.zeros(more, kind)])

    swapped = padded([rule[3] for rule in rules], "bool")
    no, yes = padded(left, "int64"), padded(right, "int64")
    return Tree(
        leaf,
        padded([rule[0] for rule in rules], "int64"),
        padded([rule[1] for rule in rules], "float64"),
        numpy.where(leaf, -1, numpy.where(swapped, yes, no)),
        numpy.where(leaf, -1, numpy.where(swapped, no, yes)),
        padded([rule[2] for rule in rules], "bool"),
        values,
    )


# -- categories


def categories(model: Model, candidates: Mapping[int, Iterable[Any]]) -> dict[int, list[Any]]:
    """Return the categories that splits look for, by column, in the order of their codes.

    `candidates` are values of columns that were seen. Raises StepError for a hash that none of them has.
    """
    found = {}
    for position, wanted in model.hashes.items():
        known = _hashed(list(dict.fromkeys([*_NUMBERS, *candidates.get(position, ())])))
        named = [known.get(value) for value in wanted]
        if None in named:
            raise StepError(
                f"the model holds only hashes of the categories of column `{model.names[position]}`, and "
                f"{named.count(None)} of the {len(named)} that it looks for are unknown",
                hint="log the model with an `input_example` that shows every category once",
            )
        found[position] = named
    return found


def _hashed(values: Sequence[Any]) -> dict[int, Any]:
    """Return values by their hash, as CatBoost computes it: it writes down those of a table when it exports as code."""
    lib = importlib.import_module("catboost")
    smallest = lib.CatBoostRegressor(iterations=1, depth=1, verbose=False, allow_writing_files=False, thread_count=1)
    smallest.fit([["a"], ["b"]], [0.0, 1.0], cat_features=[0])
    pool = lib.Pool([[value] for value in values], cat_features=[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.py"
        smallest.save_model(str(path), format="python", pool=pool)
        text = path.read_text("utf-8", errors="replace")
    table = re.search(r"^cat_features_hashes = \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    lines = re.findall(r'^\s+("(?:[^"\\]|\\.)*"): (-?\d+),?$', table[1] if table else "", re.MULTILINE)
    hashes = {ast.literal_eval(f"b{name}").decode("utf-8", errors="replace"): int(value) for name, value in lines}
    return {hashes[str(value)]: value for value in values if str(value) in hashes}


# -- writing


def write_raw(builder: Builder, model: Model, known: Mapping[int, Sequence[Any]], frame: Frame) -> Value:
    """Write the raw values of the formula [batch, outputs]: the sum of the trees, scaled, and a bias."""
    columns = [
        write_codes(builder, column, known[position], "float32")
        if position in known
        else _number(builder, column, position, model)
        for position, column in enumerate(builder.columns(frame))
    ]
    zero = Ensemble(model.ensemble.trees, [0.0] * model.ensemble.outputs, model.ensemble.columns)
    summed = write_sums(builder, zero, builder.concat(columns))
    scaled = summed if model.scale == 1.0 else builder.mul(summed, model.scale)
    return builder.add(scaled, model.ensemble.base)


def _number(builder: Builder, column: Value, position: int, model: Model) -> Value:
    """Return a column as float32; categories that no split looks at are nothing."""
    if column.dtype == "string":
        return builder.spread(column, [math.nan], "float32")
    return builder.cast(column, "float32")


def write_probabilities(builder: Builder, model: Model, raw: Value) -> Value:
    """Write what the loss of a classifier makes of the raw values; of two classes, of the second."""
    if model.loss == "MultiClass":
        return Value(builder.node("Softmax", [raw.name], axis=1), raw.dtype, raw.width)
    return builder.div(1.0, builder.add(1.0, builder.unary("Exp", builder.unary("Neg", raw))))


def write_number(builder: Builder, model: Model, raw: Value) -> Value:
    """Write what a regressor answers: it knows of its loss, other models answer the raw values."""
    if model.loss == "RMSEWithUncertainty":  # a mean, and the logarithm of the root of the variance
        variance = builder.unary("Exp", builder.mul(builder.take(raw, [1]), 2.0))
        return builder.concat([builder.take(raw, [0]), variance])
    return builder.unary("Exp", raw) if model.loss in EXPONENTIAL else raw


def border(model: Any) -> float:
    """Return the raw value above which a row is of the second class: that of one half, unless the model states more."""
    stated = getattr(model, "get_probability_threshold", lambda: None)()
    if stated is None or not 0 < stated < 1:
        return 0.0
    return math.log(stated / (1 - stated))
