# SPDX-License-Identifier: Apache-2.0
"""Find plug-ins by the name of their file: the file name is the registration.

A group is a folder (`_PACKAGES`); every public module or package in it is one plug-in. Third parties add theirs
through the entry-point group `packager.<group>`. A plug-in is imported when it is used, never to list it.

The published name has hyphens where the file has underscores (`tensorrt_rtx.py` is `tensorrt-rtx`); `load` accepts
both. A third party adds names and never replaces one: what ships with `packager` wins.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from functools import cache
from importlib import metadata
from types import ModuleType
from typing import Literal, TypeAlias, get_args

from packager.errors import UsageError, did_you_mean

Group: TypeAlias = Literal[
    "exporters", "lockers", "policies", "renderers", "runtimes", "scanners", "signers", "sources", "steps"
]

GROUPS: tuple[Group, ...] = get_args(Group)
_PACKAGES: dict[Group, str] = {
    "exporters": "packager.exporters",
    "lockers": "packager.lock.lockers",
    "policies": "packager.policies",
    "renderers": "packager.deploy.renderers",
    "runtimes": "packager.runtimes",
    "scanners": "packager.scanners",
    "signers": "packager.trust.signers",
    "sources": "packager.sources",
    "steps": "packager.steps",
}


def package(group: Group) -> str:
    """Return the dotted name of the package whose modules are the plug-ins of a group."""
    return _PACKAGES[group]


def names(group: Group) -> tuple[str, ...]:
    """Return the published names of a group, sorted; imports none of them."""
    return tuple(sorted({*_own(group), *_foreign(group)}))


def load(group: Group, name: str) -> ModuleType:
    """Import one plug-in. Raises UsageError with the close match when there is none of that name."""
    wanted = _published(name)
    own = _own(group)
    if wanted in own:
        return importlib.import_module(f"{package(group)}.{own[wanted]}")
    foreign = _foreign(group)
    if wanted in foreign:
        return _import(foreign[wanted], group)
    known = {*own, *foreign}
    raise UsageError(f"`{name:.80}` is not among the {group}", hint=did_you_mean(wanted, known) if known else None)


def _published(name: str) -> str:
    return name.replace("_", "-")


@cache
def _own(group: Group) -> dict[str, str]:
    folder = importlib.import_module(package(group))
    modules = (info.name for info in pkgutil.iter_modules(folder.__path__))
    return {_published(name): name for name in modules if not name.startswith("_")}


def _foreign(group: Group) -> dict[str, metadata.EntryPoint]:
    return _registered(group, tuple(sys.path))


@cache
def _registered(group: Group, _path: tuple[str, ...]) -> dict[str, metadata.EntryPoint]:
    """Read the entry points below `sys.path` once: they are in a file of every package."""
    found = sorted(metadata.entry_points(group=f"packager.{group}"), key=lambda point: (point.name, point.value))
    return {_published(point.name): point for point in reversed(found)}


def _import(point: metadata.EntryPoint, group: Group) -> ModuleType:
    """Import a third party's plug-in; its faults are reported as that package's."""
    package = point.dist.name if point.dist else point.value
    try:
        module = importlib.import_module(point.module)
    except ImportError as error:
        raise UsageError(
            f"`{point.name}` of `{package}` cannot be imported: {error}", hint=f"reinstall or remove `{package}`"
        ) from error
    if point.attr:
        raise UsageError(f"`{point.name}` of `{package}` is not a module", hint=f"`packager.{group}` expects modules")
    return module
