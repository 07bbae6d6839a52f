# SPDX-License-Identifier: Apache-2.0
"""The format numbers of `contract.json` that this program writes and reads."""

from __future__ import annotations

from packager.canonical import JSON

FORMAT = 2
READABLE = (1, 2)
"""In format 1 the measured lengths are the limits, and no values are refused."""


def is_readable(document: JSON) -> bool:
    """Return whether a contract, as JSON, is of a format that this program reads."""
    return isinstance(document, dict) and type(document.get("format")) is int and document["format"] in READABLE
