# SPDX-License-Identifier: Apache-2.0
"""A trusted signer must say how the bundle was built.

At least one SLSA v1 provenance statement, by a trusted signer, that names its builder. `signers` limits who counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

FACTS = ("provenance",)
DEFAULTS: Mapping[str, JSON] = {"signers": []}


def check(facts: Mapping[str, JSON], signers: list[str]) -> Iterator[Finding]:
    """Yield a finding when nobody who counts says how the bundle was built."""
    told = [item for item in facts["provenance"] if item["builder"] and (not signers or item["signer"] in signers)]
    if not told:
        yield Finding(
            "provenance",
            "error",
            "provenance",
            f"expected provenance that names its builder, got {len(facts['provenance'])} statements that do not count",
            "attach it where the bundle is built: `packager attest --type https://slsa.dev/provenance/v1`",
            evidence={"statements": facts["provenance"]},
        )
