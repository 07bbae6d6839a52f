# SPDX-License-Identifier: Apache-2.0
"""Make an ECDSA key pair: NAME.pem to keep, NAME.pub to hand out.

The private key is encrypted if a passphrase is given by --passphrase-file or $PACKAGER_PASSPHRASE.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import options
from packager.cli.console import Console

FOR = "release"
HELP = "make a signing key pair"
EXAMPLES = """  packager keygen release
  PACKAGER_PASSPHRASE=… packager keygen release --curve p384"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", type=Path, metavar="NAME", help="path of the key pair, without suffix")
    parser.add_argument("--curve", choices=("p256", "p384"), default="p256", help="elliptic curve (default: p256)")
    options.add_secrets(parser, asks=False)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import signing

    secret = options.read_passphrase(args)
    pair = signing.create_key_pair(args.name, args.curve, secret)
    value = {
        "private": str(pair.private),
        "public": str(pair.public),
        "fingerprint": pair.fingerprint,
        "encrypted": secret is not None,
    }
    kept = "encrypted" if secret else "not encrypted: give a passphrase to change that"
    console.result(
        value, f"{pair.private} (mode 0600, {kept})\n{pair.public} (hand this out)\nfingerprint {pair.fingerprint}"
    )
    return 0
