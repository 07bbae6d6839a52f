# SPDX-License-Identifier: Apache-2.0
"""Say what this host is and can run, as its own entry for a fleet file.

The entry goes to stdout, so `packager doctor >> fleet.yaml` or sending it to whoever ships releases is all there is to
do; what it means goes to stderr. With BUNDLE it also says whether that bundle runs here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import options
from packager.cli.console import Console

HELP = "describe this host and what it can run"
EXAMPLES = """  packager doctor
  packager doctor --name acme > fleet.yaml
  packager doctor digits.bundle.tar"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?", help="also say whether this bundle runs here")
    parser.add_argument("--name", metavar="SITE", help="name of the site (default: the host's name)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the entry to a new fleet file")
    options.registry(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    import platform
    import re
    from dataclasses import asdict

    from packager.compatibility import fleet, host, knowledge

    knowledge.use_updates(options.knowledge_directory())
    name = args.name or re.sub(r"[^A-Za-z0-9._-]", "-", platform.node()).lstrip("._-") or "host"
    fleet.check_name(name)
    site = host.describe(name, Path.cwd())
    if args.output:
        from packager.files import write_atomically

        write_atomically(args.output, fleet.write(site).encode())
    remarks = host.remarks(site)
    value = {
        "site": {**asdict(site), "knobs": dict(site.knobs)},
        "remarks": [{"ok": ok, "message": m} for ok, m in remarks],
    }
    if not args.json and not args.quiet:
        for ok, message in remarks:
            console.message(f"{'ok  ' if ok else '-   '}  {message}")
    code = 0
    if args.bundle:
        from packager import compat, contract
        from packager.bundle import CONTRACT

        told = contract.parse(options.open_bundle(args, console).read(CONTRACT))
        reached = compat.reach(told, site)
        lacking = [name for name in compat.locales(told.graph) if not host.has_locale(name)]
        outcome = "no" if lacking else reached.outcome
        notes = list(compat.notes(told, host.processor(), host.has_locale))
        value["bundle"] = reached.to_json() | {"outcome": outcome, "notes": notes}
        code = int(outcome == "no")
        if not args.json:
            console.message(f"{args.bundle} here: {outcome}")
            for note in notes:
                console.message(f"  {note}")
            for cell in reached.cells:
                for reason in cell.answer.reasons[:3]:
                    console.message(f"  {cell.runtime} {cell.version}: {reason.message}")
    console.result(value, fleet.write(site).rstrip())
    return code
