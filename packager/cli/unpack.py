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
from typing import TYPE_CHECKING

from packager.cli import options
from packager.cli.console import Console, size

if TYPE_CHECKING:
    from packager.bundle.bundle import Bundle

FOR = "site"
HELP = "write the plain files of a bundle"
EXAMPLES = """  packager unpack digits.bundle.tar digits/ --key release.pub"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.bundle(parser)
    parser.add_argument(
        "directory", metavar="DIR", type=Path, help="a directory that does not exist yet, or holds this bundle"
    )
    options.trust(parser, "whom to trust; without any of these no signature is checked")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.cli._trust import verifier_of
    from packager.transport import copy

    judge = verifier_of(args) if options.wants_trust(args) else None
    with console:
        bundle = options.open_bundle(args)
        if judge:
            judge.require(bundle, console)
        bundle.medium.check_extent(bundle.tree, bundle.records)
        if not _is_there(bundle, args.directory, console):
            copy.unpack(bundle, args.directory, console)
    signatures = _model_signatures(bundle, args.directory)
    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "directory": str(args.directory),
        "signature_checked": judge is not None,
        "model_signing": signatures,
    }
    checked = "signature checked" if judge else "signature not asked for"
    rows = [f"unpacked {bundle.name}:{bundle.version} to {args.directory} ({size(bundle.size)}, {checked})"]
    for path in signatures:
        rows.append(f"also: model_signing verify key --public_key PUB --signature {path} {args.directory}")
    console.result(value, rows)
    return 0


def _is_there(bundle: Bundle, directory: Path, console: Console) -> bool:
    """Say whether `directory` holds this very bundle, every byte of it: an init container may run twice.

    Raises IntegrityError if it does and is damaged.
    """
    from packager.bundle.bundle import read
    from packager.bundle.readers import UnpackedTree
    from packager.formats.intoto import METADATA_DIRECTORY
    from packager.trust.verify import check_files

    if not (directory / METADATA_DIRECTORY).is_dir():
        return False
    found = read(UnpackedTree(directory))
    if found.digest != bundle.digest:
        return False
    check_files(found, console)
    return True


def _model_signatures(bundle: Bundle, directory: Path) -> list[str]:
    """Return where the OpenSSF Model Signing statements lie, for those who verify with their own tool."""
    from packager.bundle.readers import blob_path
    from packager.formats.intoto import METADATA_DIRECTORY, MODEL_SIGNING_PREDICATE
    from packager.trust.verify import list_statements

    found = [digest for digest, _, kind in list_statements(bundle) if kind == MODEL_SIGNING_PREDICATE]
    return [str(directory / METADATA_DIRECTORY / blob_path(digest)) for digest in found]
