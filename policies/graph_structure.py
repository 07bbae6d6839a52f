# SPDX-License-Identifier: Apache-2.0
"""ONNX graphs must be well-formed and use known operator domains.

Our own checker reads every graph in the bundle: external data stays inside the bundle, lengths agree with shapes, no
cycles, a bounded number of nodes. `domains` are the operator domains that a profile allows besides ONNX's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("graphs",)
DEFAULTS: Mapping[str, JSON] = {"domains": []}
_HINT = "export without custom operators, or name the domain in `domains` of the rule"


_STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml"})


def check(facts: Mapping[str, JSON], domains: list[str]) -> Iterator[Finding]:
    """Yield a finding for each malformed graph, and for each operator domain that is not allowed."""
    if not facts["graphs"]:
        yield Finding("graph-structure", "error", "graphs", "the bundle contains no ONNX graph")
    for graph in facts["graphs"]:
        if graph["problem"] is not None:
            message = f"`{graph['path']}`: {graph['problem']}"
            yield Finding("graph-structure", "error", graph["path"], message, "export the model again")
        for domain in graph["domains"]:
            if domain not in _STANDARD and domain not in domains:
                message = f"`{graph['path']}` uses operators of `{domain}`"
                yield Finding("graph-structure", "error", f"{graph['path']}/{domain}", message, _HINT)
