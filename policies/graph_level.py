# SPDX-License-Identifier: Apache-2.0
"""Graphs must not need a newer ONNX than the site's runtimes support.

`opset` and `ir` are maxima: of the opset of `ai.onnx` and of the IR version of every graph in the bundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("graphs",)
DEFAULTS: Mapping[str, JSON] = {"opset": 23, "ir": 11}


def check(facts: Mapping[str, JSON], opset: int, ir: int) -> Iterator[Finding]:
    """Yield a finding for each graph above a maximum."""
    for graph in facts["graphs"]:
        for name, maximum in (("opset", opset), ("ir", ir)):
            if graph[name] > maximum:
                yield Finding(
                    "graph-level",
                    "error",
                    f"{graph['path']}/{name}",
                    f"`{graph['path']}` needs {name} {graph[name]}; the highest allowed is {maximum}",
                    "promise older runtimes under `runs-on`: the graph is exported at a level they support",
                )
