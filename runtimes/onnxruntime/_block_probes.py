# SPDX-License-Identifier: Apache-2.0
"""Products with weights in blocks (`MatMulNBits`), which a version is measured with: they run, and are compared.

Loading says little here: versions that lack an attribute refuse it, but others take a form and compute another. So
every form runs on one row and on several, beside the weights taken out of their blocks and multiplied in float64. A
kernel that is asked for float32 and rounds what it takes to eight bits is off by more than is allowed.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from packager.runtimes._trials import Trial, pack_arrays

from packager.graph import canonicalise, nbits

_COLUMNS, _BLOCKS, _ROWS = 40, 3, (1, 5)
_LEVELS = (0, 1, 4)
_ALLOWED = {"float32": 1e-5, "float16": 5e-3}
_ALLOWED_INT8 = 2e-2
_SINCE = 1  # the version of the operator set, the only one there is


def list_forms() -> Iterator[dict[str, Any]]:
    """Yield the forms that are tried: `T1`, `block`, `zeros`, `accuracy`, and `bias` in one of them."""
    for kind in _ALLOWED:
        for block, zeros, level in itertools.product(nbits.SIZES, ("none", "uint8", kind), _LEVELS):
            yield {"T1": kind, "block": block, "zeros": zeros, "accuracy": level}
    yield {"T1": "float32", "block": 32, "zeros": "uint8", "accuracy": 0, "bias": "float32"}


def make_trials() -> dict[str, list[Trial]]:
    """Return the trials of every form by the words of tables; a form is right where all of its trials are."""
    return dict(_trials_of(form) for form in list_forms())


def _trials_of(form: Mapping[str, Any]) -> tuple[str, list[Trial]]:
    numpy = importlib.import_module("numpy")
    random = numpy.random.default_rng(0)
    rows, kind = form["block"] * _BLOCKS, form["T1"]
    least = (
        nbits.MIDDLE + 1 if form["zeros"] == "none" else 0
    )  # sums far from zero, so that errors are relative to them
    codes = random.integers(least, 16, (_COLUMNS, rows), dtype=numpy.uint8)
    inputs = {
        "packed": nbits.pack_codes(codes, form["block"]),
        "scales": random.uniform(0.5, 1.5, (_COLUMNS, _BLOCKS)).astype(kind),
    }
    if form["zeros"] != "none":
        zeros = random.integers(0, 5, (_COLUMNS, _BLOCKS), dtype=numpy.uint8)
        inputs["zeros"] = nbits.pack_zeros(zeros) if form["zeros"] == "uint8" else zeros.astype(kind)
    weights = nbits.dequantise(inputs["packed"], inputs["scales"], inputs.get("zeros"))
    extra = numpy.zeros(_COLUMNS)
    if "bias" in form:
        inputs["bias"] = random.uniform(0, 9, _COLUMNS).astype(kind)
        extra = inputs["bias"].astype(numpy.float64)
    node, graph = _graph(form, inputs)
    types = {"x": kind, **{name: array.dtype.name for name, array in inputs.items()}}
    words = f"{nbits.DOMAIN} {nbits.OPERATOR} {_SINCE} {nbits.describe(node, types)}"
    allowed = _ALLOWED_INT8 if form["accuracy"] == nbits.ACTIVATIONS["int8"] else _ALLOWED[kind]
    found = []
    for count in _ROWS:
        x = random.uniform(0.5, 1.5, (count, rows)).astype(kind)
        expected = (x.astype(numpy.float64) @ weights + extra).astype(kind)
        found.append(Trial(graph, pack_arrays({"x": x}), pack_arrays({"0": expected}), allowed))
    return words, found


def _graph(form: Mapping[str, Any], inputs: Mapping[str, Any]) -> tuple[Any, bytes]:
    """Return the node of a form, and the serialised graph around it."""
    onnx = canonicalise.import_onnx()
    helper, kind = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype(inputs["scales"].dtype)
    names = ["x", *(name if name in inputs else "" for name in ("packed", "scales", "zeros", "", "bias"))]
    while not names[-1]:
        names.pop()
    sizes = {"K": form["block"] * _BLOCKS, "N": _COLUMNS, "bits": nbits.BITS, "block_size": form["block"]}
    level = {"accuracy_level": form["accuracy"]} if form["accuracy"] else {}
    node = helper.make_node(nbits.OPERATOR, names, ["y"], domain=nbits.DOMAIN, **sizes, **level)
    made = helper.make_graph(
        [node],
        "probe",
        [helper.make_tensor_value_info("x", kind, ["rows", sizes["K"]])],
        [helper.make_tensor_value_info("y", kind, ["rows", _COLUMNS])],
        [onnx.numpy_helper.from_array(array, name) for name, array in inputs.items()],
    )
    sets = [helper.make_opsetid("", 15), helper.make_opsetid(nbits.DOMAIN, _SINCE)]
    data: bytes = helper.make_model(made, opset_imports=sets, ir_version=8).SerializeToString(deterministic=True)
    return node, data
