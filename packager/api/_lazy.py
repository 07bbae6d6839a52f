# SPDX-License-Identifier: Apache-2.0
"""Names that are imported when they are first used (PEP 562), so that `import packager.api` costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazily(module: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module: `homes` gives the `module:name` that each of its names is imported from."""

    def find(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module `{module}` has no attribute `{name}`")
        place, _, named = home.partition(":")
        found = getattr(importlib.import_module(place), named or name)
        setattr(sys.modules[module], name, found)
        return found

    return find
