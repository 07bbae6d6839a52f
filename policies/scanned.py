# SPDX-License-Identifier: Apache-2.0
"""What of the source can run code must have been found clean by two scanners, and import listed names only.

Every scanner that looked must have found each such file clean, and `least` of them must have looked. A scanner that
found nothing because it failed, hung or was not there counts as not clean. Formats that hold data are not scanned:
their own readers check them. A file that imports modules which the source brings itself is noted by their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.errors import install
from packager.types import Finding

FACTS = ("scans",)
DEFAULTS: Mapping[str, JSON] = {"least": 2}
_INSTALL = f"install them where it is built: `{install('scan')}`"
_SHUN = "do not open it anywhere; if its author and every name are known to you, a waiver with a reason says so"
_LOOK = "look at it with the scanner itself; if it is known to be harmless, a waiver with a reason says so"


def check(facts: Mapping[str, JSON], **params: JSON) -> Iterator[Finding]:
    """Yield one finding for each scanner and file that are not clean, and for files that too few looked at."""
    if not facts["scans"]:
        hint = "sign the bundle where it was built: what was scanned is signed with it"
        yield Finding("scanned", "error", "source", "nobody trusted says that the source was scanned", hint)
    for row in facts["scans"]:
        for path, outcomes in row["files"].items():
            yield from _file(path, outcomes, params["least"])


def _file(path: str, outcomes: Mapping[str, JSON], least: JSON) -> Iterator[Finding]:
    for scanner, seen in outcomes.items():
        words = "; ".join(seen["words"])
        if seen["outcome"] == "infected":
            message = f"`{path}` is not clean: {scanner} found {words}"
            yield Finding("scanned", "error", path, message, _SHUN, evidence=seen)
        elif seen["outcome"] != "clean":
            message = f"`{path}` is not known to be clean: {scanner} failed ({words})"
            yield Finding("scanned", "error", path, message, _LOOK, evidence=seen)
        elif words:
            yield Finding("scanned", "note", path, f"`{path}` imports {words}", evidence=seen)
    clean = sum(seen["outcome"] == "clean" for seen in outcomes.values())
    if clean == len(outcomes) < least:
        message = f"`{path}` was looked at by {clean} scanners, expected {least}"
        yield Finding("scanned", "error", path, message, _INSTALL)
