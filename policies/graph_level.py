# SPDX-License-Identifier: Apache-2.0
"""Graphs must not be newer than the site's runtimes.

`opset` and `ir` are ceilings: the highest opset of `ai.onnx` and the highest IR version of any graph in the bundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

FACTS = ("graphs",)
DEFAULTS: Mapping[str, JSON] = {"opset": 23, "ir": 11}


def check(facts: Mapping[str, JSON], opset: int, ir: int) -> Iterator[Finding]:
    """Yield a finding for each graph above a ceiling."""
    for graph in facts["graphs"]:
        for name, ceiling in (("opset", opset), ("ir", ir)):
            if graph[name] > ceiling:
                yield Finding(
                    "graph-level",
                    "error",
                    f"{graph['path']}/{name}",
                    f"`{graph['path']}` needs {name} {graph[name]}; the highest allowed is {ceiling}",
                    "promise older runtimes under `runs-on`: the graph is exported down to them",
                )
