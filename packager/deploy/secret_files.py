# SPDX-License-Identifier: Apache-2.0
"""Secrets of a server as files: those that a site names, or files in memory for what a variable holds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from packager.errors import UsageError

HELD = "PACKAGER_HELD__"  # and the name of a variable: the descriptor that holds what it held


def open_secret(knob: str, reference: str, variables: Mapping[str, str]) -> str:
    """Return the path of a file that holds a secret: the one named, or one in memory that the next program inherits.

    Raises UsageError.
    """
    kind, _, place = reference.partition(":")
    if kind == "file":
        return place
    if kind == "k8s":
        raise UsageError(
            f"`{knob}`: `{reference}` is a secret of a cluster, and this is no pod",
            hint="mount it and give the mounted file as `file:/path`",
        )
    if f"{HELD}{place}" in variables:
        return f"/proc/self/fd/{variables[f'{HELD}{place}']}"
    if place not in variables:
        raise UsageError(f"`{knob}`: the variable `{place}` is not set", hint=f"{place}=… packager serve …")
    return f"/proc/self/fd/{_in_memory(place, variables[place])}"


def hold_secrets(references: Iterable[str], variables: Mapping[str, str]) -> dict[str, str] | None:
    """Return the environment to start this program anew without the secrets that `references` name in `variables`.

    None if they name none. The secrets are in memory files then: who may read /proc/PID/environ of a process that runs
    for months finds them no more.
    """
    names = [name for kind, _, name in (text.partition(":") for text in references) if kind == "env"]
    held = {name for name in names if name in variables}
    if not held:
        return None
    kept = {name: value for name, value in variables.items() if name not in held}
    return kept | {f"{HELD}{name}": str(_in_memory(name, variables[name])) for name in held}


def _in_memory(name: str, value: str) -> int:
    """Return a descriptor of a file that no disk ever sees; without MFD_CLOEXEC, so that it outlives `exec`."""
    descriptor = os.memfd_create(name, 0)
    os.write(descriptor, value.encode())
    return descriptor
