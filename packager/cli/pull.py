# SPDX-License-Identifier: Apache-2.0
"""Copy a bundle, with its signatures, from an OCI registry or a bucket into the local store.

Blobs the store has are not fetched again, and a download that broke, or was killed, goes on where it was. Every blob
is hashed before it counts. With --trust, --key or the like a bundle without a trusted signature is refused. Without
them its name is not verified: it lies in quarantine, where it is called by its digest, until `packager import
sha256:… --key PUB` lets it in. What lies under another name or version than it states is refused unless FROM names its
digest. With -o the bundle is also written to a directory, or a file if the name ends in `.tar`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import options
from packager.cli._units import format_size
from packager.cli.console import Console

FOR = "site"
HELP = "copy a bundle from a registry or bucket into the store"
EXAMPLES = """  packager pull oci://registry.example.com/models/digits:1.4.0
  packager pull oci://registry.example.com/models/digits@sha256:… -o digits.bundle.tar
  packager pull s3://models/team/digits:1.4.0"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="FROM", help="oci://host[:port]/name:tag or …@sha256:…, s3://bucket/name:version, …"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="also write a directory or a .tar file")
    options.add_registry(parser)
    options.add_admission(parser)
    parser.set_defaults(jobs=4)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import api
    from packager.cli._trust import explain_unverified, verifier_for_admission
    from packager.errors import UsageError

    if "://" not in args.source:
        raise UsageError(f"`{args.source}` is no address", hint="`packager import` takes what lies on this machine")
    judge, here = verifier_for_admission(args), options.open_workspace(args, console)
    with console:
        bundle = options.open_reference(args.source, args, console)
        fetched = api.import_bundle(bundle, here, judge, replace=args.replace, label="pulling")
        kept = api.open_bundle(bundle.digest, here)
        if args.output:
            api.copy_bundle(kept, args.output, on_event=console)
    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "fetched": fetched,
        "size": bundle.size,
        "output": str(args.output) if args.output else None,
        "vouched": judge is not None,
    }
    missing = f"{format_size(fetched)} of {format_size(bundle.size)} were missing"
    text = f"pulled {bundle.name}:{bundle.version} {bundle.digest} ({missing})"
    advice = "" if judge else f"\n{explain_unverified(bundle)}"
    console.result(value, text + (f"\nwrote {args.output}" if args.output else "") + advice)
    return 0
