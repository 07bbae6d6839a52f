# SPDX-License-Identifier: Apache-2.0
"""Code that the source brings along and that opening it may import must be consented to, by its digest.

MLflow keeps such code (`code_paths`) in the folder `code`. It can do whatever the worker can: bend the export, and
the answers that artefacts are measured against. So the recipe names the digest of exactly this code (`allow-code`), or
nothing is opened. What it reaches for is noted, file by file. A source that is data imports none of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from packager.canonical import JSON
from packager.edits import Edit
from packager.types import Finding

FACTS = ("scans",)


def check(facts: Mapping[str, JSON]) -> Iterator[Finding]:
    """Yield one finding for code that nobody consented to, and a note for each file of code that somebody did."""
    for row in facts["scans"]:
        if "code" not in row:
            yield _finding("nobody says whether the source brings code along", "build it again and sign it there", row)
            continue
        code = row["code"]
        if code is None:
            continue
        if code["consented"] != code["digest"]:
            listed = ", ".join(f"`{path}`" for path in list(code["files"])[:4])
            hint = f"read it; if you trust its author, write `allow-code: {code['digest']}` in the recipe"
            told = f"the source brings code of its own along ({listed}) that nobody consented to"
            consent = Edit(("allow-code",), code["digest"], consents=True)
            yield replace(_finding(told, hint, code), edits=(consent,))
        for path, words in code["files"].items():
            told = "; ".join(words) or "nothing remarkable"
            yield Finding("source-code", "note", path, f"`{path}` is code of the source's own: {told}", evidence=code)


def _finding(message: str, hint: str, row: JSON) -> Finding:
    return Finding("source-code", "error", "source", message, hint, evidence=row)
