# SPDX-License-Identifier: Apache-2.0
"""Remove an installation: every release, its environment and the journal. Files that are not ours stay.

A running server keeps what it has opened; stop it first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli.console import Console

FOR = "site"
HELP = "remove an installation"
EXAMPLES = """  packager uninstall /srv/digits"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="directory given to `packager install`")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.lifecycle import uninstall

    left = uninstall(args.directory.absolute())
    text = f"removed the installation in {args.directory}"
    console.result({"left": left}, f"{text}; left alone: {', '.join(left)}" if left else text)
    return 0
