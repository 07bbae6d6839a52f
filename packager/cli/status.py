# SPDX-License-Identifier: Apache-2.0
"""Show what is installed in a directory: the release that serves, the one before, and what was done."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli.console import Console

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FOR = "site"
HELP = "show what is installed in a directory"
EXAMPLES = """  packager status /srv/digits
  packager status /srv/digits --json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="directory given to `packager install`")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import deploy

    found = deploy.read_status(args.directory)
    rows = [f"current   {_row(found.current)}"]
    if found.previous:
        rows.append(f"previous  {_row(found.previous)}")
    rows += [f"adapter   {item['name']}:{item['version']} {item['digest']}" for item in found.adapters]
    rows.append(f"releases  {', '.join(found.releases)}")
    rows += [
        f"{entry.get('when', '')}  {entry['action']} {entry.get('release', '')}: {entry['step']}"
        for entry in found.history
    ]
    if found.unfinished:
        rows.append(f"an `{found.unfinished}` was cut off; what is current is complete, repeat it to go on")
    console.result(asdict(found), rows)
    return 0


def _row(release: Mapping[str, Any]) -> str:
    knobs = f", knobs {release['knobs'][:19]}" if release["knobs"] else ""
    return f"{release['name']}:{release['version']} ({release['target']}) {release['digest']}{knobs}"
