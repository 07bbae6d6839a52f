# SPDX-License-Identifier: Apache-2.0
"""Where a bundle runs: on which versions of runtimes, at which sites of a fleet, and on this host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.contract import contract, host, page, preflight, runtime_support
from packager.contract.fleet import Site
from packager.contract.preflight import Cell, Reach, Step
from packager.contract.runtime_tables import Outcome, Tables, load_shipped
from packager.deploy import forecast
from packager.deploy.forecast import Arrival
from packager.deploy.install import Index
from packager.release import proofs


@dataclass(frozen=True, slots=True)
class Compatibility:
    """Where a bundle runs. `cells` are versions of runtimes, `sites` those of a fleet, `steps` what would reach more.

    `outcome` is `ok`, `no` or `unknown` about the given versions and sites, or without any about what is promised.
    `loads` is the range of versions that each promised runtime is known to load today, None where none is.
    """

    bundle: Bundle
    outcome: Outcome
    cells: tuple[Cell, ...]
    sites: tuple[Reach, ...]
    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    loads: Mapping[str, str | None]

    @property
    def all_cells(self) -> list[Cell]:
        """The cells of runtimes and of every site."""
        return [*self.cells, *(cell for site in self.sites for cell in site.cells)]

    def to_html(self) -> str:
        """Return one self-contained page. The same answer gives the same bytes."""
        bundle = self.bundle
        return page.render_page(bundle.name, bundle.version, bundle.digest, self.cells, self.sites, self.steps)

    def to_json(self) -> dict[str, JSON]:
        bundle, loads = self.bundle, self.loads
        return {
            "bundle": {"name": bundle.name, "version": bundle.version, "digest": bundle.digest},
            "ok": self.outcome == "ok",
            "outcome": self.outcome,
            "takes": contract.render_lines(bundle.contract),
            "runs_on": {
                name: {"promised": promise.versions, "loads": loads[name]}
                for name, promise in bundle.contract.runs_on.items()
            },
            "cells": [cell.to_json() for cell in self.cells],
            "sites": [entry.to_json() for entry in self.sites],
            "steps": [step.to_json() for step in self.steps],
            "notes": list(self.notes),
        }


def report_compatibility(
    bundle: Bundle,
    versions: Sequence[tuple[str, str]] = (),
    sites: Sequence[Site] = (),
    tables: Tables = load_shipped,
) -> Compatibility:
    """Judge `bundle` on `versions` (runtime, version) and at `sites`; without either on every known version."""
    promise, seen = bundle.contract, proofs.list_proofs(bundle)
    reached = [preflight.judge_site(promise, site, tables, seen) for site in sites]
    groups = [preflight.judge_version(promise, runtime, version, tables, seen) for runtime, version in versions]
    every = [] if versions or sites else preflight.judge_everywhere(promise, tables, seen)
    cells = [cell for group in groups for cell in group] + every
    outcome = preflight.worst_outcome([*map(preflight.best_outcome, groups), *(entry.outcome for entry in reached)])
    outcome = preflight.judge_promises(promise, every) if every else outcome
    notes = list(preflight.list_notes(promise, host.read_processor(), host.has_locale))
    if any(cell.answer.source in proofs.SOURCES for cell in (*cells, *(c for entry in reached for c in entry.cells))):
        notes.append(f"`{'` and `'.join(proofs.SOURCES)}`: so say statements whose signatures are not checked here")
    steps = preflight.suggest_steps(promise, reached, tables)
    loads = {name: runtime_support.loads_on(promise.graph, name, tables) for name in promise.runs_on}
    return Compatibility(bundle, outcome, tuple(cells), tuple(reached), tuple(steps), tuple(notes), loads)


@dataclass(frozen=True, slots=True)
class HostReport:
    """What becomes of a bundle on this host: what installing it would do, and what installed runtimes do with it."""

    outcome: Outcome
    install: Arrival
    reach: Reach
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, JSON]:
        return {
            **self.reach.to_json(),
            "outcome": self.outcome,
            "install": self.install.to_json(),
            "notes": list(self.notes),
        }


def report_host(bundle: Bundle, site: Site, directory: Path, index: Index, tables: Tables = load_shipped) -> HostReport:
    """Say what becomes of `bundle` on this host, which is `site`; `directory` is where installations would go."""
    promise, seen = bundle.contract, proofs.list_proofs(bundle)
    new = forecast.foresee_install(bundle, site, directory, index, seen, tables)
    reached = preflight.judge_site(promise, site, tables, seen)
    lacking = any(not host.has_locale(name) for name in preflight.list_locales(promise.graph))
    outcome = new.outcome if new.target else "no" if lacking else reached.outcome
    notes = preflight.list_notes(promise, host.read_processor(), host.has_locale)
    return HostReport(outcome, new, reached, tuple(notes))
