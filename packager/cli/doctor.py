# SPDX-License-Identifier: Apache-2.0
"""Say what this host is and can run, as its own entry for a fleet file.

The entry goes to stdout, so `packager doctor >> fleet.yaml` or sending it to the publisher is all there is to
do; what it means goes to stderr. With BUNDLE it also says whether that bundle runs here: what `packager install` would
do, and what the runtimes do that are installed already. Exit code 1: it would not run; 6: unknown.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.cli import options
from packager.cli.console import Console

if TYPE_CHECKING:
    from packager.contract.fleet import Site
    from packager.contract.runtime_tables import Outcome

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
    options.registry(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    import platform
    import re
    from dataclasses import asdict

    from packager.contract import fleet, host, runtime_tables
    from packager.errors import exit_code_of

    runtime_tables.use_updates(options.workspace(args).knowledge_to_read)
    name = args.name or re.sub(r"[^A-Za-z0-9._-]", "-", platform.node()).lstrip("._-") or "host"
    fleet.check_name(name)
    site = host.describe(name, Path.cwd())
    if args.output:
        from packager.files import write_atomically

        write_atomically(args.output, fleet.write(site).encode())
    remarks = host.remarks(site)
    value: dict[str, Any] = {
        "site": {**asdict(site), "knobs": dict(site.knobs)},
        "remarks": [{"ok": ok, "message": m} for ok, m in remarks],
    }
    if not args.json and not args.quiet:
        for ok, message in remarks:
            console.message(f"{'ok  ' if ok else '-   '}  {message}")
    outcome: Outcome = "ok"
    if args.bundle:
        value["bundle"], rows = _judged(args, site, console)
        outcome = value["bundle"]["outcome"]
        for row in () if args.json else rows:
            console.message(row)
    console.result(value, fleet.write(site).rstrip())
    return exit_code_of(outcome)


def _judged(args: argparse.Namespace, site: Site, console: Console) -> tuple[dict[str, Any], list[str]]:
    """Return what becomes of a bundle here, as JSON and as lines: what installing it would say, else what is there."""
    from packager.contract import host, preflight
    from packager.deploy import forecast
    from packager.deploy.install import Index
    from packager.release import proofs

    bundle = options.open_bundle(args, console)
    told, seen = bundle.contract, proofs.proven(bundle)
    new = forecast.foresee(
        bundle, site, Path.cwd(), Index(args.wheelhouse, options.workspace(args).served_environments), seen
    )
    reached = preflight.reach(told, site, proofs=seen)
    lacking = any(not host.has_locale(name) for name in preflight.locales(told.graph))
    outcome = new.outcome if new.target else "no" if lacking else reached.outcome
    notes = list(preflight.notes(told, host.processor(), host.has_locale))
    where = f" ({new.target}, {new.runtime} {new.version}; wheels {new.supply})" if new.version else ""
    rows = [f"{args.bundle} here: {outcome}", f"  {new.outcome:8} `packager install`{where}"]
    rows += [f"             {reason.message}" + (f"; {reason.fix}" if reason.fix else "") for reason in new.reasons[:3]]
    for cell in reached.cells:
        rows.append(f"  {cell.answer.outcome:8} {cell.runtime} {cell.version}, installed beside this program")
        rows += [f"             {reason.message}" for reason in cell.answer.reasons[:3]]
    rows += [f"  {note}" for note in notes]
    return {**reached.to_json(), "outcome": outcome, "install": new.to_json(), "notes": notes}, rows
