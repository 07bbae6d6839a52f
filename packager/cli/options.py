# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs share, and the workspace that they describe."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from packager.api import Bundle, Project, Workspace
    from packager.api.signing import PublicKey
    from packager.events import OnEvent

OUTPUT = "write the bundle there, a directory or .tar file; a BUNDLE that is itself a file stays as it is"


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add what every verb understands."""
    group = parser.add_argument_group("common options")
    group.add_argument("--json", action="store_true", help="print exactly one JSON document on stdout")
    group.add_argument("--quiet", action="store_true", help="print no progress, only the result and errors")
    group.add_argument("--store", type=Path, metavar="DIR", help="local store (default: $PACKAGER_STORE)")
    group.add_argument(
        "--jobs",
        type=_positive,
        default=parser.get_default("jobs") or 1,
        metavar="N",
        help="steps or transfers to run at the same time",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text}")
    return number


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add the BUNDLE argument."""
    a_bundle(
        parser.add_argument(
            "bundle",
            metavar="BUNDLE",
            help="directory, installation, .bundle.tar, oci://host/name:tag, s3://bucket/name:version "
            "(or another place that fsspec reaches), or name:version in the store",
        )
    )
    add_registry(parser)


def a_bundle(action: argparse.Action) -> None:
    """Let a shell complete an argument that names a bundle."""
    from packager.cli import _completers

    _completers.complete_with(action, _completers.list_bundles)


def release_file(parser: argparse.ArgumentParser) -> None:
    """Add the release file as an argument."""
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        type=Path,
        default=Path("release.yaml"),
        help="the release file (default: release.yaml)",
    )


def add_registry(parser: argparse.ArgumentParser) -> None:
    """Add how registries are reached; credentials come from Docker's and Podman's files, never from arguments."""
    group = parser.add_argument_group("registry options, for oci://…")
    group.add_argument("--registry-ca", type=Path, metavar="PEM", help="also trust this certificate authority")
    group.add_argument("--plain-http", action="store_true", help="allow a registry without TLS on another machine")


def open_workspace(args: argparse.Namespace, on_event: OnEvent | None = None) -> Workspace:
    """Return the workspace that the options and the environment describe."""
    from packager import api
    from packager.events import ignore

    made = api.Workspace.default(args.store, jobs=args.jobs, on_event=on_event or ignore)
    return replace(made, registry_ca=getattr(args, "registry_ca", None), plain_http=getattr(args, "plain_http", False))


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the RECIPE argument."""
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        nargs="?",
        type=Path,
        default=Path("bundle.yaml"),
        help="the recipe, or the directory that holds `bundle.yaml` (default: here)",
    )
    add_registry(parser)


def add_trust(parser: argparse.ArgumentParser, purpose: str = "whom to trust") -> None:
    """Add the options that say whom to trust; `_trust.Judge.of` reads them."""
    group = parser.add_argument_group(purpose)
    group.add_argument("--trust", type=Path, metavar="FILE", help="signed trust file, see `packager trust`")
    group.add_argument(
        "--key",
        type=Path,
        action="append",
        default=[],
        metavar="PUB",
        help="public key that must have signed; give it again for another one",
    )
    group.add_argument("--ca", type=Path, metavar="PEM", help="authority that issued the signing certificate")
    group.add_argument(
        "--ca-intermediates", type=Path, metavar="PEM", help="with --ca: certificates between, if none are attached"
    )
    group.add_argument(
        "--identity", metavar="NAME", help="exact e-mail address, URI or DNS name in the signing certificate"
    )
    group.add_argument("--tsa-ca", type=Path, metavar="PEM", help="with --ca: require a time stamp of this authority")
    group.add_argument("--issuer", metavar="URL", help="with --identity: who vouches for it at a Sigstore instance")
    group.add_argument(
        "--trust-config",
        type=Path,
        metavar="FILE",
        help="with --issuer: the pinned root of a private Sigstore instance",
    )
    group.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="with --trust: where the newest versions seen are kept (default: $PACKAGER_STATE; "
        "`none` to remember nothing)",
    )


def add_admission(parser: argparse.ArgumentParser) -> None:
    """Add what decides whether a bundle from elsewhere gets its name in the local store."""
    add_trust(parser, "whom to trust; without any of these the bundle lies in quarantine, under its digest")
    parser.add_argument(
        "--replace", action="store_true", help="with one of these: another bundle of that name and version gives way"
    )


def wants_trust(args: argparse.Namespace) -> bool:
    """Return whether the options name a trusted signer."""
    return bool(args.trust or args.key or args.ca or args.identity)


def add_secrets(parser: argparse.ArgumentParser, *, asks: bool = True) -> None:
    """Add where a passphrase comes from; it is never an argument, because arguments are public."""
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="file whose first line unlocks the key (else $PACKAGER_PASSPHRASE"
        f"{', else a prompt at the terminal' if asks else ''})",
    )


def read_passphrase(args: argparse.Namespace) -> bytes | None:
    """Return the passphrase from the file or the environment, or None."""
    if args.passphrase_file is not None:
        from packager.errors import UsageError

        try:
            return bytes(args.passphrase_file.read_bytes().split(b"\n", 1)[0])
        except OSError as error:
            raise UsageError(f"cannot read passphrase file `{args.passphrase_file}`: {error.strerror}") from None
    text = os.environ.get("PACKAGER_PASSPHRASE")
    return text.encode() if text else None


def secret_reader(args: argparse.Namespace, whose: str) -> Callable[[], bytes | None]:
    """Return what gives the passphrase or PIN of a key: the file, the environment, or the person at a terminal.

    The prompt appears once for each key, however often a command needs it.
    """
    known: dict[str, bytes | None] = vars(args).setdefault("secrets_read", {})

    def ask() -> bytes | None:
        if whose not in known:
            known[whose] = find()
        return known[whose]

    def find() -> bytes | None:
        given = read_passphrase(args)
        if given is not None or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return given
        import getpass

        try:
            return getpass.getpass(f"passphrase of `{whose}`: ", sys.stderr).encode()
        except EOFError:
            return None

    return ask


def open_project(args: argparse.Namespace, on_event: OnEvent) -> Project:
    """Parse the RECIPE argument and open the store."""
    from packager import api
    from packager.cli import _fixes

    return api.open_project(_fixes.recipe_of(args), open_workspace(args, on_event))


def open_bundle(args: argparse.Namespace, on_event: OnEvent | None = None) -> Bundle:
    """Open the BUNDLE argument."""
    return open_reference(args.bundle, args, on_event)


def open_reference(text: str, args: argparse.Namespace, on_event: OnEvent | None = None) -> Bundle:
    """Open any bundle; the store and the network are only touched if they are the place."""
    from packager import api

    return api.open_bundle(text, open_workspace(args, on_event))


def trusted_keys(args: argparse.Namespace) -> list[PublicKey]:
    """Load every --key."""
    from packager.api import signing

    return [signing.load_public_key(path) for path in args.key]
