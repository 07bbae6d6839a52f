# SPDX-License-Identifier: Apache-2.0
"""The SBOM must be complete enough.

`elements` are the required elements, by the names that `packager sbom --report` prints (`*` and `?` match several);
`licensed` is the minimum share of components, 0 to 1, whose licence is an SPDX expression.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("sbom",)
DEFAULTS: Mapping[str, JSON] = {
    "elements": [
        "unique identifier",
        "name and version",
        "identifier",
        "origin",
        "graph and weights with hashes",
        "component name",
        "dependency relationship*",
        "hash of every file",
    ],
    "licensed": 0.95,
}
_HINT = "`packager sbom BUNDLE --report` lists what is missing and how to add it"


def check(facts: Mapping[str, JSON], elements: list[str], licensed: float) -> Iterator[Finding]:
    """Yield a finding for each required element that is missing, and one for too few licences."""
    report = facts["sbom"]
    groups = {name: missing for name, missing in report["clusters"].items() if name != "Dataset properties"}
    for group, missing in {**groups, "NTIA": report["ntia"]}.items():
        for name in missing:
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in elements):
                yield Finding("sbom", "error", f"{group}/{name}", f"the SBOM lacks `{name}` ({group})", _HINT)
    if report["licensed"] < licensed:
        message = f"{report['licensed']:.0%} of components have a licence, expected {licensed:.0%}"
        yield Finding("sbom", "error", "licences", message, _HINT, evidence={"unlicensed": report["unlicensed"]})
