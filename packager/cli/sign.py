# SPDX-License-Identifier: Apache-2.0
"""Sign a bundle where it lies: in the store, a directory, or a single file.

Two statements are attached: one about the bundle's digest, name and files, and an OpenSSF Model Signing statement
that `model_signing verify` accepts. The bundle itself, and so its digest, does not change. A name of the local store is
signed only if this store built the bundle or let it in verified; any other is named by its digest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import _signer, options
from packager.cli._signer import open_signer as open_signer  # `build --sign` opens signers the same way
from packager.cli.console import Console

HELP = "sign a bundle"
EXAMPLES = """  packager sign digits:1.4.0 --key release.pem
  packager sign sha256:… --key release.pem
  packager sign dist/digits.bundle.tar --key release.pem --passphrase-file secret.txt
  packager sign digits:1.4.0 --key 'key+pkcs11:token=release;object=signing?module-path=/usr/lib/softhsm/libsofthsm2.so'
  packager sign digits:1.4.0 --certificate leaf.pem --key leaf.key --chain chain.pem --tsa https://tsa.example.com
  packager sign digits:1.4.0 --keyless --trust-config private-sigstore.json --identity-token token.jwt
  packager sign digits:1.4.0 --signer key:release.pem -o dist/digits.bundle.tar"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.bundle(parser)
    _signer.arguments(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="also write a directory or a .tar file")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import transport
    from packager.sign import sign

    signer = open_signer(_signer.uri(args), args)
    with console:
        bundle = sign(_signer.open_own(args, console), signer)
        transport.update_referrers(bundle, console)
        if args.output:
            transport.save(bundle, args.output, console)
    value = {"name": bundle.name, "version": bundle.version, "digest": bundle.digest,
             "statements": len(bundle.referrers), "output": str(args.output) if args.output else None}  # fmt: skip
    text = f"signed {bundle.name}:{bundle.version} {bundle.digest}"
    console.result(value, text + (f"\nwrote {args.output}" if args.output else ""))
    return 0
