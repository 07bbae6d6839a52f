# SPDX-License-Identifier: Apache-2.0
"""Who signs: the options that `sign` and `attest` share, and the one URI they come down to."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from packager import api
from packager.cli import options
from packager.errors import UsageError

if TYPE_CHECKING:
    from packager.api import Bundle, Signer
    from packager.api.releases import ReleaseFile
    from packager.cli.console import Console

_MAX_TOKEN = 64 << 10  # bytes


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say who signs."""
    group = parser.add_argument_group("who signs")
    group.add_argument("--key", metavar="KEY", help="private key: a PEM file, or key+pkcs11:… for one in a token")
    group.add_argument("--certificate", type=Path, metavar="PEM", help="sign with this certificate and its --key")
    group.add_argument("--chain", type=Path, metavar="PEM", help="certificates between it and the root")
    group.add_argument("--tsa", metavar="URL", help="with --certificate: time stamping authority (RFC 3161)")
    group.add_argument("--keyless", action="store_true", help="sign as an identity, through Sigstore")
    group.add_argument("--trust-config", type=Path, metavar="FILE", help="with --keyless: a private Sigstore instance")
    group.add_argument(
        "--identity-token",
        type=Path,
        metavar="FILE",
        help="with --keyless: file with the OIDC token, `-` for stdin (else $PACKAGER_IDENTITY_TOKEN, "
        "else the CI system's)",
    )
    group.add_argument("--signer", metavar="URI", help="any signer, for example key:release.pem")
    options.add_secrets(parser)


def choose_uri(args: argparse.Namespace) -> str:
    """Return the one signer that the options name. Raises UsageError unless it is exactly one."""
    ways = {
        "--signer": args.signer is not None,
        "--keyless": args.keyless,
        "--certificate": args.certificate is not None,
        "--key": args.key is not None and args.certificate is None,
    }
    chosen = [name for name, used in ways.items() if used]
    if len(chosen) != 1:
        raise UsageError(
            f"expected one signer, got {', '.join(chosen) or 'none'}",
            hint="give --key, --certificate, --keyless or --signer",
        )
    if args.signer:
        return str(args.signer)
    if args.keyless:
        return f"keyless:{args.trust_config or ''}"
    if args.certificate:
        if args.key is None:
            raise UsageError("--certificate signs with its --key", hint="give the private key as well")
        parts = {"key": args.key, "chain": args.chain, "tsa": args.tsa}
        return f"certificate:{args.certificate}?{urlencode({k: v for k, v in parts.items() if v is not None})}"
    return str(args.key) if str(args.key).startswith("key+") else f"key:{args.key}"


def open_own(args: argparse.Namespace, console: Console) -> Bundle:
    """Open the bundle to sign and say its digest: who signs a name signs the bytes it means at this moment.

    Raises UsageError for a name of the local store whose bundle this store neither built nor verified.
    """
    from packager.api import signing

    return signing.open_bundle_to_sign(args.bundle, options.open_workspace(args, console))


def open_signer(uri: str, args: argparse.Namespace) -> Signer:
    """Open the signer that a URI names."""
    scheme, _, location = uri.partition(":")
    secret = (lambda: _token(args)) if scheme == "keyless" else options.secret_reader(args, location.partition("?")[0])
    return api.open_signer(uri, secret)


def _token(args: argparse.Namespace) -> bytes | None:
    """Return the identity token from the file or the environment, or None; it is never an argument."""
    path = getattr(args, "identity_token", None)
    if path is not None:
        if str(path) == "-":
            return sys.stdin.buffer.read(_MAX_TOKEN)
        try:
            with path.open("rb") as file:
                return bytes(file.read(_MAX_TOKEN))
        except OSError as error:
            raise UsageError(f"cannot read token file `{path}`: {error.strerror}") from None
    return identity_token()


def identity_token() -> bytes | None:
    """Return the identity token of the environment, or None."""
    text = os.environ.get("PACKAGER_IDENTITY_TOKEN")
    return text.encode() if text else None


def secrets_of(args: argparse.Namespace, file: ReleaseFile) -> dict[str, bytes]:
    """Return the passphrase, PIN or identity token of every signer that needs one and for which there is one."""
    from packager.api import releases

    found = {
        uri: identity_token() if whose == "keyless" else options.secret_reader(args, whose)()
        for uri, whose in releases.list_secrets(file)
    }
    return {uri: value for uri, value in found.items() if value is not None}
