# SPDX-License-Identifier: Apache-2.0
"""The verbs: one file each in this folder, which is the registration.

A verb is a module with `HELP`, `EXAMPLES`, `arguments(parser)` and `main(args, console) -> int`; `FOR` says whose work
it is (`GROUPS`; without it all of them).
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

GROUPS = {
    "release": "release engineer: make, judge and publish a bundle",
    "platform": "platform team: where it runs, and what runs it there",
    "site": "operator: check, install and run it",
    "everybody": "everybody",
}  # whose work a verb is, in the order of `--help`
_HELPERS = {"console", "options"}


def list_verbs() -> list[str]:
    """Return the names of all verbs, sorted; a verb is a file in this folder, `sign-image` the file `sign_image.py`."""
    files = {entry.name for entry in os.scandir(Path(__file__).parent)}
    named = {
        name.removesuffix(".py").replace("_", "-")
        for name in files
        if name.endswith(".py") and not name.startswith("_")
    }
    return sorted(named - _HELPERS)


def group_of(module: ModuleType) -> str:
    """Return whose work a verb is."""
    named = getattr(module, "FOR", "everybody")
    return named if named in GROUPS else "everybody"


def load_verb(name: str) -> ModuleType:
    """Import one verb."""
    return importlib.import_module(f"packager.cli.{name.replace('-', '_')}")
