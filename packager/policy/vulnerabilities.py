# SPDX-License-Identifier: Apache-2.0
"""What is known about the packages of one bundle, and the statement that says so."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.errors import UsageError
from packager.policy import facts


@dataclass(frozen=True, slots=True)
class Vulnerabilities:
    """What imported advisories say of a bundle's packages on one day: `found` lists hits, packages and the database."""

    day: datetime.date
    found: Mapping[str, JSON]

    @property
    def predicate(self) -> dict[str, JSON]:
        """What a statement of type `urn:packager:vulnerabilities:v1` says."""
        return {"scannedOn": self.day.isoformat(), **self.found}


def find_vulnerabilities(bundle: Bundle, folder: Path, day: datetime.date) -> Vulnerabilities:
    """Look the packages of `bundle` up in the advisories of `folder`. Raises UsageError where nothing can be."""
    found = facts.of_bundle(bundle, None, {"vulnerabilities"}, day, folder).get("vulnerabilities")
    if found is None:
        raise UsageError(
            "nothing can be looked up: no advisories, or no packages in the SBOM", hint="`packager vulndb import FILE`"
        )
    return Vulnerabilities(day, found)
