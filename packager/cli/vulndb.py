# SPDX-License-Identifier: Apache-2.0
"""Keep advisories about Python packages on this machine, and look a bundle's locked packages up in them, offline.

  import  take FILE: `all.zip` of the PyPI ecosystem from osv.dev, JSON lines, or one advisory in the OSV form
  show    print which advisories are here
  check   print what is known about the packages of BUNDLE; `-o` writes it for `packager attest`

Whether a vulnerability matters is a policy's business: the rule `vulnerabilities`, applied by `packager policy check`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import options
from packager.cli.console import Console
from packager.errors import UsageError

if TYPE_CHECKING:
    from packager.api import Workspace
    from packager.api.policies import AdvisoryDatabase

FOR = "release"
HELP = "keep advisories and look packages up in them, offline"
EXAMPLES = """  packager vulndb import all.zip
  packager vulndb show
  packager vulndb check digits.bundle.tar -o vulnerabilities.json
  packager attest digits:1.4.0 --key k.pem --predicate vulnerabilities.json --type urn:packager:vulnerabilities:v1"""
_ACTIONS = ("import", "show", "check")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", metavar="ACTION", choices=_ACTIONS, help=", ".join(_ACTIONS))
    parser.add_argument("subject", metavar="FILE|BUNDLE", nargs="?", help="what is imported or looked up")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="check: write the predicate of a statement")
    options.add_registry(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import policies

    here = options.open_workspace(args, console)
    if args.action == "show":
        known = policies.read_advisories(here)
        if known is None:
            raise UsageError("there are no advisories yet", hint="`packager vulndb import FILE`")
        return _say(known, console)
    if args.subject is None:
        raise UsageError(f"`vulndb {args.action}` needs a file or a bundle", hint="see `packager vulndb --help`")
    if args.action == "import":
        with console:
            return _say(policies.import_advisories(Path(args.subject), here), console)
    return _check(args, console, here)


def _say(known: AdvisoryDatabase, console: Console) -> int:
    console.result(known.to_json(), f"{known.count} advisories, the newest of {known.newest}\n{known.digest}")
    return 0


def _check(args: argparse.Namespace, console: Console, here: Workspace) -> int:
    from packager import canonical
    from packager.api import policies
    from packager.files import write_atomically

    vulnerabilities = policies.find_vulnerabilities(options.open_reference(args.subject, args, console), here)
    found = vulnerabilities.found
    if args.output:
        write_atomically(args.output, canonical.dump(vulnerabilities.predicate))
    rows = [
        f"{hit['package']}=={hit['version']}  {hit['id']}  {hit['severity']}"
        + (f"  fixed in {', '.join(hit['fixed'])}" if hit["fixed"] else "")
        for hit in found["found"]
    ]
    summary = f"{len(rows)} known for {found['packages']} packages; newest advisory of {found['database']['newest']}"
    console.result(found, [*rows, summary])
    return 0
