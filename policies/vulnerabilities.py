# SPDX-License-Identifier: Apache-2.0
"""No locked package may have a known vulnerability of some severity, by recent advisories.

`severity` is the lowest severity that counts (`low`, `moderate`, `high`, `critical`); an advisory without a severity
always counts. A vulnerability that a trusted signer's VEX statement (OpenVEX, CycloneDX) explains does not count. The
newest advisory must be at most `days` old.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("vulnerabilities", "today")
DEFAULTS: Mapping[str, JSON] = {"severity": "high", "days": 14}
_ORDER = ("none", "low", "moderate", "high", "critical", "unknown")


def check(facts: Mapping[str, JSON], severity: str, days: int) -> Iterator[Finding]:
    """Yield a finding for old advisories, and one for each vulnerability that counts and has no VEX statement."""
    database = facts["vulnerabilities"]["database"]
    age = (date.fromisoformat(facts["today"]) - date.fromisoformat(database["newest"][:10])).days
    if age > days:
        message = f"the newest advisory is {age} days old, allowed are at most {days}"
        yield Finding("vulnerabilities", "error", "advisories", message, "import newer ones: `packager vulndb import`")
    least = _ORDER.index(severity) if severity in _ORDER else 0
    for hit in facts["vulnerabilities"]["found"]:
        if hit["vex"] is None and _ORDER.index(hit["severity"]) >= least:
            subject = f"{hit['package']}=={hit['version']}/{hit['id']}"
            message = f"`{hit['package']}=={hit['version']}` has {hit['id']} ({hit['severity']})"
            fixed = f"lock {' or '.join(hit['fixed'])}" if hit["fixed"] else "replace the package"
            yield Finding(
                "vulnerabilities",
                "error",
                subject,
                message,
                f"{fixed}, or attest a VEX statement with the reason why it does not apply",
                evidence=hit,
            )
