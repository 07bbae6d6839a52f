# SPDX-License-Identifier: Apache-2.0
"""Files must have an allowed format.

`allow` lists suffixes. The default is what `verify` accepts in any bundle; a profile can narrow it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from packager.bundle.bundle import ALLOWED_SUFFIXES
from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("contents",)
DEFAULTS: Mapping[str, JSON] = {"allow": sorted(ALLOWED_SUFFIXES)}


def check(facts: Mapping[str, JSON], allow: list[str]) -> Iterator[Finding]:
    """Yield one finding for each file of another format."""
    for file in facts["contents"]["files"]:
        suffix = PurePosixPath(file["path"]).suffix
        if suffix not in allow:
            yield Finding(
                "formats",
                "error",
                file["path"],
                f"`{file['path']}` has a format that is not allowed: `{suffix}`",
                f"leave it out; allowed are {', '.join(allow)}",
            )
