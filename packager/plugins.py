# SPDX-License-Identifier: Apache-2.0
"""Find plug-ins by the name of their file: the file name is the registration.

A group is a folder (`_PACKAGES`); every public module or package in it is one plug-in. Third parties add theirs
through the entry-point group `packager.<group>`. A plug-in is imported when it is used, never to list it.

The published name has hyphens where the file has underscores (`tensorrt_rtx.py` is `tensorrt-rtx`); `load` accepts
both. A third party adds names and never replaces one: what ships with `packager` wins.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from packager.errors import UsageError, did_you_mean

if TYPE_CHECKING:  # it brings the parser of e-mail along: imported where entry points are read
    from importlib import metadata

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


@dataclass(frozen=True, slots=True)
class Location:
    """Where a plug-in lies: its dotted name, its folder (or its file), and the third party's distribution it is of."""

    module: str
    path: Path
    distribution: str | None = None


def package_of(group: Group) -> str:
    """Return the dotted name of the package whose modules are the plug-ins of a group."""
    return _PACKAGES[group]


def list_names(group: Group) -> tuple[str, ...]:
    """Return the published names of a group, sorted; imports none of them."""
    return tuple(sorted({*_own(group), *_foreign(group)}))


def load(group: Group, name: str) -> ModuleType:
    """Import one plug-in. Raises UsageError with the close match when there is none of that name."""
    wanted = _published(name)
    own = _own(group)
    if wanted in own:
        return importlib.import_module(f"{package_of(group)}.{own[wanted]}")
    foreign = _foreign(group)
    if wanted in foreign:
        return _import(foreign[wanted], group)
    known = {*own, *foreign}
    raise UsageError(f"`{name:.80}` is not among the {group}", hint=did_you_mean(wanted, known) if known else None)


def locate(group: Group, name: str) -> Location | None:
    """Return where a plug-in lies, None if there is none of that name; imports only packages above a third party's.

    Folders of ours without an `__init__.py` count: those hold parts of a plug-in (a table, an adapter) and no more.
    """
    wanted = _published(name)
    found = _own_folders(group).get(wanted)
    if found is None and (point := _foreign(group).get(wanted)):
        found = _location(point)
    return found


def find_locations(group: Group) -> dict[str, Location]:
    """Return where the plug-ins of a group lie, by published name: our folders, and what third parties installed."""
    foreign = {name: _location(point) for name, point in _foreign(group).items()}
    return {**{name: found for name, found in foreign.items() if found}, **_own_folders(group)}


def foreign_paths() -> tuple[Path, ...]:
    """Return the top-level package (or the file) of every plug-in of a third party: what a worker has to see of it."""
    tops = {point.module.partition(".")[0] for group in GROUPS for point in _foreign(group).values()}
    return tuple(sorted(path for path in map(_path_of, tops) if path))


def _location(point: metadata.EntryPoint) -> Location | None:
    path = _path_of(point.module)
    return Location(point.module, path, point.dist.name if point.dist else None) if path else None


def _path_of(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # `load` names what is wrong with it
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.has_location and spec.origin else None


@cache
def _own_folders(group: Group) -> dict[str, Location]:
    home = importlib.import_module(package_of(group))
    found = (path for place in home.__path__ for path in sorted(Path(place).iterdir()) if path.is_dir())
    kept = (path for path in found if path.name.isidentifier() and not path.name.startswith("_"))
    return {_published(path.name): Location(f"{home.__name__}.{path.name}", path) for path in kept}


def _published(name: str) -> str:
    return name.replace("_", "-")


@cache
def _own(group: Group) -> dict[str, str]:
    folder = importlib.import_module(package_of(group))
    modules = (info.name for info in pkgutil.iter_modules(folder.__path__))
    return {_published(name): name for name in modules if not name.startswith("_")}


def _foreign(group: Group) -> dict[str, metadata.EntryPoint]:
    """Return the entry points of a group, but for names of our folders: those are taken, plug-ins or not."""
    own = _own_folders(group)
    return {name: point for name, point in _registered(group, tuple(sys.path)).items() if name not in own}


@cache
def _registered(group: Group, _path: tuple[str, ...]) -> dict[str, metadata.EntryPoint]:
    """Read the entry points below `sys.path` once: they are in a file of every package."""
    from importlib import metadata

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
