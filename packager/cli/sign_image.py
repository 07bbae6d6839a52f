# SPDX-License-Identifier: Apache-2.0
"""Sign the container image that was built of what `packager render container` wrote, where it is: in a registry.

IMAGE is read to the end first: every file of DIR has to be in it with the bytes that were rendered, nothing else beside
them, and what starts has to be what was rendered; otherwise nothing is signed. The base image is named by the rendering
and not looked into. Two statements are attached, both about the digest of IMAGE: of which bundle and knobs it was made,
and SLSA provenance. cosign and admission controllers read them as they read those of a bundle, and `packager verify
IMAGE` follows them to the bundle and its source.

With --made-of, DIR is compared with that bundle; one in a registry is where `packager verify` then finds it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import _signer, options
from packager.cli.console import Console

FOR = "platform"
HELP = "sign the container image that was built of a rendering"
EXAMPLES = """  packager sign-image oci://registry.example.com/serving/digits:1.4.0 image/ --key release.pem \\
      --made-of oci://registry.example.com/models/digits:1.4.0
  packager sign-image oci://registry.example.com/serving/digits@sha256:… image/ --keyless
  packager sign-image oci://registry.example.com/serving/digits:1.4.0 image/ --key release.pem --also cosign-legacy"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="oci://HOST/NAME:TAG or oci://HOST/NAME@sha256:…")
    parser.add_argument("rendering", metavar="DIR", type=Path, help="what `packager render container` wrote")
    parser.add_argument("--made-of", metavar="BUNDLE", help="the bundle, to compare DIR with and to be found later")
    parser.add_argument(
        "--also", choices=("cosign-legacy",), metavar="FORM", help="add cosign's first form as well, `cosign-legacy`"
    )
    _signer.arguments(parser)
    options.add_registry(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import signing

    signer = _signer.open_signer(_signer.choose_uri(args), args)
    with console:
        made = signing.sign_image(
            args.image,
            args.rendering,
            signer,
            options.open_workspace(args, console),
            made_of=args.made_of,
            legacy=bool(args.also),
        )
    value = {"image": made.reference, "digest": made.digest, "part": made.part, "statements": made.statements}
    console.result(value, f"signed {made.reference} ({made.part})")
    return 0
