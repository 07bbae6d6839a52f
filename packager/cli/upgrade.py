# SPDX-License-Identifier: Apache-2.0
"""Verify a newer bundle, install it beside the current release, try it on its reference vectors, then switch.

The canary is the new release's own server on a loopback port. If it does not start, refuses a vector or answers other
than the contract says, nothing changes and the exit code is 1. Knobs of the current release are kept; --values and
--set go over them. A running `packager serve` changes over by itself; `packager rollback` switches back.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import _knobs, options
from packager.cli.console import Console

FOR = "site"
HELP = "switch an installation to a newer bundle, after a trial"
EXAMPLES = """  packager upgrade /srv/digits digits-1.5.0.bundle.tar --trust acme.trust
  packager upgrade /srv/digits digits:1.5.0 --key release.pub --set batch.max=32
  packager upgrade /srv/digits digits:1.3.9 --key release.pub --allow-downgrade"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="directory given to `packager install`")
    options.add_bundle(parser)
    options.add_trust(parser)
    _knobs.arguments(parser)
    parser.add_argument("--allow-downgrade", action="store_true", help="to an older version, too")
    parser.add_argument(
        "--wheelhouse", type=Path, metavar="DIR", help="take wheels from here, not from the bundle or a network"
    )


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import deploy
    from packager.cli._trust import verifier_of

    judge = verifier_of(args)
    release = deploy.Installation.open(args.directory.absolute()).release
    with console:
        bundle = options.open_bundle(args, console)
        done = deploy.upgrade_bundle(
            bundle,
            args.directory,
            judge,
            options.open_workspace(args, console),
            knobs=_knobs.read_sources(args),
            wheelhouse=args.wheelhouse,
            allow_downgrade=args.allow_downgrade,
        )
    value = {
        "name": done.name,
        "version": done.version,
        "digest": done.digest,
        "knobs": done.knobs,
        "release": str(done.directory),
        "before": release.name,
    }
    text = f"current is {done.directory.name}, it was {release.name}; a running `packager serve` follows"
    console.result(value, text)
    return 0
