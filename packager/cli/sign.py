# SPDX-License-Identifier: Apache-2.0
"""Sign a bundle where it lies: in the store, a directory, or a single file.

Two statements are attached: one about the bundle's digest, name and files, and an OpenSSF Model Signing statement
that `model_signing verify` accepts. The bundle itself, and so its digest, does not change.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import options
from packager.cli.render import Console
from packager.signers import Signer

HELP = "sign a bundle"
EXAMPLES = """  packager sign digits:1.4.0 --key release.pem
  packager sign dist/digits.bundle.tar --key release.pem --passphrase-file secret.txt
  packager sign digits:1.4.0 --signer key:release.pem -o dist/digits.bundle.tar"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.bundle(parser)
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--key", type=Path, metavar="PEM", help="private key file")
    who.add_argument("--signer", metavar="URI", help="any signer, for example key:release.pem")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="also write a directory or a .tar file")
    options.secrets(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import transport
    from packager.sign import sign

    signer = open_signer(args.signer or f"key:{args.key}", args)
    with console:
        bundle = sign(options.open_bundle(args), signer)
        transport.update_referrers(bundle, console)
        if args.output:
            transport.save(bundle, args.output, console)
    value = {"name": bundle.name, "version": bundle.version, "digest": bundle.digest,
             "statements": len(bundle.referrers), "output": str(args.output) if args.output else None}  # fmt: skip
    text = f"signed {bundle.name}:{bundle.version} {bundle.digest}"
    console.result(value, text + (f"\nwrote {args.output}" if args.output else ""))
    return 0


def open_signer(uri: str, args: argparse.Namespace) -> Signer:
    """Open the signer that a URI names."""
    from packager import plugins
    from packager.errors import UsageError

    scheme, colon, location = uri.partition(":")
    if not colon or not location:
        raise UsageError(f"signer `{uri}` is not a URI", hint="write for example `key:release.pem`")
    signer: Signer = plugins.load("signers", scheme).open_signer(location, lambda: options.passphrase(args))
    return signer
