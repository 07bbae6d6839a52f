# SPDX-License-Identifier: Apache-2.0
"""Write the plain files of a bundle to a fresh directory; every byte is checked against the manifest on its way.

With --trust, --key or the like the signature is checked first. Without them the result is whole, but no signature
vouches
for it: `packager verify DIR --key …` can be run on the result at any time. Where DIR holds this very bundle already,
every byte of it is checked and nothing is written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import options
from packager.cli._units import format_size
from packager.cli.console import Console

FOR = "site"
HELP = "write the plain files of a bundle"
EXAMPLES = """  packager unpack digits.bundle.tar digits/ --key release.pub"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    parser.add_argument(
        "directory", metavar="DIR", type=Path, help="a directory that does not exist yet, or holds this bundle"
    )
    options.add_trust(parser, "whom to trust; without any of these no signature is checked")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import bundles
    from packager.cli._trust import verifier_of

    judge = verifier_of(args) if options.wants_trust(args) else None
    with console:
        bundle = options.open_bundle(args)
        bundles.unpack_bundle(bundle, args.directory, judge, console)
    signatures = [str(path) for path in bundles.find_model_signatures(bundle, args.directory)]
    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "directory": str(args.directory),
        "signature_checked": judge is not None,
        "model_signing": signatures,
    }
    checked = "signature checked" if judge else "signature not demanded"
    rows = [f"unpacked {bundle.name}:{bundle.version} to {args.directory} ({format_size(bundle.size)}, {checked})"]
    for path in signatures:
        rows.append(f"also: model_signing verify key --public_key PUB --signature {path} {args.directory}")
    console.result(value, rows)
    return 0
