# SPDX-License-Identifier: Apache-2.0
"""ONNX's own backend node tests, for the operators that a bundle uses: they explain why a runtime gets it wrong.

The standard's tests are of the newest definitions; each is stamped with the opset of the bundle where it is valid
there, so that what is tested is what the bundle uses. Inputs that no `.npz` can carry (sequences, 8-bit floats) are
skipped and counted.
"""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager.runtimes.onnxruntime import probe
from packager.runtimes.onnxruntime.probes import Trial

from packager import graph
from packager.canonical import JSON

_PLAIN = "biufUSO"  # kinds of numpy arrays that travel; the rest are extensions such as bfloat16


@dataclass(frozen=True, slots=True)
class NodeTest:
    """One test of one operator; `trial` is None where its data cannot travel."""

    name: str
    operator: str
    trial: Trial | None


def tests(facts: Mapping[str, JSON]) -> list[NodeTest]:
    """Return the tests whose every node is an operator that the graph of these facts uses."""
    used = {name for domain in ("ai.onnx", "ai.onnx.ml") for name in facts["operators"].get(domain, {})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tests divide by zero on purpose
        found = importlib.import_module("onnx.backend.test.case.node").collect_testcases(None)
    return [
        NodeTest(case.name, case.model.graph.node[0].op_type, _trial(case, facts))
        for case in found
        if case.data_sets and case.model.graph.node and {node.op_type for node in case.model.graph.node} <= used
    ]


def _trial(case: Any, facts: Mapping[str, JSON]) -> Trial | None:
    inputs, outputs = case.data_sets[0]
    names = [value.name for value in case.model.graph.input]
    feeds, expected = _npz(dict(zip(names, inputs, strict=False))), _npz({str(n): a for n, a in enumerate(outputs)})
    if feeds is None or expected is None:
        return None
    return Trial(_stamped(case.model, facts).SerializeToString(), feeds, expected, case.rtol)


def _npz(arrays: Mapping[str, Any]) -> bytes | None:
    numpy, file = importlib.import_module("numpy"), io.BytesIO()
    if not all(isinstance(a, numpy.ndarray | numpy.generic) and a.dtype.kind in _PLAIN for a in arrays.values()):
        return None
    numpy.savez(file, **{name: a.astype(str) if a.dtype.kind == "O" else a for name, a in arrays.items()})
    return file.getvalue()


def _stamped(model: Any, facts: Mapping[str, JSON]) -> Any:
    """Return the model at the opset of the bundle, or as it is where the older definition does not allow it."""
    onnx = graph.tool()
    older = type(model).FromString(model.SerializeToString())
    older.ir_version = min(model.ir_version, facts["ir"])
    for entry in older.opset_import:
        entry.version = min(entry.version, facts["opset"].get(entry.domain or "ai.onnx", entry.version))
    try:
        onnx.checker.check_model(older, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError):
        return model
    return older


def run(python: Path, facts: Mapping[str, JSON]) -> JSON:
    """Run the tests on the runtime of an environment; return counts and failures by operator."""
    found = tests(facts)
    ready = [test for test in found if test.trial is not None]
    said = probe.trials(python, [test.trial for test in ready if test.trial is not None])
    report: dict[str, dict[str, JSON]] = {}
    for test in found:
        entry = report.setdefault(test.operator, {"passed": 0, "skipped": 0, "failed": {}})
        entry["skipped"] += test.trial is None
    for test, text in zip(ready, said, strict=True):
        if text == "ok":
            report[test.operator]["passed"] += 1
        elif any(gate in text for gate in probe.GATE):
            report[test.operator]["skipped"] += 1  # of a newer opset than this version reads, so not of the bundle's
        else:
            report[test.operator]["failed"][test.name] = text
    used = {name for names in facts["operators"].values() for name in names}
    return {"operators": dict(sorted(report.items())), "untested": sorted(used - set(report))}
