# SPDX-License-Identifier: Apache-2.0
"""Say how far the rows of a file lie from the data that a bundle was measured on, by column.

The build describes the rows of `evaluation.data` or `samples` as counts between quantiles and of frequent categories,
and signs that beside the bundle; no row is kept. DATA has a column per input, as `packager run` takes it; answers of
`packager run` are compared as well. PSI below 0.1 is stable, above 0.25 another population; KS is the largest distance
of the cumulative shares. What samples of these sizes show by chance is no drift. Exit code 1: a column is over a
threshold; 6: no column could be compared.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import options
from packager.cli.console import Console

if TYPE_CHECKING:
    from packager.api.deploy import ColumnDrift, DriftReport

FOR = "site"
HELP = "compare the rows of a file with the data that a bundle was measured on"
EXAMPLES = """  packager drift credit.bundle.tar june.csv --key release.pub
  packager drift credit:1.4.0 june.parquet --fail-over 0.2 --fail-over missing=0.05 --json
  packager drift moods.bundle.tar june.jsonl --column text=review"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    parser.add_argument("data", metavar="DATA", type=Path, help=".csv, .parquet or .jsonl")
    parser.add_argument(
        "--fail-over",
        action="append",
        default=[],
        metavar="[METRIC=]N",
        help="threshold of psi (default: 0.25), or of ks, missing or new: differences of shares",
    )
    parser.add_argument(
        "--column", action="append", default=[], metavar="NAME=COLUMN", help="take COLUMN of the data as NAME"
    )
    options.add_trust(parser, "who must have signed the bundle and its distributions")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import deploy
    from packager.cli._trust import verifier_of
    from packager.errors import UsageError, exit_code_of

    pairs = [text.partition("=") for text in args.column]
    if wrong := [pair for pair in pairs if not (pair[0] and pair[2])]:
        raise UsageError(f"`--column {''.join(wrong[0])}`: expected NAME=COLUMN")
    with console:
        bundle = options.open_bundle(args, console)
        found = deploy.measure_drift(
            bundle,
            args.data,
            verifier_of(args) if options.wants_trust(args) else None,
            columns={name: column for name, _, column in pairs},
            thresholds=args.fail_over,
            on_event=console,
        )
    console.result(found.to_json(), _table(found))
    return exit_code_of(found.outcome)


def _table(found: DriftReport) -> list[str]:
    width = max([len(column.found.name[:40]) for column in found.columns] + [6])
    rows = [f"{'column':{width}}  {'verdict':8} {'psi':>7} {'chance':>7} {'ks':>6} {'missing':>15}  new"]
    for column in found.columns:
        rows.append(f"{column.found.name[:40]:{width}}  {_figures(column)}".rstrip())
        rows += [f"{'':{width}}  {words}" for words in column.over]
    drifted = sum(column.verdict == "drift" for column in found.columns)
    rows.append(f"{drifted} of {len(found.columns)} columns have drifted in {found.rows} rows of `{found.data}`")
    if found.skipped:
        more = " …" if len(found.skipped) > 8 else ""
        rows.append(f"not in the data: {', '.join(found.skipped[:8])}{more}")
    if found.unreadable:
        rows.append(f"{found.unreadable} rows cannot be read")
    if found.left_out:
        rows.append(f"{found.left_out} columns were left out at build: the distributions would exceed 64 kB")
    return rows


def _figures(column: ColumnDrift) -> str:
    found = column.found
    ks = "" if found.ks is None else f"{found.ks:.3f}"
    chance = "" if found.chance == float("inf") else f"{found.chance:.3f}"
    missing = f"{found.missing[0]:.1%} -> {found.missing[1]:.1%}"
    new = ", ".join(f"{value[:24]} ({count})" for value, count in found.new[:3])
    return f"{column.verdict:8} {found.psi:7.3f} {chance:>7} {ks:>6} {missing:>15}  {new}"
