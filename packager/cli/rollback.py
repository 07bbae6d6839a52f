# SPDX-License-Identifier: Apache-2.0
"""Make the release that served before the current one current again; the files of both stay where they are.

Once more goes further back, as far as the journal tells and releases are there; what was left so is not returned to:
`packager install` or `upgrade` makes it current again. A running `packager serve` changes over to it by itself; another
server has to be restarted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import options
from packager.cli.console import Console

FOR = "site"
HELP = "switch an installation back to its previous release"
EXAMPLES = """  packager rollback /srv/digits"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="directory given to `packager install`")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import deploy

    before = deploy.Installation.open(args.directory.absolute()).release
    release = deploy.roll_back(args.directory, options.open_workspace(args))
    value = {"release": str(release), "before": before.name}
    console.result(value, f"current is {release.name}, it was {before.name}; a running `packager serve` follows")
    return 0
