# SPDX-License-Identifier: Apache-2.0
"""Promised service-level objectives must have been measured and met.

Each objective in the contract (`p99_ms`, `at_rps`, `cold_start_s`, `memory`) must hold in every conformance cell that
passed and measured it, and at least one cell must have measured it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("slo", "conformance")


_HINT = "measure with `packager conform`, or promise what holds"
_MORE_IS_BETTER = frozenset({"at_rps"})


def check(facts: Mapping[str, JSON]) -> Iterator[Finding]:
    """Yield a finding for each objective that a cell misses, or that no cell measured."""
    cells = [cell for item in facts["conformance"] for cell in item["cells"] if cell["outcome"] == "pass"]
    for name, promised in facts["slo"].items():
        measured = [cell for cell in cells if name in cell["measures"]]
        if not measured:
            yield Finding("slo", "error", name, f"objective `{name}: {promised:g}` was not measured", _HINT)
        for cell in measured:
            got = cell["measures"][name]
            if got < promised if name in _MORE_IS_BETTER else got > promised:
                where = f"{cell['target']}/{cell['runtime']}=={cell['version']}"
                message = f"objective `{name}` is missed on `{where}`: promised {promised:g}, got {got:g}"
                yield Finding("slo", "error", f"{name}/{where}", message, _HINT)
