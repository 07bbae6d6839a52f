# SPDX-License-Identifier: Apache-2.0
"""Look after the local store: `verify` hashes every blob, `size` says what takes the space, `gc` deletes what nothing
needs.

gc is safe at any time: what a running build, pull or installation relies on stays. It keeps named bundles and
remembered steps, with the environments of locked toolchains that those ran in; with --steps the steps are forgotten
and the environments go too, which costs nothing but doing it all again. Environments that installations share
files with stay as long as one of them does.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from packager.cli import options
from packager.cli._units import format_size
from packager.cli.console import Console

if TYPE_CHECKING:
    from packager.api import Workspace

FOR = "everybody"
HELP = "check, measure or clean the local store"
EXAMPLES = """  packager cache size
  packager cache verify
  packager cache gc --steps"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", metavar="ACTION", choices=("verify", "gc", "size"), help="verify, gc or size")
    parser.add_argument("--steps", action="store_true", help="gc: forget remembered steps too")
    parser.add_argument("--remove", action="store_true", help="verify: delete damaged blobs, so that they come anew")


def main(args: argparse.Namespace, console: Console) -> int:
    here = options.open_workspace(args, console)
    with console:
        if args.action == "gc":
            return _collect(here, args, console)
        return _verify(here, args, console) if args.action == "verify" else _size(here, console)


def _size(here: Workspace, console: Console) -> int:
    from packager.api import bundles

    found = bundles.measure_store(here)
    rows = [f"{format_size(count):>10}  {name.replace('_', ' ')}" for name, count in asdict(found).items()]
    console.result({**asdict(found), "total": found.total}, [*rows, f"{format_size(found.total):>10}  total"])
    return 0


def _collect(here: Workspace, args: argparse.Namespace, console: Console) -> int:
    from packager.api import bundles

    freed = bundles.collect_store(here, steps=args.steps)
    what = f"{freed.blobs} blobs, {freed.steps} remembered steps, {freed.environments} environments"
    console.result(asdict(freed), f"freed {format_size(freed.size)}: {what}")
    return 0


def _verify(here: Workspace, args: argparse.Namespace, console: Console) -> int:
    from packager.api import bundles
    from packager.errors import IntegrityError

    found = bundles.check_store(here, remove=args.remove)
    if found.damaged and not args.remove:
        raise IntegrityError(
            f"{len(found.damaged)} of {found.blobs} blobs are damaged, first `{found.damaged[0]}`",
            subject=found.damaged[0],
            hint="`packager cache verify --remove` deletes them; build or pull again",
        )
    if found.incomplete:
        raise IntegrityError(
            f"bundle `{found.incomplete[0]}` lacks blobs",
            subject=found.incomplete[0],
            hint="build, pull or import it again",
        )
    text = f"{found.blobs} blobs, {format_size(found.size)}: every one is what its name says"
    if found.damaged:
        text = f"{found.blobs} blobs, {format_size(found.size)}: {len(found.damaged)} damaged ones removed"
    console.result(asdict(found), text)
    return 0
