# SPDX-License-Identifier: Apache-2.0
"""Scanners must find every source file that can run code clean.

At least `least` scanners must have scanned each such file, and all of them must have found it clean. A scanner that
failed, hung or was not installed counts as not clean. One scanner of our own accepts only files whose imports are on
its list. Formats that only hold data are not scanned: their readers check them. A file that imports modules which the
source itself contains gives a note with their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.errors import install
from packager.types import Finding

VERSION = 1
FACTS = ("scans",)
DEFAULTS: Mapping[str, JSON] = {"least": 2}
_INSTALL = f"install the scanners on the build host: `{install('scan')}`"
_INFECTED = "do not open it anywhere; if you know its author and every name it imports, add a waiver with a reason"
_FAILED = "run the scanner on the file by hand; if the file is harmless, add a waiver with a reason"


def check(facts: Mapping[str, JSON], **params: JSON) -> Iterator[Finding]:
    """Yield one finding for each scanner and file that is not clean, and for files scanned by too few scanners."""
    if not facts["scans"]:
        hint = "sign the bundle where it was built: the scan results are signed with it"
        yield Finding("scanned", "error", "source", "no trusted signer states that the source was scanned", hint)
    for row in facts["scans"]:
        for path, outcomes in row["files"].items():
            yield from _file(path, outcomes, params["least"])


def _file(path: str, outcomes: Mapping[str, JSON], least: JSON) -> Iterator[Finding]:
    for scanner, seen in outcomes.items():
        words = "; ".join(seen["words"])
        if seen["outcome"] == "infected":
            message = f"`{path}` is not clean: {scanner} found {words}"
            yield Finding("scanned", "error", path, message, _INFECTED, evidence=seen)
        elif seen["outcome"] != "clean":
            message = f"`{path}` is not known to be clean: {scanner} failed ({words})"
            yield Finding("scanned", "error", path, message, _FAILED, evidence=seen)
        elif words:
            yield Finding("scanned", "note", path, f"`{path}` imports {words}", evidence=seen)
    clean = sum(seen["outcome"] == "clean" for seen in outcomes.values())
    if clean == len(outcomes) < least:
        message = f"`{path}` was scanned by {clean} scanners, expected at least {least}"
        yield Finding("scanned", "error", path, message, _INSTALL)
