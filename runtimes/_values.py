# SPDX-License-Identifier: Apache-2.0
"""Which values a runtime does not keep: missing numbers (`nan`), and whole numbers beyond 32 bits (`int64`).

What a table says of an operator is about ordinary numbers; these are asked apart, because a runtime treats them alike
in most operators: it computes in 32 bits, or compares so that a NaN becomes a bound.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from packager.runtimes import _answers, _trials
from packager.runtimes._answers import Run

from packager.canonical import JSON
from packager.graph import canonicalise

_OPSET, _IR = 14, 7
_OF_NAN = ("Relu", "Abs", "Neg", "Sigmoid", "Tanh", "LeakyRelu", "Exp", "Floor", "Identity")
_OF_TWO = ("Max", "Min", "Add", "Mul")
_OF_WHOLE = ("Add", "Mul", "Sub", "Div")


def find_lacks(run: Run) -> list[str]:
    """Return the kinds of values that a runtime does not keep: `nan`, `int64`, or `nan Floor` where it is one operator.

    One that gives something else than ONNX Runtime in several operators is not trusted in those that were not tried.
    """
    found: list[str] = []
    for kind, graphs in (("int64", [*_of_whole_numbers()]), ("nan", [*_of_missing_numbers()])):
        answered = _answers.answered([trial for _, trial in graphs])
        asked = {name: trial for (name, _), trial in zip(graphs, answered, strict=True) if trial}
        reported = dict(zip(asked, run([*asked.values()]), strict=True))
        wrong = [name for name, text in reported.items() if text.startswith("differs")]
        none = "ok" not in reported.values()
        if not asked:
            continue  # this host has no ONNX Runtime to say what graphs give
        found += [kind] if none or len(wrong) > 1 else [f"{kind} {name}" for name in wrong]
    return found


def row_of(limits: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return what the row of a version says of values, nothing where it keeps them all."""
    return {"lacks": limits["lacks"]} if limits.get("lacks") else {}


def _of_missing_numbers() -> Iterator[tuple[str, _trials.Trial]]:
    numpy = importlib.import_module("numpy")
    x = numpy.array([[numpy.nan, 1, -1], [2, numpy.nan, -3]], "float32")
    other = numpy.zeros((2, 3), "float32")
    for operator in _OF_NAN:
        yield _graph(operator, {"x": x})
    for operator in _OF_TWO:
        yield _graph(operator, {"x": x, "y": other})
    yield _graph("Clip", {"x": x, "y": numpy.float32(0), "z": numpy.float32(1)})
    yield _graph("Softmax", {"x": x}, axis=-1)


def _of_whole_numbers() -> Iterator[tuple[str, _trials.Trial]]:
    numpy = importlib.import_module("numpy")
    x = numpy.array([[2**40 + 2**33, -(2**35)], [2**31, -(2**31) - 1]], "int64")
    for operator in _OF_WHOLE:
        yield _graph(operator, {"x": x, "y": numpy.array([[3, 5], [1, 7]], "int64")})
    for operator in ("Abs", "Neg", "Identity", "ReduceSum"):
        yield _graph(operator, {"x": x})
    yield _graph("Equal", {"x": x, "y": x % 2**32}, "BOOL")
    yield _graph("Less", {"x": x, "y": x % 2**32}, "BOOL")
    yield _graph("Gather", {"x": x, "y": numpy.array([1], "int64")}, axis=0)
    yield _graph("Cast", {"x": x}, "FLOAT", to=canonicalise.import_onnx().TensorProto.FLOAT)


def _graph(operator: str, feeds: Mapping[str, Any], gives: str = "", **attributes: Any) -> tuple[str, _trials.Trial]:
    """Return an operator and a graph of it, every array an input, with these arrays."""
    onnx, helper = canonicalise.import_onnx(), canonicalise.import_onnx().helper
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feeds.items()}
    given = [helper.make_tensor_value_info(name, kinds[name], array.shape) for name, array in feeds.items()]
    kind = getattr(onnx.TensorProto, gives) if gives else kinds["x"]
    node = helper.make_node(operator, [*feeds], ["out"], **attributes)
    made = helper.make_graph([node], "values", given, [helper.make_tensor_value_info("out", kind, None)])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    return operator, _trials.Trial(model.SerializeToString(deterministic=True), _trials.pack_arrays(feeds))
