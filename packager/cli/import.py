# SPDX-License-Identifier: Apache-2.0
"""Copy a bundle, with its signatures, into the local store, where it is `name:version`.

Every byte is hashed on the way. With --trust, --key or the like a bundle that nobody trusted signed is not let in;
without them that stays the question of `packager verify`.
"""

from __future__ import annotations

import argparse

from packager.cli import options
from packager.cli.console import Console, size

HELP = "copy a bundle into the local store"
EXAMPLES = """  packager import digits-1.4.0.bundle.tar
  packager import /media/usb/digits-layout --trust acme.trust"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.bundle(parser)
    options.trust(parser, "whom to trust; without any of these no signature is asked for")
    parser.set_defaults(jobs=4)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import destination, transport
    from packager.cli._trust import Judge

    judge = Judge.of(args) if options.wants_trust(args) else None
    with console:
        bundle = options.open_bundle(args, console)
        if judge:
            judge.require(bundle)
        to = destination.local(options.open_store(args))
        stored = transport.copy(bundle, to, console, jobs=args.jobs, label="importing")
    value = {"name": bundle.name, "version": bundle.version, "digest": bundle.digest, "stored": stored,
             "size": bundle.size}  # fmt: skip
    console.result(value, f"imported {bundle.name}:{bundle.version} {bundle.digest} ({size(stored)} were new)")
    return 0
