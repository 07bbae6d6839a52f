# SPDX-License-Identifier: Apache-2.0
"""Say what this host is and can run, as its own entry for a fleet file.

The entry goes to stdout, so `packager doctor >> fleet.yaml` or sending it to the publisher is all there is to
do; what it means goes to stderr. On a terminal one line counts the CPU features. With BUNDLE it also says whether
that bundle runs here: what `packager install` would do, and what the runtimes do that are installed already. Exit
code 1: it would not run; 6: unknown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.cli import options
from packager.cli.console import Console

if TYPE_CHECKING:
    from packager.api.runtimes import HostReport, Outcome

FOR = "site"
HELP = "describe this host and what it can run"
EXAMPLES = """  packager doctor
  packager doctor --name acme > fleet.yaml
  packager doctor >> fleet.yaml
  packager doctor digits.bundle.tar
  packager doctor digits.bundle.tar --wheelhouse wheels/"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.a_bundle(
        parser.add_argument("bundle", metavar="BUNDLE", nargs="?", help="also say whether this bundle runs here")
    )
    parser.add_argument("--name", metavar="SITE", help="name of the site (default: the host's name)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the entry to a new fleet file")
    parser.add_argument("--wheelhouse", type=Path, metavar="DIR", help="where an installation would take wheels from")
    options.add_registry(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from dataclasses import asdict

    from packager.api import runtimes
    from packager.errors import exit_code_of
    from packager.files import write_atomically

    site = runtimes.describe_host(args.name)
    if args.output:
        write_atomically(args.output, runtimes.write_site(site).encode())
    remarks = runtimes.list_remarks(site, options.open_workspace(args))
    value: dict[str, Any] = {
        "site": {**asdict(site), "knobs": dict(site.knobs)},
        "remarks": [{"ok": ok, "message": m} for ok, m in remarks],
    }
    if not args.json and not args.quiet:
        for ok, message in remarks:
            console.message(f"{'ok  ' if ok else '-   '}  {message}")
    outcome: Outcome = "ok"
    if args.bundle:
        bundle = options.open_bundle(args, console)
        found = runtimes.report_host(bundle, site, options.open_workspace(args), wheelhouse=args.wheelhouse)
        outcome, value["bundle"] = found.outcome, found.to_json()
        for row in () if args.json else _rows(args.bundle, found):
            console.message(row)
    console.result(value, runtimes.write_site(site, folded=sys.stdout.isatty()).rstrip())
    return exit_code_of(outcome)


def _rows(named: str, found: HostReport) -> list[str]:
    """Return what becomes of a bundle here: what installing it would say, else what is there."""
    new = found.install
    where = f" ({new.target}, {new.runtime} {new.version}; wheels {new.supply})" if new.version else ""
    rows = [f"{named} here: {found.outcome}", f"  {new.outcome:8} `packager install`{where}"]
    rows += [f"             {reason.message}" + (f"; {reason.fix}" if reason.fix else "") for reason in new.reasons[:3]]
    for cell in found.reach.cells:
        rows.append(f"  {cell.answer.outcome:8} {cell.runtime} {cell.version}, installed beside this program")
        rows += [f"             {reason.message}" for reason in cell.answer.reasons[:3]]
    return rows + [f"  {note}" for note in found.notes]
