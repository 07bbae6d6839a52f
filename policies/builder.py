# SPDX-License-Identifier: Apache-2.0
"""The bundle must come from an allowed builder.

`allow` lists builder identities (`runDetails.builder.id` of SLSA v1), with `*` and `?` as patterns. Every provenance
statement of a trusted signer must name one of them; an empty list allows no builder.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("provenance",)
DEFAULTS: Mapping[str, JSON] = {"allow": []}
_HINT = "build it where releases are built, or add the builder to `allow` of the rule"


def check(facts: Mapping[str, JSON], allow: list[str]) -> Iterator[Finding]:
    """Yield a finding for each builder that is not allowed, and one when no statement names a builder."""
    if not facts["provenance"]:
        yield Finding(
            "builder", "error", "provenance", "no trusted signer states which builder built the bundle", _HINT
        )
    for item in facts["provenance"]:
        name = item["builder"] or ""
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in allow):
            subject = f"builder `{name}`" if name else "a builder without a name"
            yield Finding(
                "builder", "error", name or "provenance", f"{subject} is not allowed", _HINT, evidence={"allow": allow}
            )
