# SPDX-License-Identifier: Apache-2.0
"""The source must have been opened in a sandbox.

`levels` are the acceptable ones: `bubblewrap`, `namespaces` (the same isolation without that program), `none`. With
`seccomp` the worker's system calls must have been filtered. With `whole` the worker must have had no root privileges,
and limits for all its processes together; with `landlock` the kernel must have restricted its file access a second
time. Of several workers the weakest counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("confinement",)
DEFAULTS: Mapping[str, JSON] = {
    "levels": ["bubblewrap", "namespaces"],
    "seccomp": True,
    "whole": True,
    "landlock": False,
}


def check(facts: Mapping[str, JSON], **params: JSON) -> Iterator[Finding]:
    """Yield one finding for each worker that was not confined as required."""
    if not facts["confinement"]:
        yield _finding("no trusted signer states how the source was opened", None)
    for row in facts["confinement"]:
        if row["level"] not in params["levels"]:
            wanted = " or ".join(params["levels"])
            yield _finding(f"the source was opened with confinement `{row['level']}`, expected {wanted}", row)
        elif params["seccomp"] and not row["seccomp"]:
            yield _finding("the source was opened without a filter of system calls", row)
        elif params["whole"] and (row["user"] not in ("own", "other") or row["limits"] not in ("step", "cgroup")):
            yield _finding("the source was opened with root privileges, or without limits for all processes", row)
        elif params["landlock"] and not row["landlock"]:
            yield _finding("the source was opened without Landlock", row)


def _finding(message: str, row: JSON) -> Finding:
    hint = "build on Linux (x86-64 or Arm) with bubblewrap, without `sandbox: none` in the recipe"
    return Finding("sandbox", "error", "worker", message, hint, evidence=row)
