# SPDX-License-Identifier: Apache-2.0
"""Read requirements files as pip does: encodings with a byte order mark, comments, continued lines, options.

Source: pip's documentation, "Requirements File Format". No file or address in them is opened.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

_MARKS = (  # longer ones first: that of UTF-32 begins as that of UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
INDEX_OPTIONS = ("--extra-index-url", "--index-url", "-i")
IGNORED_OPTIONS = (
    "--only-binary",
    "--no-binary",
    "--prefer-binary",
    "--require-hashes",
    "--trusted-host",
    "--pre",
    "--use-feature",
)
_SHORT = {"-r": "--requirement", "-c": "--constraint", "-e": "--editable", "-f": "--find-links", "-i": "--index-url"}


def text_of(data: bytes) -> str:
    """Return the text of a file, in UTF-8 without a byte order mark: PowerShell's `>` writes UTF-16 with one.

    Raises UnicodeDecodeError.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding)
    return data.decode("utf-8")


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) without comments, continued lines joined."""
    joined, start = "", 0
    for number, row in enumerate(text.splitlines(), 1):
        start = start if joined else number
        joined += re.sub(r"(^|\s)#.*$", "", row)
        if joined.endswith("\\"):
            joined = joined[:-1] + " "
            continue
        if joined.strip():
            yield start, joined.strip()
        joined = ""


def parse_option(line: str) -> tuple[str, str]:
    """Return the long name and the value of the option on a line; empty for a requirement."""
    if not line.startswith("-"):
        return "", ""
    if re.match(r"-[a-z][^\s=-]", line):  # `-rother.txt`
        line = f"{line[:2]} {line[2:]}"
    name, _, value = line.replace("=", " ", 1).partition(" ")
    return _SHORT.get(name, name), value.strip()


def wheel_at(address: str) -> tuple[str, str, str | None] | None:
    """Return name, version and SHA-256 (None if absent) of the wheel at an address; None for anything but a wheel."""
    parts = urlsplit(address)
    try:
        name, version, *_ = parse_wheel_filename(unquote(parts.path).rpartition("/")[2])
    except InvalidWheelFilename:
        return None
    digest = re.search(r"(?:^|&)sha256=([0-9a-f]{64})(?:&|$)", parts.fragment)
    return canonicalize_name(name), str(version), digest[1] if digest else None


def of_address(requirement: Requirement) -> tuple[str, str, str | None] | None:
    """Return the pin of a requirement with an address, if that is a wheel of the same name."""
    found = wheel_at(requirement.url or "")
    return found if found and found[0] == canonicalize_name(requirement.name) else None
