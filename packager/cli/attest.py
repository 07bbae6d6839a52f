# SPDX-License-Identifier: Apache-2.0
"""Sign any statement about a bundle and attach it: test results, scan reports, approvals, provenance, an SBOM.

The predicate is the JSON in FILE; the subject is the bundle's digest. Whether such a statement has to be there, and
by whom, is said in the trust file of the verifier (`require`). The bundle itself does not change.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import _signer, options
from packager.cli.console import Console

FOR = "release"
HELP = "attach a signed statement of any kind to a bundle"
EXAMPLES = """  packager attest digits:1.4.0 --key release.pem --predicate results.json \\
      --type https://in-toto.io/attestation/test-result/v0.1
  packager attest digits.bundle.tar --predicate sbom.json --type https://cyclonedx.org/bom --keyless"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    parser.add_argument("--predicate", type=Path, metavar="FILE", required=True, help="JSON file with the predicate")
    parser.add_argument("--type", metavar="URI", required=True, help="predicate type, a URI")
    _signer.arguments(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="write the bundle there, a directory or .tar file; a BUNDLE that is a file stays as it is",
    )


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import signing

    predicate = signing.read_predicate(args.predicate)
    signer = _signer.open_signer(_signer.choose_uri(args), args)
    with console:
        bundle = _signer.open_own(args, console)
        bundle = signing.attest_bundle(bundle, args.type, predicate, signer, args.output, console)
    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "predicate_type": args.type,
        "statements": bundle.statements,
        "output": str(args.output) if args.output else None,
    }
    text = f"attached {args.type} to {bundle.name}:{bundle.version} {bundle.digest}"
    console.result(value, text + (f"\nwrote {args.output}" if args.output else ""))
    return 0
