# SPDX-License-Identifier: Apache-2.0
"""Plan the cells of a conformance run: (target, runtime, version, device), from the promise and the selections.

A runtime can be tested when its folder holds `conform.py`, which says what it needs (`runtime.Conformance`), and
`adapter.py`, which speaks the suite's protocol in its environment. It need not be compiled for, nor be promised.
"""

from __future__ import annotations

import itertools
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from packager.canonical import JSON
from packager.contract.runtime_tables import Tables, load_shipped
from packager.errors import UsageError
from packager.runtime import Conformance, adapter_file, find_testable, load_conformance

_SELECTION = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)(.*)")


@dataclass(frozen=True, slots=True)
class RuntimeSelection:
    """`--runtime NAME`, `NAME==V`, `NAME>=V,<W` or `NAME==*`. `versions` None: the ends of the promised range."""

    runtime: str
    versions: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """One cell to run, or one that cannot be, with the `reason`."""

    target: str
    runtime: str
    version: str
    device: str
    python: str = ""
    requirements: tuple[str, ...] = ()
    channels: tuple[str, ...] = ("adapter",)
    library: str = ""
    adapter: tuple[str, ...] = ()
    options: Mapping[str, JSON] | None = None
    installs: bool = False
    deviations: Mapping[str, str] | None = None
    reason: str = ""
    knobs: tuple[str, ...] = ()  # names of those that its adapter can set
    operators: tuple[str, ...] = ()  # the adapter that runs graphs of single operators in the same environment

    @property
    def name(self) -> str:
        return f"{self.runtime} {self.version} · {self.target}"


def plan_adapter(contract: JSON, command: Sequence[str]) -> list[PlannedCell]:
    """Return the cells of a third-party adapter, one per target: `command` starts it."""
    return [
        PlannedCell(name, "adapter", "-", target["device"], adapter=tuple(command), operators=tuple(command))
        for name, target in sorted(contract["targets"].items())
    ]


def parse_selection(text: str) -> RuntimeSelection:
    """Read one `--runtime`. Raises UsageError."""
    match = _SELECTION.fullmatch(text.strip())
    name, specifier = (match[1].replace("_", "-"), match[2].strip()) if match else ("", "")
    if not name:
        raise UsageError(f"`{text:.80}` names no runtime", hint="write `triton`, `triton==2.51` or `onnxruntime==*`")
    try:
        SpecifierSet("" if specifier == "==*" else specifier)
    except InvalidSpecifier:
        raise UsageError(
            f"`{specifier:.60}` is no version range", hint="write `==2.51`, `>=1.17,<1.20`, or `==*`"
        ) from None
    return RuntimeSelection(name, specifier or None)


def plan_cells(
    contract: JSON, selections: Sequence[RuntimeSelection], tables: Tables = load_shipped
) -> list[PlannedCell]:
    """Return the cells of a bundle; without `selections` those of its promise. Raises UsageError.

    `tables` say which versions there are.
    """
    promised = {name: promise["versions"] for name, promise in contract["runs-on"].items()}
    wanted = list(selections) or [RuntimeSelection(name) for name in promised]
    planned = (_cells(contract, selection, promised.get(selection.runtime), tables) for selection in wanted)
    cells = itertools.chain.from_iterable(planned)
    return list({cell.name: cell for cell in cells}.values())


def _cells(contract: JSON, selection: RuntimeSelection, promise: str | None, tables: Tables) -> Iterator[PlannedCell]:
    if selection.runtime not in find_testable() and selection.runtime in contract["runs-on"]:
        yield PlannedCell("-", selection.runtime, "-", "-", reason="this version of packager has no adapter for it")
        return
    tested = load_conformance(selection.runtime, tables)
    targets = [name for name, target in contract["targets"].items() if target["runtime"] in tested.accepts]
    if not targets:
        accepted = ", ".join(tested.accepts)
        yield PlannedCell(
            "-", selection.runtime, "-", tested.device, reason=f"the bundle holds no artefact for {accepted}"
        )
    for target in sorted(targets):
        found = _versions(tested, selection, promise)
        if not found:
            reason = f"of the promised `{promise}` no version can be tested; known: {', '.join(tested.versions())}"
            yield PlannedCell(target, selection.runtime, "-", tested.device, reason=reason)
        for version in found:
            yield _cell(tested, selection.runtime, version, target)


def _versions(tested: Conformance, selection: RuntimeSelection, promise: str | None) -> list[str]:
    """Return the versions an selection means: all it names, or the oldest and the newest of the promise."""
    known: Sequence[str] = tested.versions()
    if selection.versions == "==*":
        return list({Version(version).release[:2]: version for version in known}.values())
    if selection.versions:
        found = _within(tested, selection.versions)
        exact = selection.versions.removeprefix("==").strip()
        if not found and selection.versions.startswith("=="):
            found = [version for version in known if Version(version).release[:2] == Version(exact).release[:2]][-1:]
            found = [exact] if found and len(Version(exact).release) > 2 else found
        if not found:
            raise UsageError(
                f"no known version of {selection.runtime} is in `{selection.versions}`",
                hint=f"known: {', '.join(known)}",
            )
        return found
    found = _within(tested, promise or "")
    return list(dict.fromkeys((found[0], found[-1]))) if found else []


def _within(tested: Conformance, specifier: str) -> list[str]:
    """Return the known versions in a range, which may be written in the vendor's names of releases (`>=24.04`)."""
    releases = tested.releases
    wanted = SpecifierSet(specifier)
    by_release = bool(releases) and any(Version(item.version.removesuffix(".*")).major > 20 for item in wanted)
    names = {version: releases.get(version, version) if by_release else version for version in tested.versions()}
    return [version for version, name in names.items() if name in wanted]


def _cell(tested: Conformance, name: str, version: str, target: str) -> PlannedCell:
    python = find_interpreter(tested.pythons(version))
    bare = PlannedCell(target, name, version, tested.device)
    if python is None:
        wheels = ", ".join(tested.pythons(version))
        return PlannedCell(**{**_members(bare), "reason": f"it has wheels for Python {wheels}; none of them is here"})
    return PlannedCell(
        target,
        name,
        version,
        tested.device,
        python,
        tuple(tested.requirements(version, python)),
        tuple(tested.channels),
        tested.library,
        (str(adapter_file(tested.adapter())),),
        tested.options(version),
        tested.installs,
        tested.deviations(version),
        operators=(str(adapter_file(tested.engine)),) if tested.engine else (),
        knobs=tested.knobs,
    )


def _members(cell: PlannedCell) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in PlannedCell.__slots__}


def find_interpreter(pythons: Sequence[str]) -> str | None:
    """Return the Python to use: this one's version if it is among `pythons`, else the newest of them that is here."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if own in pythons:
        return own
    return next((version for version in reversed(pythons) if shutil.which(f"python{version}")), None)
