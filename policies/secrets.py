# SPDX-License-Identifier: Apache-2.0
"""No file may hold a credential.

Texts and graphs are searched for tokens with a known form (private keys, cloud keys, registry tokens, passwords in
addresses). Weights, engines and hash-locked wheels are not searched. `except` lists paths, with `*` and `?`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

FACTS = ("secrets",)
DEFAULTS: Mapping[str, JSON] = {"except": []}


def check(facts: Mapping[str, JSON], **params: JSON) -> Iterator[Finding]:
    """Yield one finding for each place that looks like a credential. The credential itself is never repeated."""
    for item in facts["secrets"]["found"]:
        if not any(fnmatch.fnmatchcase(item["path"], pattern) for pattern in params["except"]):
            place = f"{item['path']}:{item['line']}"
            message = f"`{place}` holds what looks like a {item['kind']}"
            yield Finding("secrets", "error", place, message, "revoke it, remove it, and build again")
