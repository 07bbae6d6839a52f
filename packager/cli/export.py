# SPDX-License-Identifier: Apache-2.0
"""Write a bundle, with its signatures, to a directory (an OCI layout), or to a single file if the name ends in `.tar`.

What is written has the same digest as the bundle wherever it came from, and is complete or absent. Two options write
another shape, with another digest, for tools that cannot read bundles: --layers tar is for older KitOps, --image-twin
an ordinary OCI image with the files below /models, for Kubernetes image volumes and KServe modelcars. --to-sign is for
a job that signs and has no access to this store: what the build left to be signed travels along, unsigned.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

from packager.cli import options
from packager.cli._units import format_size
from packager.cli.console import Console

FOR = "everybody"
HELP = "write a bundle to a file or directory"
EXAMPLES = """  packager export digits:1.4.0 digits-1.4.0.bundle.tar
  packager export oci://registry.example.com/models/digits:1.4.0 digits.bundle.tar
  packager export digits:1.4.0 unsigned.bundle.tar --to-sign
  packager export digits:1.4.0 digits-image.tar --image-twin"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    parser.add_argument("output", type=Path, metavar="OUT", help="a directory, or a file that ends in .tar")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--layers", choices=("raw", "tar"), default="raw", help="one tar per file, for older KitOps")
    shape.add_argument(
        "--to-sign",
        action="store_true",
        help="carry provenance and facts that the build left, for a machine that signs",
    )
    shape.add_argument("--image-twin", action="store_true", help="a plain OCI image with the files below /models")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import bundles

    form: Literal["bundle", "tar", "image"] = "tar" if args.layers == "tar" else "bundle"
    form = "image" if args.image_twin else form
    with console:
        bundle = options.open_bundle(args, console)
        written = bundles.export_bundle(bundle, args.output, form, drafts=args.to_sign, on_event=console)
    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "size": bundle.size,
        "written": written,
        "output": str(args.output),
    }
    console.result(value, f"wrote {bundle.name}:{bundle.version} ({format_size(bundle.size)}) to {args.output}")
    return 0
