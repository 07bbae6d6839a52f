# SPDX-License-Identifier: Apache-2.0
"""Converter faults, each planted in the graph of a small real model, and whether the build's own measurement sees it.

`python -m tests.matrix.planted --out FILE` goes on where FILE ends, a line per fault: the case that shows it and what
kind of difference it is said to be. Left out are changes that change nothing the contract promises: another of two
labels whose scores are equal, a threshold moved between two neighbours of the type it is compared in or between two
whole numbers, a category forgotten that is in no set, the order of sums within the tolerance.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from packager.errors import StepError
from packager.steps import export, measure
from tests.matrix import planted_models
from tests.matrix.mutators import (
    Mutator,
    all_ones,
    at_hidden,
    at_input,
    at_output,
    attribute,
    both,
    casts,
    children_exchanged,
    column_beside,
    columns,
    constant,
    dropped,
    element,
    exchanged_inputs,
    first_row_only,
    flag_flipped,
    gelu_by_tanh,
    in_float,
    lower_case,
    missing_elsewhere,
    missing_is_zero,
    negatives_are_zero,
    operator,
    skipped,
    step_up,
    strict_thresholds,
    threshold,
    times,
    trees,
    zero,
)
from tests.matrix.verdicts import LEVEL, findings
from tests.unit.exporters.conftest import detected


@dataclass(frozen=True)
class Fault:
    """A change to the graph of a model, and what it is in a word that converters' own reports use."""

    name: str
    model: str
    plant: Mutator

    @property
    def title(self) -> str:
        return f"{self.model}: {self.name}"


def _up(by: float) -> Callable[[Any], Any]:
    return lambda value: value + by


def _scaled(factor: float) -> Callable[[Any], Any]:
    return lambda value: value * factor


def _rolled(array: Any) -> Any:
    return np.roll(array.reshape(-1), 1).reshape(array.shape)


def _rolled_rows(array: Any) -> Any:
    return np.roll(array, 1, axis=0)


def _first_and_second_exchanged(array: Any) -> Any:
    array[[0, 1]] = array[[1, 0]]
    return array


def _without_base(leaves: Any) -> Any:
    leaves[:8] -= leaves[:8].mean()
    return leaves


def _previous(value: Any) -> Any:
    return value - 1


def _forget(place: int) -> Mutator:
    """Forget a key of an encoder of texts."""

    def others(listed: list[Any]) -> list[Any]:
        return [*listed[:place], *listed[place + 1 :]]

    return both(attribute("LabelEncoder", "keys_strings", others), attribute("LabelEncoder", "values_int64s", others))


FAULTS: tuple[Fault, ...] = (
    # what is read
    Fault("the fractions of one column are dropped", "scaled", at_input("price", casts("int64"))),
    Fault("the fractions of a small column are dropped", "histogram", at_input("signal", casts("int64"))),
    Fault("one double is rounded to float32", "histogram", at_input("price", casts("float32"))),
    Fault("one double is rounded to float32", "lightgbm", at_input("price", casts("float32"))),
    Fault("one double is rounded to float32", "bins", at_input("price", casts("float32"))),
    Fault("two columns are exchanged", "scaled", exchanged_inputs("price", "signal")),
    Fault("two columns are exchanged", "forest", exchanged_inputs("price", "signal")),
    Fault("missing numbers are zeros", "histogram", at_input("price", missing_is_zero)),
    Fault("missing numbers are zeros", "xgboost", at_input("signal", missing_is_zero)),
    Fault("missing numbers are zeros before they are filled", "table", at_input("signal", missing_is_zero)),
    Fault("negative numbers are zeros", "scaled", at_input("signal", negatives_are_zero)),
    Fault("negative numbers are zeros", "mlp", at_input("x", negatives_are_zero)),
    Fault("whole numbers are kept in 32 bits", "times", at_input("stamp", casts("int32"))),
    Fault("whole numbers are computed in float32", "times", at_input("stamp", casts("float32"))),
    Fault("a whole column is kept in 32 bits", "ridge", at_input("visits", casts("int32"))),
    Fault("texts are read in lower case", "table", at_input("city", lower_case)),
    # what is answered
    Fault("two classes are exchanged in the probabilities only", "scaled", at_output(1, columns(1, 0, 2))),
    Fault(
        "two classes are exchanged in the labels only",
        "scaled",
        constant("Gather", _first_and_second_exchanged, size=3, dtype="O"),
    ),
    Fault(
        "two classes are exchanged in the labels only",
        "forest",
        constant("Gather", _first_and_second_exchanged, size=3, dtype="O"),
    ),
    Fault("the two probabilities are exchanged", "xgboost", at_output(1, columns(1, 0))),
    Fault("a batch is answered as its first row", "scaled", at_output(1, first_row_only)),
    Fault("a batch is answered as its first row", "mlp", at_output(0, first_row_only)),
    Fault("softmax became sigmoid", "scaled", operator("Softmax", "Sigmoid", drop=("axis",))),
    Fault("softmax became sigmoid", "mlp", operator("Softmax", "Sigmoid", drop=("axis",))),
    Fault("scores are answered in place of probabilities", "lightgbm", skipped("Softmax")),
    Fault("the last of the largest is taken", "choice", attribute("ArgMax", "select_last_index", lambda _: 1)),
    # trees
    Fault("the first threshold is one float32 step off", "forest", threshold(0.0, single=True)),
    Fault("the middle threshold is one float32 step off", "forest", threshold(0.5, single=True)),
    Fault("the last threshold is one float32 step off", "forest", threshold(1.0, single=True)),
    Fault("the first threshold is one float32 step off", "boosting", threshold(0.0, single=True)),
    Fault("the middle threshold is one float32 step off", "lightgbm", threshold(0.5, single=True)),
    Fault("the last threshold is one float32 step off", "xgboost", threshold(1.0, single=True)),
    Fault("the first threshold is one double step off", "histogram", threshold(0.0, single=False)),
    Fault("the middle threshold is one double step off", "histogram", threshold(0.5, single=False)),
    Fault("the last threshold is one double step off", "lightgbm", threshold(1.0, single=False)),
    Fault("less-or-equal became less", "forest", trees(strict_thresholds)),
    Fault("less-or-equal became less", "histogram", trees(strict_thresholds)),
    Fault("less-or-equal became less", "xgboost", trees(strict_thresholds)),
    Fault("the children of one node are exchanged", "boosting", trees(children_exchanged)),
    Fault("the children of one node are exchanged", "lightgbm", trees(children_exchanged)),
    Fault("one node sends missing numbers to the other side", "histogram", trees(missing_elsewhere)),
    Fault("one node sends missing numbers to the other side", "xgboost", trees(missing_elsewhere)),
    Fault("one node looks at the column beside", "forest", trees(column_beside)),
    Fault("one leaf is a hundredth off", "boosting", constant("Gather", element(20, _scaled(1.01)))),
    Fault("one leaf is a hundredth off", "lightgbm", constant("Gather", element(100, _scaled(1.01)), index=-1)),
    Fault("one leaf is nothing", "histogram", constant("Gather", element(30, zero))),
    Fault("the last tree is left out", "boosting", constant("Gather", _previous, size=1, dtype="i")),
    Fault("the last round is left out", "lightgbm", constant("Gather", _previous, size=1, index=-1, dtype="i")),
    Fault("the base score is left out", "boosting", constant("Gather", _without_base)),
    Fault(
        "a category is on the other side of a set",
        "lightgbm",
        constant("Gather", element(0, lambda value: 1 - value), dtype="u"),
    ),
    # linear models and what stands in front
    Fault("one coefficient is nothing", "scaled", constant("MatMul", element(4, zero))),
    Fault("one coefficient has the other sign", "ridge", constant("MatMul", element(1, np.negative))),
    Fault("the coefficient of an unseen category is another's", "table", constant("MatMul", element(3, _scaled(1.5)))),
    Fault("the intercept is left out", "ridge", constant("Add", zero, size=1)),
    Fault("the intercept is left out", "scaled", constant("Add", zero)),
    Fault("the mean of one column is shifted", "scaled", constant("Sub", element(1, _up(0.01)))),
    Fault("the spread of one column is another's", "scaled", constant("Div", _rolled)),
    Fault("one category is forgotten", "table", _forget(1)),
    Fault("one category is forgotten", "lightgbm", _forget(0)),
    Fault("an unseen category is the first", "table", attribute("LabelEncoder", "default_int64", lambda _: 0)),
    Fault("an unseen category is the first", "ordinal", attribute("LabelEncoder", "default_int64", lambda _: 0)),
    Fault("another number is filled in", "table", constant("Where", _up(0.5), size=1)),
    Fault("one edge of the bins is shifted", "bins", constant("Gather", element(1, step_up), size=3)),
    Fault("an edge belongs to the bin below", "bins", operator("LessOrEqual", "Less")),
    Fault("above became at least", "above", operator("Greater", "GreaterOrEqual")),
    Fault(
        "the classes of training rows are off by one",
        "neighbours",
        constant("Gather", _rolled, size=300, dtype="i", index=-1),
    ),
    Fault("the farthest are taken for the nearest", "neighbours", attribute("TopK", "largest", lambda _: 1)),
    # texts
    Fault(
        "one word of the vocabulary is dropped",
        "words",
        attribute("TfIdfVectorizer", "pool_strings", lambda words: [b"~", *words[1:]]),
    ),
    Fault("one word weighs differently", "words", constant("Mul", element(2, _scaled(1.05)))),
    Fault("texts keep their capitals", "words", attribute("StringNormalizer", "case_change_action", lambda _: "NONE")),
    Fault("the length of rows is not made one", "words", skipped("Div")),
    # networks
    Fault("a square weight is transposed", "mlp", constant("Gemm", np.transpose, size=36)),
    Fault("a bias is left out", "mlp", constant("Gemm", zero, size=3)),
    Fault("negative numbers pass a layer", "mlp", skipped("Relu")),
    Fault("dropout is left on", "mlp", at_hidden("Relu", dropped)),
    Fault("the padding is on one side only", "cnn", attribute("Conv", "pads", lambda _: [0, 0, 2, 2])),
    Fault("a bias is left out", "cnn", constant("Conv", zero, size=4, index=1)),
    Fault("filters are turned around", "cnn", constant("Conv", lambda array: array[:, :, ::-1, ::-1], size=36)),
    Fault("sums go over another axis", "means", constant("ReduceMean", lambda _: [1], size=1, dtype="i")),
    Fault("maxima go over another axis", "means", constant("ReduceMax", lambda _: [1], size=1, dtype="i")),
    Fault("epsilon is a hundred times larger", "norm", attribute("LayerNormalization", "epsilon", lambda _: 1e-3)),
    Fault("GELU is the fast form", "norm", gelu_by_tanh),
    Fault(
        "one row of the embedding is another's", "embedding", constant("Gather", element((19,), _scaled(0.9)), size=120)
    ),
    Fault("tokens are off by one", "embedding", constant("Gather", _rolled_rows, size=120)),
    Fault("places are off by one", "embedding", constant("Add", _rolled_rows, size=48)),
    Fault("divisions of whole numbers round to zero", "times", skipped("Sub", index=1)),
    Fault("time stamps are divided in float32", "times", in_float("Div")),
    Fault("a mask is ignored", "attention", at_input("mask", all_ones)),
    Fault("a mask has the other meaning", "attention", at_input("mask", flag_flipped)),
    Fault("scores are not scaled", "attention", skipped("Div")),
    Fault("queries and keys are exchanged", "attention", exchanged_inputs("linear", "linear_1")),
    Fault("hidden places are small, not nothing", "attention", constant("Where", lambda _: -1.0, size=1)),
    Fault("a mask is ignored", "bert", at_input("attention_mask", all_ones)),
    Fault("a mask has the other meaning", "bert", at_input("attention_mask", flag_flipped)),
    Fault("the kind of tokens is ignored", "bert", at_input("token_type_ids", times(0))),
    Fault("epsilon is a hundred times larger", "bert", attribute("LayerNormalization", "epsilon", lambda _: 1e-3)),
    Fault("GELU is the fast form", "bert", gelu_by_tanh),
    Fault("places are off by one", "bert", constant("Gather", _rolled_rows, size=24 * 32)),
)


@dataclass(frozen=True)
class Prepared:
    """A model registered and exported as a build does it."""

    source: Path
    common: Mapping[str, Any]
    interface: Any
    ranges: Any
    graph: bytes

    def findings(self, graph: Any, folder: Path) -> list[str]:
        """Measure the source against a graph as a build does; return what the rule `parity` says under defaults."""
        (folder / "artefact" / "model").mkdir(parents=True)
        (folder / "out").mkdir()
        onnx.save(graph, folder / "artefact" / "model" / "model.onnx")
        known = {"interface": self.interface, "ranges": self.ranges, "runtime": "onnxruntime"}
        params = {**self.common, **known, "path": "model/model.onnx"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = measure.run({"source": self.source, "artefact": folder / "artefact"}, folder / "out", params)
        return findings(self.interface, done)


def writer(name: str) -> Callable[[Path], Path]:
    """Return what writes a model; torch is imported only for networks."""
    if name in planted_models.MODELS:
        return planted_models.MODELS[name]
    return importlib.import_module("tests.matrix.planted_networks").MODELS[name]


def prepare(name: str, folder: Path) -> Prepared:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = writer(name)(folder / "source")
        kind, payload = detected(source)
        common = {"kind": kind, "payload": payload, **LEVEL}
        (folder / "graph").mkdir()
        facts = export.run({"source": source}, folder / "graph", common)
    graph = (folder / "graph" / "model" / "model.onnx").read_bytes()
    return Prepared(source, common, facts["interface"], facts["ranges"], graph)


@dataclass(frozen=True)
class Caught:
    """What became of a fault: whether it was seen, in which case, and what kind of difference it is said to be."""

    fault: str
    caught: bool
    case: str = ""
    kind: str = ""


def judge(fault: Fault, prepared: Prepared, folder: Path) -> Caught:
    graph = onnx.load_model_from_string(prepared.graph)
    try:
        fault.plant(graph)
        found = prepared.findings(graph, folder)
    except (LookupError, StepError) as error:  # a graph that is broken, not wrong, proves nothing
        return Caught(fault.title, caught=False, kind=f"not planted: {error}")
    if not found:
        return Caught(fault.title, caught=False)
    case = re.search(r"case `([^`]*)`", found[0])
    kind = re.search(r"; it (.*?) / ", found[0])
    return Caught(fault.title, True, case[1] if case else "", kind[1] if kind else "")


def judged(faults: tuple[Fault, ...] = FAULTS) -> Iterator[Caught]:
    """Judge faults model by model; a graph without a fault must be right."""
    for name in dict.fromkeys(fault.model for fault in faults):
        with tempfile.TemporaryDirectory() as folder:
            prepared = prepare(name, Path(folder))
            honest = prepared.findings(onnx.load_model_from_string(prepared.graph), Path(folder) / "honest")
            assert not honest, f"{name}: {honest[0]}"
            for number, fault in enumerate(fault for fault in faults if fault.model == name):
                yield judge(fault, prepared, Path(folder) / str(number))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("models", nargs="*")
    asked = parser.parse_args()
    lines = asked.out.read_text().splitlines() if asked.out.exists() else []
    done = {json.loads(line)["fault"] for line in lines}
    named = [fault for fault in FAULTS if not asked.models or fault.model in asked.models]
    with asked.out.open("a") as out:
        for found in judged(tuple(fault for fault in named if fault.title not in done)):
            print(json.dumps(asdict(found)), file=out, flush=True)


if __name__ == "__main__":
    main()
