# SPDX-License-Identifier: Apache-2.0
"""Make a new bundle from a delta and the old bundle; every byte is checked, and the digest is that of the new one.

Without -o the new bundle goes into the local store: under its name if a trusted signer signed it (--key, --trust …),
else into quarantine, under its digest. Run `packager verify` on it as on any other bundle.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import options
from packager.cli._units import format_size
from packager.cli.console import Console

FOR = "site"
HELP = "make a bundle from a delta"
EXAMPLES = """  packager apply digits-1.4.1.bundle-delta.tar digits-1.4.0.bundle.tar -o digits-1.4.1.bundle.tar
  packager apply digits-1.4.1.bundle-delta.tar digits:1.4.0 --key release.pub"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("delta", metavar="DELTA", type=Path, help="what `packager delta` wrote")
    options.a_bundle(parser.add_argument("old", metavar="OLD", help="the bundle it was made against"))
    parser.add_argument("-o", "--output", type=Path, metavar="NEW", help="a directory, or a file that ends in .tar")
    options.add_registry(parser)
    options.add_admission(parser)
    parser.set_defaults(jobs=4)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import api
    from packager.api import bundles
    from packager.cli._trust import explain_unverified, verifier_for_admission

    judge = verifier_for_admission(args)
    with console:
        bundle = bundles.open_delta(args.delta, options.open_reference(args.old, args, console))
        if not args.output:
            here = options.open_workspace(args, console)
            api.import_bundle(bundle, here, judge, replace=args.replace, label="applying")
        else:
            if judge:
                judge.require(bundle, console)
            api.copy_bundle(bundle, args.output, on_event=console)
    saved = bundle.size - args.delta.stat().st_size
    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "size": bundle.size,
        "saved": saved,
        "output": str(args.output) if args.output else None,
    }
    place = args.output or "the local store"
    text = (
        f"made {bundle.name}:{bundle.version} {bundle.digest} in {place} ({format_size(max(saved, 0))} not transferred)"
    )
    console.result(value, text if judge or args.output else f"{text}\n{explain_unverified(bundle)}")
    return 0
