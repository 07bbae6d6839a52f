# SPDX-License-Identifier: Apache-2.0
"""The options that name trusted signers, as a verifier."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import options
from packager.errors import UsageError
from packager.trust import model
from packager.trust.model import CertificateSigner, KeylessSigner, KeySigner, Signer, Trust
from packager.trust.verifier import Verifier, read_bounded

if TYPE_CHECKING:
    from cryptography import x509

    from packager.bundle.bundle import Bundle

_INSTANCE = "instance"


def verifier_of(args: argparse.Namespace) -> Verifier:
    """Return the verifier that the options name. Raises UsageError, or the fault of a trust file."""
    now = datetime.now(UTC)
    if args.trust is None:
        return Verifier(_from_options(args), now)
    if args.key or args.ca or args.identity:
        raise UsageError("--trust stands for itself", hint="add keys and identities with `packager trust add`")
    return Verifier.from_trust_file(args.trust, now, state_file(args))


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


def unvouched(bundle: Bundle) -> str:
    """Return where an unverified bundle is, and how to verify it."""
    return (
        f"its name is not verified: it is `{bundle.digest}` in the local store; "
        "`packager import` that digest with --key or --trust to name it"
    )


def state_file(args: argparse.Namespace) -> Path | None:
    """Return the file that remembers accepted versions, None for `--state none`."""
    if args.state is not None:
        return None if str(args.state) == "none" else args.state
    return options.workspace(args).seen


def _from_options(args: argparse.Namespace) -> Trust:
    """Make a trust of --key, of --ca with --identity, or of --identity with --issuer."""
    signers: list[Signer] = [KeySigner(key.fingerprint, key) for key in options.trusted_keys(args)]
    if bool(args.ca) + bool(args.issuer) != bool(args.identity):
        raise UsageError(
            "--identity goes with either --ca or --issuer",
            hint="--ca CA.pem --identity NAME for a certificate, --identity NAME --issuer URL for a Sigstore identity",
        )
    if (args.tsa_ca and not args.ca) or (args.trust_config and not args.issuer):
        raise UsageError("--tsa-ca goes with --ca, and --trust-config with --issuer")
    instances = {}
    if args.ca:
        signers.append(CertificateSigner("certificate", _authorities(args.ca), args.identity))
    elif args.issuer:
        if args.trust_config:
            instances[_INSTANCE] = trusted_root(args.trust_config)
        signers.append(KeylessSigner("identity", args.identity, args.issuer, _INSTANCE if instances else None))
    if not signers:
        raise UsageError(
            "no trusted key or identity given",
            hint="use --trust FILE, --key PUB, --ca with --identity, or --issuer with --identity",
        )
    stamping = _authorities(args.tsa_ca) if args.tsa_ca else ()
    return Trust(tuple(signers), timestamping=stamping, instances=instances)


def _authorities(path: Path) -> tuple[x509.Certificate, ...]:
    from packager.trust import certificates  # X.509 takes as long to import as everything else here

    return tuple(certificates.load(path))


def trusted_root(path: Path) -> bytes:
    """Read a trusted root: such a file itself, or a client trust configuration that contains one."""
    from packager import canonical

    try:
        value = canonical.load(read_bounded(path, model.MAX_TRUST), limit=model.MAX_TRUST)
        return canonical.dump(value.get("trustedRoot", value))
    except (ValueError, AttributeError) as error:
        raise UsageError(
            f"`{path}` holds no trusted root: {error}",
            hint="expected `trusted_root.json` or `trust_config.json` of a Sigstore instance",
        ) from None
