# SPDX-License-Identifier: Apache-2.0
"""Code that comes with the source, and may be imported when it is opened, needs consent by its digest.

MLflow keeps such code (`code_paths`) in the folder `code`. It can do everything the worker can: falsify the export, and
the reference outputs that artefacts are compared with. So the recipe must name the digest of exactly this code
(`allow-code`), or the source is not opened. A note per file lists what the code uses. Sources that are only data import
none of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from packager.canonical import JSON
from packager.edits import Edit
from packager.types import Finding

VERSION = 1
FACTS = ("scans",)


def check(facts: Mapping[str, JSON]) -> Iterator[Finding]:
    """Yield one finding for code without consent, and a note for each file of code."""
    for row in facts["scans"]:
        if "code" not in row:
            message = "the scan results do not state whether the source contains code"
            yield _finding(message, "build it again and sign it there", row)
            continue
        code = row["code"]
        if code is None:
            continue
        if code["consented"] != code["digest"]:
            listed = ", ".join(f"`{path}`" for path in list(code["files"])[:4])
            hint = f"read it; if you trust its author, write `allow-code: {code['digest']}` in the recipe"
            message = f"the source contains Python code ({listed}) without consent"
            consent = Edit(("allow-code",), code["digest"], consents=True)
            yield replace(_finding(message, hint, code), edits=(consent,))
        for path, words in code["files"].items():
            uses = "; ".join(words) or "nothing remarkable"
            yield Finding("source-code", "note", path, f"`{path}` is code of the source: {uses}", evidence=code)


def _finding(message: str, hint: str, row: JSON) -> Finding:
    return Finding("source-code", "error", "source", message, hint, evidence=row)
