# SPDX-License-Identifier: Apache-2.0
"""Only builders that are known may have built the bundle.

`allow` lists builder identities (`runDetails.builder.id` of SLSA v1), with `*` and `?` as patterns. Every provenance
statement of a trusted signer must name one of them: with an empty list nothing is allowed.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

FACTS = ("provenance",)
DEFAULTS: Mapping[str, JSON] = {"allow": []}
_HINT = "build it where releases are built, or add the builder to `allow` of the rule"


def check(facts: Mapping[str, JSON], allow: list[str]) -> Iterator[Finding]:
    """Yield a finding for each builder that is not known, and one when no builder is named."""
    if not facts["provenance"]:
        yield Finding("builder", "error", "provenance", "nobody trusted says who built the bundle", _HINT)
    for item in facts["provenance"]:
        name = item["builder"] or ""
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in allow):
            said = f"builder `{name}`" if name else "a builder without a name"
            yield Finding(
                "builder", "error", name or "provenance", f"{said} is not allowed", _HINT, evidence={"allow": allow}
            )
