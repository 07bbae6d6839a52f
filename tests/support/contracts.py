# SPDX-License-Identifier: Apache-2.0
"""Contracts for tests: derived by the production code from the facts of a real graph."""

from __future__ import annotations

from functools import cache
from typing import Any

from packager import canonical
from packager.contract import contract, derivation
from packager.recipe import recipe
from tests.support import graphs

RECIPE = """
name: net
version: 1.0.0
source: net.onnx
runs-on:
  onnxruntime: ">=1.17"
  triton: ">=24.04"
slo: {p99_ms: 5, at_rps: 200, memory: 1GiB}
"""


def interface(**changes: Any) -> dict[str, Any]:
    value = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 2]}],
        "dimensions": {"batch": {"min": 1, "max": 8}},
    }
    return value | changes


@cache
def facts(name: str) -> Any:
    return graphs.facts(graphs.GRAPHS[name]().graph)


def derived(
    text: str = RECIPE, graph: str = "convolution at 18", ranges: Any = None, firm: tuple[str, ...] = (), **changes: Any
) -> Any:
    """Return a contract as JSON; `changes` are members of the interface."""
    main = {**facts(graph), "activations": {"bytes": 4096, "unknown": 0, "working": 1 << 20}}
    exported = {"interface": interface(**changes), "ranges": ranges or {}, "firm": firm, "graph": main}
    parsed = recipe.parse(text, "bundle.yaml")
    paths = {target.name: "model/model.onnx" for target in parsed.targets()}
    return derivation.derive(parsed, exported, paths)


def read(value: Any) -> contract.Contract:
    return contract.parse(canonical.dump(value))
