# SPDX-License-Identifier: Apache-2.0
"""Order semantic versions (semver.org 2.0.0, §11), and evaluate ranges as trust files write them: `>=1.0.0,<1.2.3`.

Every comparison of bundle versions goes through `precedence`. Versions of Python packages are PEP 440's instead, and
are ordered by `packaging.version`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import TypeAlias

_NUMBER = r"(0|[1-9][0-9]*)"
_LABEL = r"(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_PRE = rf"{_LABEL}(\.{_LABEL})*"
_BUILD = r"[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*"
SEMVER = rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_PRE})?(\+{_BUILD})?"
MAX_LENGTH = 128  # characters of a version
_VERSION = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-(?P<pre>{_PRE}))?(\+{_BUILD})?")
_COMPARISONS: dict[str, Callable[[Precedence, Precedence], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}

Label: TypeAlias = tuple[bool, int, str]  # (is text, number, text): numbers sort before text
Precedence: TypeAlias = tuple[int, int, int, bool, tuple[Label, ...]]


def precedence_key(version: str) -> Precedence:
    """Return the sort key of a version: a pre-release comes before its release, build metadata is ignored.

    Raises ValueError.
    """
    found = _VERSION.fullmatch(version) if len(version) <= MAX_LENGTH else None
    if found is None:
        raise ValueError(f"`{version:.80}` is not a semantic version")
    major, minor, patch, pre = found[1], found[2], found[3], found["pre"]
    labels = tuple(
        (False, int(label), "") if label.isdecimal() else (True, 0, label) for label in (pre.split(".") if pre else ())
    )
    return int(major), int(minor), int(patch), pre is None, labels


def read_numbers(version: str) -> tuple[int, int, int]:
    """Return major, minor and patch. Raises ValueError."""
    return precedence_key(version)[:3]


def is_prerelease(version: str) -> bool:
    """Return whether a version is a pre-release. Raises ValueError."""
    return not precedence_key(version)[3]


def check_range(text: str) -> str:
    """Return `text` if it is a range. Raises ValueError."""
    in_range("0.0.0", text)
    return text


def in_range(version: str, text: str) -> bool:
    """Return whether `version` satisfies every comparison of a comma-separated range. Raises ValueError."""
    value = precedence_key(version)
    satisfied = True
    for part in text.split(","):
        found = re.fullmatch(r"\s*(>=|<=|==|>|<)\s*(\S+)\s*", part)
        if found is None:
            raise ValueError(f"`{text:.80}` is not a range: expected for example `>=1.0.0,<1.2.3`")
        satisfied &= _COMPARISONS[found[1]](value, precedence_key(found[2]))
    return satisfied
