# SPDX-License-Identifier: Apache-2.0
"""Say where a bundle will run, before anything is loaded: from its contract and from what is known of runtimes.

Without --runtime and --fleet every known version of the promised runtimes is listed, and the promised ones decide.
Exit code 1: one answer is a certain no; 6: one is unknown, and none is a no. What the build measured, or a conformance
run passed, is never unknown; `packager runtimes probe` measures other versions.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import _completers, options
from packager.cli.console import Console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from packager.api.runtimes import Cell, Reach, Step

FOR = "platform"
HELP = "say where a bundle will run, without loading it"
EXAMPLES = """  packager compat digits.bundle.tar
  packager compat digits:1.4.0 --runtime onnxruntime==1.16.3 --runtime triton==24.05
  packager compat digits:1.4.0 --fleet fleet.yaml --html fleet.html"""
_MOST_REASONS = 4  # of a cell that are shown


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    option = parser.add_argument(
        "--runtime", action="append", default=[], metavar="NAME==V", help="ask about this version"
    )
    _completers.complete_with(option, _completers.list_runtimes)
    parser.add_argument("--fleet", type=Path, metavar="FILE", help="ask about every site of a fleet file")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the answer as one self-contained page")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import runtimes
    from packager.errors import exit_code_of
    from packager.files import write_atomically

    bundle = options.open_bundle(args, console)
    versions = [_asked(text) for text in args.runtime]
    sites = runtimes.read_fleet(args.fleet) if args.fleet else ()
    found = runtimes.report_compatibility(bundle, versions, sites, workspace=options.open_workspace(args))
    if args.html:
        write_atomically(args.html, found.to_html().encode())
    rows = [*bundle.contract.describe(), *_rows(found.cells), *_site_rows(found.sites), *_step_rows(found.steps)]
    console.result(found.to_json(), [*rows, *found.notes, *_told(found.outcome, found.all_cells)])
    return exit_code_of(found.outcome)


def _asked(text: str) -> tuple[str, str]:
    import re

    from packager.errors import UsageError

    name, equals, version = text.partition("==")
    if not equals or not re.fullmatch(r"[0-9][0-9A-Za-z.+-]*", version):
        raise UsageError(f"`--runtime`: expected NAME==VERSION, got `{text:.80}`", hint="as in `onnxruntime==1.16.3`")
    return name, version


def _rows(cells: Sequence[Cell]) -> list[str]:
    from packager.api import runtimes

    found = runtimes.join_cells(cells)
    width = max((len(f"{span.first.runtime} {span.versions}") for span in found), default=0)
    wide = max((len(span.first.target) for span in found), default=0)
    rows = []
    for span in found:
        cell, where = span.first, f"{span.first.runtime} {span.versions}"
        mark = "promised" if cell.promised else ""
        rows.append(f"{cell.answer.outcome:8} {where:{width}} {cell.target:{wide}} {mark:9} {cell.answer.source}")
        rows += _reasons(cell)
    return rows


def _told(outcome: str, cells: Sequence[Cell]) -> list[str]:
    """Say what an answer that is no yes means, and what would change it."""
    if outcome != "unknown":
        return []
    count = sum(cell.answer.outcome == "unknown" for cell in cells)
    remedy = "`packager conform` proves them on the real runtime"
    return [f"unknown: {count} of {len(cells)} cells were not measured; {remedy}"]


def _reasons(cell: Cell) -> list[str]:
    """Return the reasons of an answer, each once, and what would change it: below them, if it is one for all."""
    fixes = {reason.fix for reason in cell.answer.reasons}
    (shared,) = fixes if len(fixes) == 1 else (None,)
    found = [
        reason.message + (f"; {reason.fix}" if reason.fix and not shared else "") for reason in cell.answer.reasons
    ]
    unique = [*dict.fromkeys(found)]
    more = [f"and {len(unique) - _MOST_REASONS} more"] if len(unique) > _MOST_REASONS else []
    return [f"{'':11}{row}" for row in (*unique[:_MOST_REASONS], *more, *([shared] if shared else []))]


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
