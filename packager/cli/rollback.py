# SPDX-License-Identifier: Apache-2.0
"""Make the release that served before the current one current again; the files of both stay where they are.

A running server keeps what it has opened: restart it to serve the other release.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli.console import Console

HELP = "switch an installation back to its previous release"
EXAMPLES = """  packager rollback /srv/digits"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="directory given to `packager install`")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.install import roll_back

    release = roll_back(args.directory.absolute())
    console.result({"release": str(release)}, f"current is {release.name}; restart the server to serve it")
    return 0
