# SPDX-License-Identifier: Apache-2.0
"""Copy a bundle, with its signatures, from an OCI registry or a bucket into the local store.

Blobs the store has are not fetched again, and a download that broke, or was killed, goes on where it was. Every blob
is hashed before it counts. With --trust, --key or the like a bundle that nobody
trusted signed is not let in. With -o the bundle is also written to a directory, or a file if the name ends in `.tar`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import options
from packager.cli.console import Console, size

HELP = "copy a bundle from a registry or bucket into the store"
EXAMPLES = """  packager pull oci://registry.example.com/models/digits:1.4.0
  packager pull oci://registry.example.com/models/digits@sha256:… -o digits.bundle.tar
  packager pull s3://models/team/digits:1.4.0"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FROM",
                        help="oci://host[:port]/name:tag or …@sha256:…, s3://bucket/name:version, …")  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="also write a directory or a .tar file")
    options.registry(parser)
    options.trust(parser, "whom to trust; without any of these no signature is asked for")
    parser.set_defaults(jobs=4)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import destination, transport
    from packager.bundle import open_bundle, read
    from packager.cli._trust import Judge

    judge = Judge.of(args) if options.wants_trust(args) else None
    with console:
        bundle = read(options.remote(args.source, args, console))
        if judge:
            judge.require(bundle)
        store = options.open_store(args)
        fetched = transport.copy(bundle, destination.local(store), console, jobs=args.jobs, label="pulling")
        kept = open_bundle(f"{bundle.name}:{bundle.version}", lambda: store)
        if args.output:
            transport.save(kept, args.output, console)
    value = {"name": bundle.name, "version": bundle.version, "digest": bundle.digest, "fetched": fetched,
             "size": bundle.size, "output": str(args.output) if args.output else None}  # fmt: skip
    text = (
        f"pulled {bundle.name}:{bundle.version} {bundle.digest} ({size(fetched)} of {size(bundle.size)} were missing)"
    )
    console.result(value, text + (f"\nwrote {args.output}" if args.output else ""))
    return 0
