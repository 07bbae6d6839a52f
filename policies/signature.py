# SPDX-License-Identifier: Apache-2.0
"""A trusted signer must have signed the bundle.

At least `least` different signers are required; with `signers` only those, by their names in the trust file, count. The
trust file decides which signers are trusted: this rule counts the signatures that verification accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("statements",)
DEFAULTS: Mapping[str, JSON] = {"least": 1, "signers": []}


_BUNDLE = "urn:packager:bundle:v1"


def check(facts: Mapping[str, JSON], least: int, signers: list[str]) -> Iterator[Finding]:
    """Yield a finding when too few of the signers that count have signed."""
    found = sorted({item["signer"] for item in facts["statements"] if item["type"] == _BUNDLE})
    counted = [name for name in found if not signers or name in signers]
    if len(counted) < max(least, 1):
        whose = f" of {', '.join(signers)}" if signers else ""
        yield Finding(
            "signature",
            "error",
            "signature",
            f"expected {max(least, 1)} signatures{whose}, got {len(counted)}",
            "sign it: `packager sign BUNDLE --key …`",
            evidence={"signers": found},
        )
