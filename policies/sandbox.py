# SPDX-License-Identifier: Apache-2.0
"""The source must have been opened in a sandbox.

`levels` are the acceptable ones: `bubblewrap`, `namespaces` (the same view of the system without that program), `none`.
With `seccomp` the system calls of the worker must have been filtered too. Of several workers the weakest counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

FACTS = ("confinement",)
DEFAULTS: Mapping[str, JSON] = {"levels": ["bubblewrap", "namespaces"], "seccomp": True}


def check(facts: Mapping[str, JSON], **params: JSON) -> Iterator[Finding]:
    """Yield one finding for each build that was not confined as wanted."""
    if not facts["confinement"]:
        yield _finding("nobody trusted says how the source was opened", None)
    for row in facts["confinement"]:
        if row["level"] not in params["levels"]:
            wanted = " or ".join(params["levels"])
            yield _finding(f"the source was opened with confinement `{row['level']}`, expected {wanted}", row)
        elif params["seccomp"] and not row["seccomp"]:
            yield _finding("the source was opened without a filter of system calls", row)


def _finding(message: str, row: JSON) -> Finding:
    hint = "build on Linux (x86-64 or Arm) with bubblewrap, without `sandbox: none` in the recipe"
    return Finding("sandbox", "error", "worker", message, hint, evidence=row)
