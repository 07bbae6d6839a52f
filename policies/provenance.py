# SPDX-License-Identifier: Apache-2.0
"""A trusted signer must have attested how the bundle was built.

There must be at least one SLSA v1 provenance statement by a trusted signer that names its builder. `signers` restricts
which signers count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("provenance",)
DEFAULTS: Mapping[str, JSON] = {"signers": []}


def check(facts: Mapping[str, JSON], signers: list[str]) -> Iterator[Finding]:
    """Yield a finding when no statement by a signer that counts names its builder."""
    counted = [item for item in facts["provenance"] if item["builder"] and (not signers or item["signer"] in signers)]
    if not counted:
        yield Finding(
            "provenance",
            "error",
            "provenance",
            f"expected provenance that names its builder, got {len(facts['provenance'])} statements that do not count",
            "attach it where the bundle is built: `packager attest BUNDLE --type https://slsa.dev/provenance/v1`",
            evidence={"statements": facts["provenance"]},
        )
