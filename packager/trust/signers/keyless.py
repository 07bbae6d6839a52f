# SPDX-License-Identifier: Apache-2.0
"""Sign as an identity, through a Sigstore instance, without a key to keep: `keyless:` or `keyless:TRUST_CONFIG`.

The location is the trust configuration of a private instance; empty, it is the public one. The identity token is the
secret; without one the ambient identity of a CI system (GitHub Actions, GitLab, …) is used. There is no prompt.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager.errors import MissingToolError, SourceError, UsageError
from packager.formats import dsse
from packager.formats.dsse import SignedStatement
from packager.trust.signers import Secret, Signer
from packager.trust.signers._sigstore import client_errors

MAX_CONFIG = 4 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """One short-lived certificate; it signs as many statements as needed within its minutes."""

    signer: Any
    statement: Any
    failures: tuple[type[Exception], ...]
    root: Any
    token: Any

    def sign(self, payload: bytes) -> SignedStatement:
        """Sign an in-toto payload, log it, and get a timestamp."""
        try:
            bundle = self.signer.sign_dsse(self.statement(payload))
        except self.failures as error:
            raise SourceError(f"the Sigstore instance did not sign: {_line(error)}") from error
        return dsse.parse(bundle.to_json().encode())

    def repeats(self, old: SignedStatement, new: SignedStatement) -> bool:
        """Return whether `old` is a signature of this identity that the instance proves."""
        if not isinstance(old.material, dsse.Logged):
            return False
        verify = _module("verify")
        identity = _module("verify.policy").Identity(identity=self.token.identity, issuer=self.token.federated_issuer)
        try:
            bundle = _module("models").Bundle.from_json(old.material.document)
            kind, payload = verify.Verifier(trusted_root=self.root).verify_dsse(bundle, identity)
        except (_module("errors").Error, ValueError):
            return False
        return bool(kind == dsse.IN_TOTO and payload == new.payload)


def open_signer(location: str, secret: Secret) -> Signer:
    """Get a certificate for the identity of the token, or of this CI job."""
    models, sign, oidc, envelope = (_module(name) for name in ("models", "sign", "oidc", "dsse"))
    requests = importlib.import_module("requests")
    failures = (_module("errors").Error, requests.RequestException, *client_errors(), ValueError)
    try:
        config = _config(models, location)
        token = oidc.IdentityToken(_token(oidc, secret))
        context = sign.SigningContext.from_trust_config(config)
        return Identity(sign.Signer(token, context), envelope.Statement, failures, config.trusted_root, token)
    except (oidc.IdentityError, oidc.ExpiredIdentity) as error:
        raise UsageError(f"the identity token is not acceptable: {_line(error)}", hint=_HINT) from error
    except failures as error:
        raise SourceError(f"the Sigstore instance gave no certificate: {_line(error)}") from error


_HINT = "give a fresh OIDC token for the audience `sigstore` with --identity-token FILE, or run where CI provides one"


def _config(models: Any, location: str) -> Any:
    if not location:
        return models.ClientTrustConfig.production()
    try:
        with Path(location).open("rb") as file:
            return models.ClientTrustConfig.from_json(file.read(MAX_CONFIG).decode())
    except (OSError, ValueError) as error:
        raise UsageError(f"`{location}` is no trust configuration: {_line(error)}") from error


def _token(oidc: Any, secret: Secret) -> str:
    given = secret()
    if given is not None:
        return given.decode("ascii", "replace").strip()
    found: str | None = oidc.detect_credential()
    if found is None:
        raise UsageError("there is no identity to sign as", hint=_HINT)
    return found


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"sigstore.{name}")
    except ImportError as error:
        raise MissingToolError("sigstore", "keyless") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
