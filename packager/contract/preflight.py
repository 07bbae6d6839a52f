# SPDX-License-Identifier: Apache-2.0
"""Preflight: where a bundle will run, judged by its contract and from what is known of runtimes. Nothing is loaded.

A cell is one target on one version of a runtime, on request at one site. A runtime of another's engine (a server
around ONNX Runtime) runs that engine's targets. What a site does not say cannot be held against it, and what was
not measured is unknown, never ok.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeAlias

from packager.canonical import JSON
from packager.contract import runtime_support
from packager.contract.contract import Contract, Port, Terms
from packager.contract.fleet import Site
from packager.contract.runtime_support import Judgement, Reason
from packager.contract.runtime_tables import Outcome, Row, Tables, load_shipped, version_key

Place: TypeAlias = tuple[str, str, str]  # target, runtime, version
Proofs: TypeAlias = Mapping[Place, str]  # where a bundle ran right, and what showed it
NOTHING: Proofs = MappingProxyType({})
_RANK: dict[Outcome, int] = {"no": 0, "unknown": 1, "ok": 2}
_GENERATE = "`locale-gen` makes it, or export the model with `locale: C.UTF-8`"
_WIDE = ("int64", "uint64", "uint32")
_AMPERE_PLUS = "ampere_plus"  # a device of the runtime `tensorrt`
_JETSON = ("8.7", "11.0")  # Orin and Thor
_X86 = ("x86_64", "AMD64")
_OF_THE_EXPORT = {"opset", "ir"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One target on one version of a runtime: the answer, and whether the recipe promised it."""

    runtime: str
    version: str
    target: str
    promised: bool
    answer: Judgement

    def to_json(self) -> JSON:
        place = {"runtime": self.runtime, "version": self.version, "target": self.target, "promised": self.promised}
        return place | self.answer.to_json()


@dataclass(frozen=True, slots=True)
class Reach:
    """What a bundle can do at one site: the cells of its runtimes. It is reached where one of them is ok."""

    site: Site
    cells: tuple[Cell, ...]

    @property
    def outcome(self) -> Outcome:
        """The best answer of its cells."""
        return best_outcome(self.cells)

    def to_json(self) -> JSON:
        return {"site": self.site.name, "outcome": self.outcome, "cells": [cell.to_json() for cell in self.cells]}


@dataclass(frozen=True, slots=True)
class Step:
    """Something that would reach more sites; `cost` orders them, the smallest first."""

    cost: tuple[int, int]
    message: str
    sites: tuple[str, ...] = field(default=())

    def to_json(self) -> JSON:
        return {"change": self.message, "sites": list(self.sites)}


def best_outcome(cells: Iterable[Cell]) -> Outcome:
    """Return the best answer of several; `no` where there is none."""
    return max((cell.answer.outcome for cell in cells), key=_RANK.__getitem__, default="no")


def worst_outcome(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the worst of several answers; `ok` where there is none."""
    return min(outcomes, key=_RANK.__getitem__, default="ok")


def judge_everywhere(contract: Contract, tables: Tables = load_shipped, proofs: Proofs = NOTHING) -> list[Cell]:
    """Return the cells of every known version of every promised runtime, oldest first, and of what was proven."""
    found = []
    for runtime in contract.runs_on:
        rows = [*tables(runtime).rows]
        seen = {version for _, name, version in proofs if name == runtime}
        rows += [version for version in seen if runtime_support.find_row(tables(runtime), version) is None]
        for version in sorted(rows, key=version_key):
            found += judge_version(contract, runtime, version, tables, proofs)
    return found


def judge_promises(contract: Contract, found: Iterable[Cell]) -> Outcome:
    """Say whether a contract's promises are known to hold: on every promised version, with one target of it."""
    versions: dict[tuple[str, str], list[Cell]] = {}
    for cell in found:
        if cell.promised:
            versions.setdefault((cell.runtime, cell.version), []).append(cell)
    if {runtime for runtime, _ in versions} < set(contract.runs_on):
        return worst_outcome([*map(best_outcome, versions.values()), "unknown"])
    return worst_outcome(map(best_outcome, versions.values()))


def judge_version(
    contract: Contract, runtime: str, version: str, tables: Tables = load_shipped, proofs: Proofs = NOTHING
) -> list[Cell]:
    """Return the cells of one version of a runtime, one for each target that it can be given.

    What is unknown beforehand is ok where `proofs` say that it ran.
    """
    row = runtime_support.find_row(tables(runtime), version)
    targets = _targets(contract, runtime, row)
    promised = _is_promised(contract, runtime, version, tables)
    if not targets:
        had = ", ".join(sorted({terms.target.runtime for terms in contract.targets.values()})) or "none"
        reason = Reason(
            "target",
            runtime,
            f"the bundle has no target for {runtime}; it has {had}",
            f"add `{runtime}` to `runs-on` and build again",
        )
        return [Cell(runtime, version, "", False, Judgement("no", (reason,)))]
    found, names = [], dict.fromkeys((version, *((row.version, *row.also) if row else ())))
    for terms in targets:
        answer = runtime_support.judge_graph(terms.graph, runtime, version, tables)
        answer = _doubted(answer, tuple(_of_values(contract, terms, runtime, row)))
        seen = next(filter(None, (proofs.get((terms.target.name, runtime, name)) for name in names)), None)
        if answer.outcome == "unknown" and seen is not None:
            answer = Judgement("ok", (), seen)
        found.append(Cell(runtime, version, terms.target.name, promised, answer))
    return found


def _of_values(contract: Contract, terms: Terms, runtime: str, row: Row | None) -> Iterator[Reason]:
    """Yield the inputs that may hold values which a version of a runtime does not keep."""
    missing = [port.name for port in contract.inputs if port.missing]
    large = [port.name for port in contract.inputs if _is_large(port)]
    if row is not None:
        yield from runtime_support.doubt_values(terms.graph, row, runtime, missing=missing, large=large)


def _is_large(port: Port) -> bool:
    """Return whether an input of whole numbers may hold one beyond 32 bits, by all that is stated of its values."""
    stated = port.listed or port.limit or port.range
    numbers = [number for number in stated or (-math.inf, math.inf) if not isinstance(number, str)]
    return port.dtype in _WIDE and not all(-(2**31) <= number < 2**31 for number in numbers)


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring versions of a runtime that have the same answer for a target, for the same reasons."""

    first: Cell
    last: Cell

    @property
    def versions(self) -> str:
        """The versions as text, the first and the last."""
        one, other = self.first.version, self.last.version
        return one if one == other else f"{one}–{other}"


def join_cells(found: Sequence[Cell]) -> list[Span]:
    """Join the cells of neighbouring versions that answer alike, target by target, in the order of the first ones."""
    rows: dict[tuple[str, str], list[Span]] = {}
    for cell in found:
        joined = rows.setdefault((cell.runtime, cell.target), [])
        if joined and _alike(joined[-1].last) == _alike(cell):
            joined[-1] = replace(joined[-1], last=cell)
        else:
            joined.append(Span(cell, cell))
    return [span for joined in rows.values() for span in joined]


def _alike(cell: Cell) -> tuple[object, ...]:
    """Return what must be equal: all that is said of a version but its own number."""
    shown = [
        (reason.limit, reason.message.replace(cell.version, ""), (reason.fix or "").replace(cell.version, ""))
        for reason in cell.answer.reasons
    ]
    return cell.promised, cell.answer.outcome, cell.answer.source, shown


def _targets(contract: Contract, runtime: str, row: Row | None) -> list[Terms]:
    own = [terms for terms in contract.targets.values() if terms.target.runtime == runtime]
    return own or [
        terms for terms in contract.targets.values() if row and terms.target.runtime in (*row.inside, *row.opens)
    ]


def _is_promised(contract: Contract, runtime: str, version: str, tables: Tables) -> bool:
    promise = contract.runs_on.get(runtime)
    if promise is None:
        return False
    row = runtime_support.find_row(tables(runtime), version)
    known = {row.version for row in runtime_support.list_promised(tables(runtime), promise.versions)}
    return row.version in known if row else runtime_support.parse_specifier(promise.versions, runtime).contains(version)


# sites


def judge_site(contract: Contract, site: Site, tables: Tables = load_shipped, proofs: Proofs = NOTHING) -> Reach:
    """Judge a bundle at one site: its runtimes, and what its hosts have."""
    found = []
    for runtime, version in site.runtimes.items():
        row = runtime_support.find_row(tables(runtime), version)
        for cell in judge_version(contract, runtime, version, tables, proofs):
            terms = contract.targets.get(cell.target)
            reasons = tuple(_at_site(site, terms, runtime, row)) if terms else ()
            doubts = (*doubts_of(terms, site.machine, site.cpu), *_tight(site, terms)) if terms else ()
            found.append(replace(cell, answer=_doubted(_worse(cell.answer, reasons), doubts)))
    return Reach(site, tuple(found))


def list_locales(graph: Mapping[str, JSON]) -> list[str]:
    """Return the locales that operators on texts ask the host for, sorted; `C.UTF-8` is everywhere."""
    rows = graph["operators"].get("ai.onnx", {}).get("StringNormalizer", {}).values()
    needed = {row.removeprefix("locale=") for combinations in rows for row in combinations}
    return sorted(needed - {"", "C", "C.UTF-8", "POSIX"})


def list_notes(
    contract: Contract, processor: tuple[str, Collection[str]], has_locale: Callable[[str], bool]
) -> Iterator[str]:
    """Yield what else answers depend on, whatever runs them, and what this host's processor (machine, flags) is."""
    for exact in sorted({tuple(terms.needs["exact"]) for terms in contract.targets.values() if "exact" in terms.needs}):
        machine, flags = processor
        found = sorted(set(exact) & set(flags))
        here = f"this host has {found[0]}" if found else f"this host is {machine} without"
        here = here if machine in _X86 else f"this host is {machine}, where they are exact"
        yield f"8-bit sums saturate on x86-64 without {' or '.join(exact)}, and answers move by whole steps; {here}"
    for name in list_locales(contract.graph):
        here = (
            "this host has it" if has_locale(name) else f"this host lacks it, so it cannot be served here: {_GENERATE}"
        )
        yield f"texts are compared in the locale `{name:.64}`, which every host needs; {here}"


def doubts_of(terms: Terms, machine: str | None, features: Collection[str]) -> Iterator[Reason]:
    """Yield why answers on a processor may be others than elsewhere. What is not known of it says nothing."""
    exact = terms.needs.get("exact", ())
    if exact and features and machine in _X86 and not set(exact) & set(features):
        message = f"8-bit sums saturate on this processor, which has none of {', '.join(exact)}: answers may differ"
        yield Reason(
            "processor",
            "8 bit",
            f"{message} by whole steps from those elsewhere",
            "serve it where one of them is there, or quantise the source again with weights of seven bits "
            "(`reduce_range`)",
        )


def _doubted(answer: Judgement, doubts: tuple[Reason, ...]) -> Judgement:
    if not doubts:
        return answer
    return Judgement(min(answer.outcome, "unknown", key=_RANK.__getitem__), (*answer.reasons, *doubts), answer.source)


def _worse(answer: Judgement, reasons: tuple[Reason, ...]) -> Judgement:
    if not reasons:
        return answer
    kept = answer.reasons if answer.outcome == "no" else ()
    return Judgement("no", (*kept, *reasons), answer.source)


def _at_site(site: Site, terms: Terms, runtime: str, row: Row | None) -> Iterator[Reason]:
    if row and row.python and site.python and site.python not in row.python:
        fits = ", ".join(row.python)
        yield Reason(
            "python", site.python, f"{runtime} {row.version} has no form for Python {site.python}", f"use Python {fits}"
        )
    missing = sorted(set(terms.needs["cpu"]) - set(site.cpu)) if site.cpu else []
    if missing:
        yield Reason("cpu", missing[0], f"the CPU lacks {', '.join(missing)}", "use another host or target")
    yield from _memory(site, terms)
    yield from _device(site, terms, runtime, row)


def _memory(site: Site, terms: Terms) -> Iterator[Reason]:
    needed = terms.needs["memory"].get("weights", 0) + terms.needs["memory"].get("activations", 0)
    if site.memory is not None and needed > site.memory:
        yield Reason(
            "memory",
            str(site.memory),
            f"about {needed} bytes are needed, the host has {site.memory}",
            "use a host with more memory, or bound `dynamic` lower",
        )


def _tight(site: Site, terms: Terms) -> Iterator[Reason]:
    """Yield a doubt where the largest request may take more memory than a host has."""
    peak = terms.needs["memory"].get("peak", 0)
    if site.memory is not None and peak > site.memory and not tuple(_memory(site, terms)):
        yield Reason(
            "memory",
            str(site.memory),
            f"a process comes to take about {peak} bytes with the largest requests, the host has {site.memory}",
            "use a host with more memory, or bound `dynamic` lower",
        )


def _is_ampere(capability: str) -> bool:
    """Say whether engines of the hardware compatibility level `AMPERE_PLUS` run: by NVIDIA's page on it, no Jetson."""
    return version_key(capability) >= version_key("8.0") and capability not in _JETSON


def _device(site: Site, terms: Terms, runtime: str, row: Row | None) -> Iterator[Reason]:
    wanted = terms.needs.get("capability")
    if terms.target.device == _AMPERE_PLUS and not any(_is_ampere(found) for found in site.capabilities):
        had = ", ".join(site.capabilities) or "none"
        yield Reason(
            "device",
            _AMPERE_PLUS,
            f"a GPU of compute capability 8.0 or newer is needed, no Jetson; the site has {had}",
            "add its device to `runs-on` and build again",
        )
    if wanted is None:
        return
    if wanted not in site.capabilities:
        had = ", ".join(site.capabilities) or "none"
        yield Reason(
            "device",
            wanted,
            f"a GPU of compute capability {wanted} is needed, the site has {had}",
            "add its device to `runs-on` and build again",
        )
    if row and row.driver and site.driver and version_key(site.driver) < version_key(row.driver):
        message = f"{runtime} {row.version} needs driver {row.driver}, the site has {site.driver}"
        yield Reason("driver", site.driver, message, f"update the driver to {row.driver}")


# what would reach one more site


def suggest_steps(contract: Contract, reached: Sequence[Reach], tables: Tables = load_shipped) -> list[Step]:
    """Return the changes that would each reach at least one more site, the smallest first.

    To export for an older runtime again costs the site nothing, so it comes first, the least step back before a larger
    one; then what a site would have to upgrade, by the number of known versions in between.
    """
    found: dict[str, Step] = {}
    for entry in reached:
        for step in _steps_for(contract, entry, tables) if entry.outcome == "no" else ():
            known = found.get(step.message, step)
            found[step.message] = replace(known, sites=(*known.sites, entry.site.name))
    return sorted(found.values(), key=lambda step: (step.cost, -len(step.sites), step.message))


def _steps_for(contract: Contract, entry: Reach, tables: Tables) -> list[Step]:
    found: dict[str, Step] = {}
    for cell in entry.cells:
        for step in (*_export_again(cell), *_other_python(cell), *_upgrade(contract, entry.site, cell, tables)):
            found.setdefault(step.message, step)
    return list(found.values())


def _export_again(cell: Cell) -> Iterator[Step]:
    """Building for this version helps where every reason is one that a lower opset or IR version takes away."""
    reasons = cell.answer.reasons
    if all(reason.limit in _OF_THE_EXPORT or reason.opset is not None for reason in reasons):
        opsets = [reason.opset for reason in reasons if reason.opset is not None]
        level = f"re-export at opset {min(opsets)}" if opsets else "re-export with an older IR version"
        message = f'{level}: promise `{cell.runtime}: ">={cell.version}"` and build again'
        yield Step((0, -min(opsets, default=99)), message)


def _other_python(cell: Cell) -> Iterator[Step]:
    reasons = cell.answer.reasons
    if reasons and all(reason.limit == "python" for reason in reasons):
        yield Step((1, 0), f"{reasons[0].fix} with {cell.runtime} {cell.version}")


def _upgrade(contract: Contract, site: Site, cell: Cell, tables: Tables) -> Iterator[Step]:
    later = [v for v in tables(cell.runtime).rows if version_key(v) > version_key(cell.version)]
    for distance, version in enumerate(later, start=1):
        moved = replace(site, runtimes={cell.runtime: version})
        if judge_site(contract, moved, tables).outcome == "ok":
            yield Step((1, distance), f"upgrade {cell.runtime} {cell.version} to {version}")
            return
