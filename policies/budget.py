# SPDX-License-Identifier: Apache-2.0
"""A bundle must fit a size budget.

`bytes` is the maximum size of all files (equal content counted once), `files` their maximum number, `largest` the
maximum size of one file in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("contents",)
DEFAULTS: Mapping[str, JSON] = {"bytes": 50_000_000_000, "files": 10_000, "largest": 10_000_000_000}


def check(facts: Mapping[str, JSON], bytes: int, files: int, largest: int) -> Iterator[Finding]:  # noqa: A002 - as written in profiles
    """Yield a finding for each budget that is exceeded."""
    contents = facts["contents"]
    sizes = [file["size"] for file in contents["files"]]
    rows = (
        ("bytes", contents["bytes"], bytes),
        ("files", len(sizes), files),
        ("largest", max(sizes, default=0), largest),
    )
    for name, got, most in rows:
        if got > most:
            message = f"budget `{name}`: expected at most {most}, got {got}"
            yield Finding("budget", "error", name, message, "leave targets or vendored wheels out, or raise the budget")
