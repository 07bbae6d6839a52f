# SPDX-License-Identifier: Apache-2.0
"""The licences of all locked packages must be acceptable.

`allow` and `deny` are patterns of SPDX identifiers, as for `model-licence`. A package whose licence is not an SPDX
expression is a finding as well, unless `unknown` names the package (with `*` and `?`).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping

from packager.policies import _licences

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("components",)
DEFAULTS: Mapping[str, JSON] = {"allow": [], "deny": ["AGPL-*", "GPL-*", "SSPL-*", "BUSL-*"], "unknown": []}


def check(facts: Mapping[str, JSON], allow: list[str], deny: list[str], unknown: list[str]) -> Iterator[Finding]:
    """Yield a finding for each package whose licence is not acceptable or unknown."""
    for item in facts["components"]:
        subject, found = f"{item['name']}=={item['version']}", item["licence"]
        if found is None and not any(fnmatch.fnmatchcase(item["name"], pattern) for pattern in unknown):
            words = f": its metadata says `{item['words']}`" if item["words"] else ""
            message = f"the licence of `{subject}` is not an SPDX expression{words}"
            yield Finding(
                "code-licences", "error", subject, message, "read the licence, then name the package in `unknown`"
            )
        elif found is not None and not _licences.accepts(found, allow, deny):
            message = f"the licence of `{subject}` is not acceptable: `{found}`"
            yield Finding(
                "code-licences",
                "error",
                subject,
                message,
                "replace the package, or waive this finding",
                evidence={"licence": found},
            )
