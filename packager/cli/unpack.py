# SPDX-License-Identifier: Apache-2.0
"""Write the plain files of a bundle to a fresh directory; every byte is checked against the manifest on its way.

With --key the signature is checked first. Without it the result is whole, but nobody vouches for it: `packager
verify DIR --key …` can be run on the result at any time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import options
from packager.cli.render import Console, size

HELP = "write the plain files of a bundle"
EXAMPLES = """  packager unpack digits.bundle.tar digits/ --key release.pub"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.bundle(parser)
    parser.add_argument("directory", metavar="DIR", type=Path, help="a directory that does not exist yet")
    parser.add_argument("--key", type=Path, action="append", default=[], metavar="PUB", help="require this signature")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import transport
    from packager.verify import require_signature

    with console:
        bundle = options.open_bundle(args)
        if args.key:
            require_signature(bundle, options.trusted_keys(args))
        bundle.medium.check_extent(bundle.tree, bundle.records)
        transport.unpack(bundle, args.directory, console)
    value = {"name": bundle.name, "version": bundle.version, "digest": bundle.digest, "directory": str(args.directory),
             "signatureChecked": bool(args.key)}  # fmt: skip
    checked = "signature checked" if args.key else "signature not asked for"
    console.result(
        value, f"unpacked {bundle.name}:{bundle.version} to {args.directory} ({size(bundle.size)}, {checked})"
    )
    return 0
