# SPDX-License-Identifier: Apache-2.0
"""Every package must be pinned to its hashes.

Each line of each `deps/<runtime>/requirements*.txt` must name one version and at least one SHA-256. `runtimes` lists
the promised runtimes that need no lock (a server in its own container); any other runtime without a lock is a finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("locks", "promises")
DEFAULTS: Mapping[str, JSON] = {"runtimes": []}
_HINT = "lock it again: `packager lock`"


def check(facts: Mapping[str, JSON], runtimes: list[str]) -> Iterator[Finding]:
    """Yield a finding for each line without a hash, and for each promised runtime without a lock."""
    for runtime, files in facts["locks"].items():
        for name, lock in files.items():
            for line in lock["unhashed"]:
                path = f"deps/{runtime}/{name}"
                yield Finding("hash-locked", "error", path, f"`{path}` has a line without a hash: `{line}`", _HINT)
    for runtime in facts["promises"]:
        if runtime not in runtimes and not any(lock["pins"] for lock in facts["locks"].get(runtime, {}).values()):
            message = f"runtime `{runtime}` is promised, but no package is locked for it"
            yield Finding("hash-locked", "error", runtime, message, _HINT)
