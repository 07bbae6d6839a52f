# SPDX-License-Identifier: Apache-2.0
"""Measure ONNX Runtime as it is published at npm: for node (native) and for browsers (WebAssembly, run under node)."""

from __future__ import annotations

import functools
import importlib
import re
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from packager.runtimes import _kernels, _loading, _probes, _trials, _values
from packager.runtimes._trials import Trial

from packager.canonical import JSON
from packager.events import Finished, OnEvent, Started, ignore
from packager.graph import canonicalise

TRIAL = Path(__file__).with_name("_trial.mjs")
_TYPES = re.compile(r"\w+")
_FED = {name: name for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "bool")}
_FED |= {name: name for name in ("uint8", "uint16", "uint32", "uint64")} | {"string": "U"}


def read_facts(node: Path) -> JSON:
    """Return what the package in a folder of npm says of itself, None if it cannot run the most trivial graph."""
    return _trials.read_facts(node, TRIAL) if run_trials(node, [_probes.trivial_run()]) == ["ok"] else None


def run_trials(node: Path, graphs: Sequence[Trial]) -> list[str]:
    """Load, run and compare every graph in the package beside `node`; return what it said."""
    return _trials.run(node, TRIAL, graphs)


def measure(name: str, node: Path, on_event: OnEvent = ignore) -> tuple[JSON, _kernels.Kernels]:
    """Return the limits of the package beside `node` (`opset`, `ir`, `lacks`), and what each probe did."""
    label = f"probe {name}"
    on_event(Started(label))
    started = time.monotonic()
    run = functools.partial(run_trials, node)
    limits, outcomes = _loading.measure_loading(run)
    limits = {**limits, "lacks": _values.find_lacks(run)}
    closed = _list_closed_types(run)
    on_event(Finished(label, time.monotonic() - started))
    return limits, doubt_types(outcomes, closed)


def doubt_types(outcomes: _kernels.Kernels, closed: Collection[str]) -> _kernels.Kernels:
    """Return outcomes where an operator that loads is `unclear` on types that no tensor of the package can hold.

    Such values live inside a graph, and cannot enter or leave it.
    """
    return {
        words: "unclear" if said == "ok" and {*_TYPES.findall(words)} & {*closed} else said
        for words, said in outcomes.items()
    }


def _list_closed_types(run: _loading.Run) -> list[str]:
    """Return the element types that JavaScript can neither give nor take, of those that numpy has."""
    numpy, helper = importlib.import_module("numpy"), canonicalise.import_onnx().helper
    graphs = []
    for name in _FED:
        kind = _probes.make_type(name, 1)
        ports = [helper.make_value_info(port, kind) for port in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ports[:1], ports[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=_probes.IR)
        array = _trials.pack_arrays({"x": numpy.array(["a", "b"] if name == "string" else [0, 1]).astype(_FED[name])})
        graphs.append(Trial(model.SerializeToString(deterministic=True), array))
    return [name for name, said in zip(_FED, run(graphs), strict=True) if said != "ok"]


def make_table(name: str, version: str, limits: JSON, outcomes: _kernels.Kernels) -> JSON:
    """Return a table of knowledge with the one measured row. It opens what is made for ONNX Runtime."""
    row = {
        "source": "measured",
        "opset": limits["opset"],
        "complete": _kernels.complete(outcomes, limits["opset"]["ai.onnx"]),
        "ir": limits["ir"],
        **_values.row_of(limits),
        "opens": ["onnxruntime"],
    }
    return {
        "format": 1,
        "runtime": name,
        "serial": 0,
        "versions": {version: row},
        "kernels": _kernels.tabulate_kernels({version: outcomes}),
    }
