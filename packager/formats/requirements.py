# SPDX-License-Identifier: Apache-2.0
"""Requirements files with hashes, the form that pip-tools writes and every pip installs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pinned:
    """One locked distribution."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]


def parse(text: str) -> tuple[Pinned, ...]:
    """Read a requirements file with hashes, as `compile_lock` writes it."""
    found = []
    for entry in text.replace("\\\n", " ").splitlines():
        requirement, *hashes = entry.split("--hash=")
        head, _, marker = requirement.partition(";")
        name, _, version = head.strip().partition("==")
        if name:
            found.append(Pinned(name.strip(), version.strip(), marker.strip(), tuple(h.strip() for h in hashes)))
    return tuple(sorted(found, key=lambda pinned: (pinned.name, pinned.version)))
