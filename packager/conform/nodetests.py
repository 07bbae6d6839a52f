# SPDX-License-Identifier: Apache-2.0
"""ONNX's own backend node tests, for the operators that a bundle uses: they explain why a runtime gets it wrong.

The standard's tests are of the newest definitions; each is stamped with the opset of the bundle, so that what is tested
is what the bundle uses. What is not valid there, or holds values that no `.npz` can carry (sequences, 8-bit floats), is
left out and counted.

    DIR/index.json            [{"name", "operator", "folder", "rtol", "atol"}]
    DIR/<n>/model.onnx        beside it contract.json (its interface), inputs.npz and outputs.npz
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.errors import MissingToolError
from packager.graph import canonicalise

_DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)


@dataclass(frozen=True, slots=True)
class NodeTest:
    """One test of one operator; `model` is None where it cannot be run at the bundle's opset, or cannot travel."""

    name: str
    operator: str
    model: bytes | None = None
    inputs: Mapping[str, Any] | None = None
    outputs: Mapping[str, Any] | None = None
    rtol: float = 0.0
    atol: float = 0.0


def select_tests(facts: Mapping[str, JSON]) -> list[NodeTest]:
    """Return the tests whose every node is an operator that the graph of these facts uses.

    Raises MissingToolError where ONNX is not installed.
    """
    used = {name for domain in ("ai.onnx", "ai.onnx.ml") for name in facts["operators"].get(domain, {})}
    try:
        module = importlib.import_module("onnx.backend.test.case.node")
    except ImportError:
        raise MissingToolError("onnx", "onnx") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tests divide by zero on purpose
        found = module.collect_testcases(None)
    return [
        _test(case, facts)
        for case in found
        if case.data_sets and case.model.graph.node and {node.op_type for node in case.model.graph.node} <= used
    ]


def _test(case: Any, facts: Mapping[str, JSON]) -> NodeTest:
    name, operator = case.name, case.model.graph.node[0].op_type
    inputs, outputs = case.data_sets[0]
    feeds = {value.name: array for value, array in zip(case.model.graph.input, inputs, strict=False)}
    expected = {value.name: array for value, array in zip(case.model.graph.output, outputs, strict=False)}
    model = _stamped(case.model, facts)
    if model is None or not all(map(_travels, (*feeds.values(), *expected.values()))):
        return NodeTest(name, operator)
    return NodeTest(name, operator, model.SerializeToString(), feeds, expected, case.rtol, case.atol)


def _travels(array: Any) -> bool:
    numpy = importlib.import_module("numpy")
    known = isinstance(array, numpy.ndarray | numpy.generic)
    return known and (array.dtype.kind in "OUS" or array.dtype.name in _DTYPES)


def _stamped(model: Any, facts: Mapping[str, JSON]) -> Any:
    """Return the model at the opset of the bundle, None where its definitions do not allow it."""
    onnx = canonicalise.import_onnx()
    older = type(model).FromString(model.SerializeToString())
    older.ir_version = min(model.ir_version, facts["ir"])
    for entry in older.opset_import:
        entry.version = min(entry.version, facts["opset"].get(entry.domain or "ai.onnx", entry.version))
    try:
        onnx.checker.check_model(older, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError):
        return None
    return older


def write(found: Sequence[NodeTest], folder: Path) -> None:
    """Write the tests that can be run into `folder`, an empty directory."""
    numpy = importlib.import_module("numpy")
    index = []
    for number, test in enumerate(test for test in found if test.model is not None):
        test_folder = folder / str(number)
        test_folder.mkdir()
        (test_folder / "model.onnx").write_bytes(test.model or b"")
        parts = {"inputs": test.inputs or {}, "outputs": test.outputs or {}}
        for part, arrays in parts.items():
            plain = {name: _plain(array) for name, array in arrays.items()}
            numpy.savez(test_folder / f"{part}.npz", **plain)
        interface = {part: [_port(name, array) for name, array in arrays.items()] for part, arrays in parts.items()}
        document = {"format": 1, "interface": {**interface, "dimensions": {}}, "targets": {}}
        (test_folder / "contract.json").write_text(json.dumps(document))
        index.append(
            {"name": test.name, "operator": test.operator, "folder": str(number), "rtol": test.rtol, "atol": test.atol}
        )
    (folder / "index.json").write_text(json.dumps(index))


def _plain(array: Any) -> Any:
    numpy = importlib.import_module("numpy")
    array = numpy.asarray(array)
    return array.astype(str) if array.dtype.kind in "OS" else array


def _port(name: str, array: Any) -> JSON:
    return {
        "name": name,
        "dtype": "string" if array.dtype.kind in "OUS" else array.dtype.name,
        "shape": list(array.shape),
    }
