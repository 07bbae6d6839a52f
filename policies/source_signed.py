# SPDX-License-Identifier: Apache-2.0
"""The publisher of the source must have signed it, and the build must have checked that.

Each provenance statement of a trusted signer must name, for its source, the publisher whose signature was verified when
the source was locked (`trust` in the recipe). `publishers` restricts which count: key fingerprints, or names in
certificates, with `*` and `?` as patterns.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("provenance",)
DEFAULTS: Mapping[str, JSON] = {"publishers": ["*"]}
_HINT = "demand the publisher's signature: `trust` in the recipe, then `packager lock` and build again"


def check(facts: Mapping[str, JSON], publishers: list[str]) -> Iterator[Finding]:
    """Yield a finding for each source without a verified publisher that counts, and one when no source is named."""
    if not facts["provenance"]:
        yield Finding("source-signed", "error", "provenance", "no trusted signer states who signed the source", _HINT)
    for item in facts["provenance"]:
        if not item.get("publishers"):
            message = f"the provenance by `{item['signer']}` names no source"
            yield Finding("source-signed", "error", "provenance", message, _HINT)
        for row in item.get("publishers", ()):
            signer = row["signer"]
            if signer is None:
                message = f"source `{row['source']}` was locked without the signature of its publisher"
            elif not any(fnmatch.fnmatchcase(signer, pattern) for pattern in publishers):
                message = f"source `{row['source']}` is signed by `{signer}`, who is none of the expected publishers"
            else:
                continue
            yield Finding("source-signed", "error", row["source"], message, _HINT, evidence={"expected": publishers})
