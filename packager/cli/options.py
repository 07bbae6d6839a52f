# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs share, and what they mean; the only reader of the environment besides `cli/`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packager.bundle import Bundle
    from packager.keys import PublicKey
    from packager.store import Store


def common(parser: argparse.ArgumentParser) -> None:
    """Add what every verb understands."""
    group = parser.add_argument_group("common options")
    group.add_argument("--json", action="store_true", help="print exactly one JSON document on stdout")
    group.add_argument("--quiet", action="store_true", help="print no progress, only the result and errors")
    group.add_argument("--store", type=Path, metavar="DIR", help="local store (default: $PACKAGER_STORE)")
    group.add_argument("--jobs", type=_positive, default=1, metavar="N", help="steps to run at the same time")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text}")
    return number


def bundle(parser: argparse.ArgumentParser) -> None:
    """Add the BUNDLE argument."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a directory, a .bundle.tar, or name:version in the store")


def recipe(parser: argparse.ArgumentParser) -> None:
    """Add the RECIPE argument."""
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", type=Path, default=Path("bundle.yaml"),
                        help="the recipe, or the directory that holds `bundle.yaml` (default: here)")  # fmt: skip


def trust(parser: argparse.ArgumentParser) -> None:
    """Add the options that say whom to trust."""
    parser.add_argument("--key", type=Path, action="append", default=[], metavar="PUB", required=True,
                        help="public key that must have signed; give it again for another one")  # fmt: skip


def secrets(parser: argparse.ArgumentParser) -> None:
    """Add where a passphrase comes from; it is never an argument, because arguments are public."""
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE",
                        help="file whose first line unlocks the key (else $PACKAGER_PASSPHRASE)")  # fmt: skip


def passphrase(args: argparse.Namespace) -> bytes | None:
    """Return the passphrase from the file or the environment, or None."""
    if args.passphrase_file is not None:
        from packager.errors import UsageError

        try:
            return bytes(args.passphrase_file.read_bytes().split(b"\n", 1)[0])
        except OSError as error:
            raise UsageError(f"cannot read passphrase file `{args.passphrase_file}`: {error.strerror}") from None
    text = os.environ.get("PACKAGER_PASSPHRASE")
    return text.encode() if text else None


def open_store(args: argparse.Namespace) -> Store:
    """Open the local store: --store, $PACKAGER_STORE, or the user's data directory."""
    from packager.store import Store

    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    store = Store(args.store or Path(os.environ.get("PACKAGER_STORE") or data / "packager"))
    store.sweep()
    return store


def open_bundle(args: argparse.Namespace) -> Bundle:
    """Open the BUNDLE argument; the store is only touched if it is the place."""
    from packager.bundle import open_bundle as opened

    return opened(args.bundle, lambda: open_store(args))


def trusted_keys(args: argparse.Namespace) -> list[PublicKey]:
    """Load every --key."""
    from packager.keys import load_public

    return [load_public(path) for path in args.key]
