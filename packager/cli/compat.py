# SPDX-License-Identifier: Apache-2.0
"""Say where a bundle will run, before anything is loaded: from its contract and from what is known of runtimes.

Without --runtime and --fleet every known version of the promised runtimes is listed, and the promised ones are what was
asked. Exit code 1: one answer is a certain no; 6: one is unknown, and none is a no. What
the build measured, or a conformance run passed, is never unknown; `packager runtimes probe` measures other versions.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import _completers, options
from packager.cli.console import Console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from packager.bundle.bundle import Bundle
    from packager.contract.contract import Contract
    from packager.contract.preflight import Cell, Reach, Step

FOR = "platform"
HELP = "say where a bundle will run, without loading it"
EXAMPLES = """  packager compat digits.bundle.tar
  packager compat digits:1.4.0 --runtime onnxruntime==1.16.3 --runtime triton==24.05
  packager compat digits:1.4.0 --fleet fleet.yaml --html fleet.html"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.bundle(parser)
    asked = parser.add_argument(
        "--runtime", action="append", default=[], metavar="NAME==V", help="ask about this version"
    )
    _completers.completed(asked, _completers.runtimes)
    parser.add_argument("--fleet", type=Path, metavar="FILE", help="ask about every site of a fleet file")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the answer as one self-contained page")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.contract import contract, fleet, host, preflight, runtime_tables
    from packager.errors import exit_code_of
    from packager.release import proofs

    runtime_tables.use_updates(options.workspace(args).knowledge_to_read)
    bundle = options.open_bundle(args, console)
    promise = bundle.contract
    asked = [_asked(text) for text in args.runtime]
    sites = fleet.load(args.fleet) if args.fleet else ()
    seen = proofs.proven(bundle)
    reached = [preflight.reach(promise, site, proofs=seen) for site in sites]
    groups = [preflight.cells(promise, runtime, version, proofs=seen) for runtime, version in asked]
    every = [] if asked or sites else preflight.everywhere(promise, proofs=seen)
    cells = [cell for group in groups for cell in group] + every
    steps = preflight.steps(promise, reached)
    outcome = preflight.worst([*map(preflight.best, groups), *(entry.outcome for entry in reached)])
    outcome = preflight.kept(promise, every) if every else outcome
    value = {
        "bundle": {"name": bundle.name, "version": bundle.version, "digest": bundle.digest},
        "ok": outcome == "ok",
        "outcome": outcome,
        "takes": contract.lines(promise),
        "runs_on": {
            name: {"promised": p.versions, "loads": _loads(promise, name)} for name, p in promise.runs_on.items()
        },
        "cells": [cell.to_json() for cell in cells],
        "sites": [entry.to_json() for entry in reached],
        "steps": [step.to_json() for step in steps],
    }
    notes = list(preflight.notes(promise, host.processor(), host.has_locale))
    if any(cell.answer.source in proofs.SOURCES for cell in (*cells, *(c for entry in reached for c in entry.cells))):
        notes.append(f"`{'` and `'.join(proofs.SOURCES)}`: so say statements whose signatures are not checked here")
    value["notes"] = notes
    if args.html:
        _write_page(args.html, bundle, cells, reached, steps)
    rows = [*contract.lines(promise), *_rows(cells), *_site_rows(reached), *_step_rows(steps), *notes]
    console.result(value, [*rows, *_told(outcome, [*cells, *(cell for entry in reached for cell in entry.cells)])])
    return exit_code_of(outcome)


def _asked(text: str) -> tuple[str, str]:
    import re

    from packager.contract import runtime_tables
    from packager.errors import UsageError, did_you_mean

    name, equals, version = text.partition("==")
    if not equals or not re.fullmatch(r"[0-9][0-9A-Za-z.+-]*", version):
        raise UsageError(f"`--runtime`: expected NAME==VERSION, got `{text:.80}`", hint="as in `onnxruntime==1.16.3`")
    if name not in runtime_tables.runtimes() and not runtime_tables.table(name).rows:
        raise UsageError(
            f"nothing is known of runtime `{name:.60}`", hint=did_you_mean(name, runtime_tables.runtimes())
        )
    return name, version


def _loads(promise: Contract, runtime: str) -> str | None:
    """Return the range as known here today; the contract holds what was known when the bundle was built."""
    from packager.contract import runtime_support, runtime_tables

    return runtime_support.loads_on(promise.graph, runtime, runtime_tables.table)


def _rows(cells: Sequence[Cell]) -> list[str]:
    from packager.contract.preflight import spans

    found = spans(cells)
    width = max((len(f"{span.first.runtime} {span.versions}") for span in found), default=0)
    rows = []
    for span in found:
        cell, where = span.first, f"{span.first.runtime} {span.versions}"
        mark = "promised" if cell.promised else ""
        rows.append(f"{cell.answer.outcome:8} {where:{width}} {cell.target:26} {mark:9} {cell.answer.source}")
        rows += _reasons(cell)
    return rows


def _told(outcome: str, cells: Sequence[Cell]) -> list[str]:
    """Say what an answer that is no yes means, and what would change it."""
    if outcome != "unknown":
        return []
    count = sum(cell.answer.outcome == "unknown" for cell in cells)
    remedy = "`packager conform` proves them on the real runtime"
    return [f"unknown: nobody measured {count} of {len(cells)} cells; {remedy}"]


def _reasons(cell: Cell) -> list[str]:
    found = [f"           {r.message}" + (f"; {r.fix}" if r.fix else "") for r in cell.answer.reasons[:4]]
    more = len(cell.answer.reasons) - 4
    return [*found, f"           and {more} more"] if more > 0 else found


def _site_rows(reached: Sequence[Reach]) -> list[str]:
    rows = []
    for entry in reached:
        rows.append(f"{entry.outcome:8} {entry.site.name}")
        rows += [f"  {row}" for row in _rows(entry.cells)]
    return rows


def _step_rows(steps: Sequence[Step]) -> list[str]:
    if not steps:
        return []
    first, *others = steps
    rows = [f"smallest change that reaches one more site ({', '.join(first.sites)}): {first.message}"]
    return rows + [f"  or, for {', '.join(step.sites)}: {step.message}" for step in others]


def _write_page(
    path: Path, bundle: Bundle, cells: Sequence[Cell], reached: Sequence[Reach], steps: Sequence[Step]
) -> None:
    from packager.contract import page
    from packager.files import write_atomically

    write_atomically(path, page.page(bundle.name, bundle.version, bundle.digest, cells, reached, steps).encode())
