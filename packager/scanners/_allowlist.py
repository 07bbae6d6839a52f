# SPDX-License-Identifier: Apache-2.0
"""The list of what a pickle may import: classes that hold parts of models, and functions that only put data together.

Each name was looked at for what it does when an attacker chooses its arguments or its state: to
be here it must not import, evaluate, write or start anything. A name that is missing is not harmful, it is not known to
be harmless. Whole packages are never listed: `numpy.testing` runs text, and so does the `__setstate__` of a
distribution of `scipy.stats`.

The names are in `_names`, one file per library for all of its versions. A line is a module and its names as pickles
spell them, older spellings included; a line that begins with spaces goes on, one with `#` is for readers.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources

VERSION = 2  # 2: all that torch's weights-only form allows; 1: first list


def _names(text: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of module and name in one library's file."""
    for row in text.replace("\n    ", " ").splitlines():
        module, _, names = row.partition(":")
        if not row.startswith("#"):
            yield from ((module, name) for name in names.split())


def _read() -> frozenset[tuple[str, str]]:
    folder = resources.files("packager.scanners") / "_names"
    texts = [file.read_text() for file in folder.iterdir() if file.name.endswith(".txt")]
    if not texts:
        raise RuntimeError("the lists of names are not installed")
    return frozenset(pair for text in texts for pair in _names(text))


ALLOWED = _read()
"""Pairs of module and name."""
