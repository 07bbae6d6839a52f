# SPDX-License-Identifier: Apache-2.0
"""Remove an installation: every release, its environment and the journal. Files that are not ours stay.

One that is in use is refused, and the process that uses it named; with --force its files go all the same, and a running
server keeps what it has opened until it ends.
With --adapter NAME only that adapter of a language model goes, and a server goes on without it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import options
from packager.cli.console import Console

FOR = "site"
HELP = "remove an installation, or an adapter from it"
EXAMPLES = """  packager uninstall /srv/digits
  packager uninstall /srv/digits --force
  packager uninstall /srv/smollm --adapter smollm-legal"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="directory given to `packager install`")
    parser.add_argument("--force", action="store_true", help="even if a server runs from it")
    parser.add_argument("--adapter", metavar="NAME", help="remove this adapter alone, from the model that serves")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import deploy

    if args.adapter is not None:
        workspace = options.open_workspace(args, console)
        others = deploy.remove_adapter(args.directory, args.adapter, workspace)
        text = f"removed the adapter {args.adapter}; left: {', '.join(others) or 'none'}"
        console.result({"left": others}, text)
        return 0
    left = deploy.uninstall(args.directory, force=args.force)
    text = f"removed the installation in {args.directory}"
    console.result({"left": left}, f"{text}; left alone: {', '.join(left)}" if left else text)
    return 0
