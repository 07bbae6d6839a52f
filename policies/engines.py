# SPDX-License-Identifier: Apache-2.0
"""Compiled engines must state their toolchain, and contain no host code unless the profile accepts it.

A compiled engine is native code. Its toolchain, with versions, must be in the contract. A version-compatible engine
also contains a runtime for the host's CPU: `host-code: true` accepts that. `devices` are patterns of accepted devices.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("artefacts",)
DEFAULTS: Mapping[str, JSON] = {"host_code": False, "devices": ["*"]}


def check(facts: Mapping[str, JSON], host_code: bool, devices: list[str]) -> Iterator[Finding]:
    """Yield a finding for each engine of unknown origin, with host code, or for a device that is not accepted."""
    for name, artefact in facts["artefacts"].items():
        if not artefact["engine"]:
            continue
        if not artefact["toolchain"] or not all(artefact["toolchain"].values()):
            yield Finding("engines", "error", name, f"engine `{name}` does not state its toolchain", "build it again")
        if artefact["host_code"] and not host_code:
            message = f"engine `{name}` contains code for the host's CPU"
            yield Finding("engines", "error", name, message, "promise one minor version of the runtime only")
        if not any(fnmatch.fnmatchcase(artefact["device"], pattern) for pattern in devices):
            message = f"engine `{name}` is for `{artefact['device']}`, which is not accepted"
            yield Finding("engines", "error", name, message, f"accepted are {', '.join(devices)}")
