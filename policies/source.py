# SPDX-License-Identifier: Apache-2.0
"""The bundle must be built from allowed sources.

`allow` lists URIs of sources (`resolvedDependencies` of SLSA v1), with `*` and `?` as patterns. Each provenance
statement of a trusted signer must name at least one source, and only allowed ones.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("provenance",)
DEFAULTS: Mapping[str, JSON] = {"allow": []}
_HINT = "build from an allowed registry, or add the source to `allow` of the rule"


def check(facts: Mapping[str, JSON], allow: list[str]) -> Iterator[Finding]:
    """Yield a finding for each source that is not allowed, and one when no source is named."""
    if not facts["provenance"]:
        yield Finding("source", "error", "provenance", "no trusted signer states what the bundle was built from", _HINT)
    for item in facts["provenance"]:
        if not item["sources"]:
            yield Finding(
                "source", "error", "provenance", f"the provenance by `{item['signer']}` names no source", _HINT
            )
        for uri in item["sources"]:
            if not any(fnmatch.fnmatchcase(uri, pattern) for pattern in allow):
                yield Finding(
                    "source", "error", uri, f"source `{uri}` is not allowed", _HINT, evidence={"allow": allow}
                )
