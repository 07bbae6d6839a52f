# SPDX-License-Identifier: Apache-2.0
"""Build a bundle again from its own signed provenance, and compare byte for byte.

The bundle is verified first: the recipe and the lock come from a statement of a trusted signer. The source is
fetched by its pin, or from --source; it must be the locked one. Everything else starts from nothing: an empty store, a
directory that is removed afterwards. Exit code 0: identical, to the digest. 1: it differs, and every file is named
with how.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import options
from packager.cli.console import Console

if TYPE_CHECKING:
    from packager.api.signing import Comparison

FOR = "release"
HELP = "build a bundle again from its provenance and compare"
EXAMPLES = """  packager rebuild digits.bundle.tar --key release.pub
  packager rebuild oci://registry.example.org/models/digits:1.4.0 --trust acme.trust
  packager rebuild encoder.bundle.tar --trust acme.trust --source /models/encoder
  packager rebuild digits.bundle.tar --key release.pub -o again.bundle.tar --json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    options.add_trust(parser)
    parser.add_argument("--source", metavar="SOURCE", help="where the source is now, in any form that a recipe takes")
    parser.add_argument(
        "--files",
        type=Path,
        metavar="DIR",
        help="directory of the recipe: calibration data, timing caches (default: here)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="keep what was rebuilt, to look at")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import signing
    from packager.cli._trust import verifier_of

    judge = verifier_of(args)
    with console:
        bundle = options.open_bundle(args, console)
        here = options.open_workspace(args, console)
        found = signing.rebuild_bundle(bundle, judge, here, source=args.source, files=args.files, output=args.output)
    return _report(found, args, console)


def _report(found: Comparison, args: argparse.Namespace, console: Console) -> int:
    bundle = found.published
    value = {
        "identical": found.identical,
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "rebuilt": found.rebuilt.digest,
        "builder": found.builder,
        "differences": [item.to_json() for item in found.differences],
        "output": str(args.output) if args.output else None,
    }
    rows = [row for item in found.differences for row in (item.path, *(f"    {word}" for word in item.words))]
    if found.identical:
        rows = [f"identical: {bundle.name}:{bundle.version} {bundle.digest}, {len(bundle.tree.files)} files"]
    else:
        rows.append(f"differs: {len(found.differences)} files; expected {bundle.digest}, got {found.rebuilt.digest}")
    console.result(value, rows + ([f"wrote {args.output}"] if args.output else []))
    return 0 if found.identical else 1
