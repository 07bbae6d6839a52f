# SPDX-License-Identifier: Apache-2.0
"""The model's licence must be stated and acceptable.

`allow` and `deny` are patterns of SPDX identifiers. Of `A AND B` both must be acceptable, of `A OR B` one. An empty
`allow` allows every licence that is not denied; a model without a licence is always a finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.policies import _licences

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("model",)
DEFAULTS: Mapping[str, JSON] = {"allow": [], "deny": ["AGPL-*", "SSPL-*", "BUSL-*", "CC-BY-NC-*"]}


def check(facts: Mapping[str, JSON], allow: list[str], deny: list[str]) -> Iterator[Finding]:
    """Yield a finding when the model has no licence, or one that is not acceptable."""
    found = facts["model"]["licence"]
    if found is None:
        message = "the model states no licence"
        yield Finding("model-licence", "error", "model", message, "add `license: …` (SPDX) to the recipe")
    elif not _licences.accepts(found, allow, deny):
        message = f"the licence of the model is not acceptable: `{found}`"
        yield Finding(
            "model-licence",
            "error",
            "model",
            message,
            "have the licence reviewed, then add it to `allow` or waive this finding",
            evidence={"allow": allow, "deny": deny},
        )
