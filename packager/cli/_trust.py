# SPDX-License-Identifier: Apache-2.0
"""The options that name trusted signers, as a verifier."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from packager import api
from packager.cli import options
from packager.errors import UsageError

if TYPE_CHECKING:
    from packager.api import Bundle, Verifier


def verifier_of(args: argparse.Namespace) -> Verifier:
    """Return the verifier that the options name. Raises UsageError, or the fault of a trust file."""
    if args.trust is None:
        return _from_options(args)
    if args.key or args.ca or args.identity:
        raise UsageError("--trust stands for itself", hint="add keys and identities with `packager trust add`")
    return api.Verifier.from_trust_file(args.trust, api.utc_now(), state_file(args))


def verifier_for_admission(args: argparse.Namespace) -> Verifier | None:
    """Return the verifier that the options name, None if they name none. Raises UsageError."""
    if options.wants_trust(args):
        return verifier_of(args)
    if args.replace:
        raise UsageError(
            "--replace needs --trust, --key or another trusted signer",
            hint="an unverified bundle gets no name, so it cannot replace one",
        )
    return None


def explain_unverified(bundle: Bundle) -> str:
    """Return where an unverified bundle is, and how to verify it."""
    return (
        f"its name is not verified: it is `{bundle.digest}` in the local store; "
        "`packager import` that digest with --key or --trust to name it"
    )


def state_file(args: argparse.Namespace) -> Path | None:
    """Return the file that remembers accepted versions, None for `--state none`."""
    if args.state is not None:
        return None if str(args.state) == "none" else args.state
    return options.open_workspace(args).seen


def _from_options(args: argparse.Namespace) -> Verifier:
    """Make a trust of --key, of --ca with --identity, or of --identity with --issuer."""
    if bool(args.ca) + bool(args.issuer) != bool(args.identity):
        raise UsageError(
            "--identity goes with either --ca or --issuer",
            hint="--ca CA.pem --identity NAME for a certificate, --identity NAME --issuer URL for a Sigstore identity",
        )
    if ((args.tsa_ca or args.ca_intermediates) and not args.ca) or (args.trust_config and not args.issuer):
        raise UsageError("--tsa-ca and --ca-intermediates go with --ca, and --trust-config with --issuer")
    return api.Verifier.from_signers(
        api.utc_now(),
        keys=args.key,
        identity=args.identity,
        authority=args.ca,
        intermediates=args.ca_intermediates,
        timestamping=args.tsa_ca,
        issuer=args.issuer,
        root=args.trust_config,
    )
