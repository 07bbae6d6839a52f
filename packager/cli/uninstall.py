# SPDX-License-Identifier: Apache-2.0
"""Remove an installation: every release, its environment and the journal. Files that are not ours stay.

One that is in use is refused, and the process that uses it named; with --force its files go all the same, and a running
server keeps what it has opened until it ends.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli.console import Console

FOR = "site"
HELP = "remove an installation"
EXAMPLES = """  packager uninstall /srv/digits
  packager uninstall /srv/digits --force"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="directory given to `packager install`")
    parser.add_argument("--force", action="store_true", help="even if a server runs from it")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import deploy

    left = deploy.uninstall(args.directory, force=args.force)
    text = f"removed the installation in {args.directory}"
    console.result({"left": left}, f"{text}; left alone: {', '.join(left)}" if left else text)
    return 0
