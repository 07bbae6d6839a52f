# SPDX-License-Identifier: Apache-2.0
"""allowed: our own list of what a pickle may import; the other scanners list what it may not.

A pickle does nothing but import names, call them and set their state. So it is clean when every name is on the list
(packager.scanners._allowlist), and read to its end by Python's own reader without a doubt about what it says. A name in
a module that the source itself brings (MLflow's `code_paths`) is code of the author: that it may run is what the recipe
consents to, and that it is there is said.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from packager import scanners
from packager.scanners import _allowlist, _reading

TOOLCHAIN: tuple[str, ...] = ()
EXTRA = "scan"
VERSION = _allowlist.VERSION

_BY_VALUE = ("types", "cloudpickle", "dill")  # modules of code that is in the pickle itself
_SCRIPTED = "__torch__"  # classes of TorchScript, which are no Python modules where its archive is read
_LIBRARIES = {_SCRIPTED, *(module.partition(".")[0] for module, _ in _allowlist.ALLOWED)}


def scan(file: Path) -> list[str]:
    """Return what a file imports that is not on the list. Raises whatever a damaged pickle provokes."""
    return judge(file, ())[0]


def judge(file: Path, own: Collection[str]) -> tuple[list[str], list[str]]:
    """Return what a file imports that is not on the list: unlisted names, and names in modules of `own`.

    `own` are the top-level modules that the source brings. Raises what `scan` does.
    """
    if stand_ins := sorted(_LIBRARIES.intersection(own)):
        return [f"modules of the source's own in the place of {', '.join(stand_ins)}"], []
    unlisted = {found for name, data in scanners.find_pickles(file) for found in _unlisted(name, data)}
    brought = {found for found in unlisted if _top(found) in own}
    return list(_said(unlisted - brought)), sorted(f"{found}, code of the source's own" for found in brought)


def _unlisted(name: str, data: bytes) -> Iterator[_reading.Global]:
    """Yield the imports of every pickle in a stream that are not on the list; raise what stops the reader otherwise."""
    inside, start, clean = "/" in name, 0, True
    while start < len(data) or not start:
        seen = _reading.read(data, start, joblib=False)
        for found in seen.imports:
            if (found.module, found.name) not in _allowlist.ALLOWED and not (inside and _top(found) == _SCRIPTED):
                yield found
                clean = False
        if seen.fault:
            if clean:
                raise seen.fault
            return
        start = seen.end


def _top(found: _reading.Global) -> str:
    return found.module.partition(".")[0]


def _said(unlisted: Collection[_reading.Global]) -> Iterator[str]:
    """Say what is not on the list: code by value once, each other name by itself."""
    by_value = sorted(str(found) for found in unlisted if _top(found) in _BY_VALUE)
    if by_value:
        yield f"code of its author by value ({by_value[0]}): log its module with `code_paths` instead"
    for found in sorted(unlisted, key=str):
        if _top(found) not in _BY_VALUE:
            where = "the standard library" if _top(found) in sys.stdlib_module_names else "a module"
            yield f"{found}, a name of {where} that is not on the list of what models need"
