# SPDX-License-Identifier: Apache-2.0
"""Artefacts must be reproducible to the required level.

`stability` is that level. `bitwise`: a rebuild gives the same bytes. `recorded`: a rebuild gives other bytes with the
same function, and the lock pins the digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("artefacts",)
DEFAULTS: Mapping[str, JSON] = {"stability": "bitwise"}


_LEVELS = ("recorded", "bitwise")


def check(facts: Mapping[str, JSON], stability: str) -> Iterator[Finding]:
    """Yield a finding for each target below the required level; an unknown level is above all others."""
    wanted = _LEVELS.index(stability) if stability in _LEVELS else len(_LEVELS)
    for name, artefact in facts["artefacts"].items():
        if _LEVELS.index(artefact["stability"]) < wanted:
            message = f"target `{name}` is `{artefact['stability']}`, expected `{stability}`"
            yield Finding("reproducibility", "error", name, message, "leave the target out, or accept `recorded`")
