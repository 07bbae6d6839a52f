# SPDX-License-Identifier: Apache-2.0
"""Locked packages must be allowed, in an allowed version.

`deny` and `allow` are requirements as pip reads them (`torch<2.6`, `pyyaml`). A package that matches `deny` is a
finding; so is one that does not match `allow`, unless `allow` is empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("components",)
DEFAULTS: Mapping[str, JSON] = {"allow": [], "deny": []}
_HINT = "lock another version (`dependencies` in the recipe), or change the list of the rule"


def check(facts: Mapping[str, JSON], allow: list[str], deny: list[str]) -> Iterator[Finding]:
    """Yield a finding for each package that is denied, or not allowed."""
    allowed, denied = [Requirement(line) for line in allow], [Requirement(line) for line in deny]
    for item in facts["components"]:
        subject = f"{item['name']}=={item['version']}"
        if hit := next((line for line in denied if _matches(line, item)), None):
            yield Finding("dependencies", "error", subject, f"`{subject}` is denied by `{hit}`", _HINT)
        elif allowed and not any(_matches(line, item) for line in allowed):
            yield Finding("dependencies", "error", subject, f"`{subject}` is not among the allowed packages", _HINT)


def _matches(line: Requirement, item: Mapping[str, JSON]) -> bool:
    same = canonicalize_name(line.name) == canonicalize_name(item["name"])
    return same and line.specifier.contains(item["version"], prereleases=True)
