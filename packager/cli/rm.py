# SPDX-License-Identifier: Apache-2.0
"""Remove bundles: by name from the local store, by digest from its quarantine, by tag or digest from a registry.

The local store keeps the bytes until `packager cache gc`, a registry until it collects them; other names of the same
bundle stay. Where a registry deletes by digest only, every tag of the digest goes, which takes --force if there is
more than one. With the last tag its signatures go too. An installation is not touched: see `packager uninstall`.
"""

from __future__ import annotations

import argparse

from packager.cli import options
from packager.cli.console import Console

FOR = "everybody"
HELP = "remove bundles from the local store, or tags from a registry"
EXAMPLES = """  packager rm digits:1.3.0 digits:1.3.1
  packager rm oci://registry.example.com/models/digits:1.3.0
  packager rm oci://registry.example.com/models/digits@sha256:… --force"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundles",
        metavar="BUNDLE",
        nargs="+",
        help="name:version, sha256:… in quarantine, oci://host/name:tag or …@sha256:…",
    )
    parser.add_argument("--force", action="store_true", help="remove the other tags of a digest as well")
    options.add_registry(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import bundles

    rows = []
    for text in args.bundles:
        gone = bundles.remove_bundle(text, options.open_workspace(args), force=args.force)
        rows.append({"bundle": text, "digest": gone.digest, "left": list(gone.left)})
        if not console.json:
            left = f"; the registry keeps {len(gone.left)} manifests that referred to it" if gone.left else ""
            console.rows([f"removed {text} {gone.digest}{left}"])
    if console.json:
        console.result({"removed": rows}, "")
    return 0
