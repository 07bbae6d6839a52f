# SPDX-License-Identifier: Apache-2.0
"""One element that an SBOM should have, filled or missing."""

from __future__ import annotations

from dataclasses import dataclass

from packager.canonical import JSON


@dataclass(frozen=True, slots=True)
class Element:
    """One element that an SBOM should have. `remedy` says how to fill it."""

    name: str
    filled: bool
    remedy: str

    def to_json(self) -> JSON:
        return {"element": self.name, "filled": self.filled, **({} if self.filled else {"remedy": self.remedy})}
