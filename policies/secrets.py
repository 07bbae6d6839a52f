# SPDX-License-Identifier: Apache-2.0
"""No file may contain a credential.

Texts and graphs are searched for credentials of a known form (private keys, cloud keys, registry tokens, passwords in
URLs). Weights, engines and hash-locked wheels are not searched. `except` lists paths, with `*` and `?`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("secrets",)
DEFAULTS: Mapping[str, JSON] = {"except": []}


def check(facts: Mapping[str, JSON], **params: JSON) -> Iterator[Finding]:
    """Yield one finding for each line that looks like a credential, without repeating the credential."""
    for item in facts["secrets"]["found"]:
        if not any(fnmatch.fnmatchcase(item["path"], pattern) for pattern in params["except"]):
            line = f"{item['path']}:{item['line']}"
            message = f"`{line}` contains what looks like a {item['kind']}"
            yield Finding("secrets", "error", line, message, "revoke it, remove it, and build again")
