# SPDX-License-Identifier: Apache-2.0
"""What a policy of admission is written from, and what the writers of all of them need."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from packager.canonical import JSON
from packager.errors import UsageError
from packager.trust.keys import PrivateKey, PublicKey
from packager.trust.model import KeylessSigner, Signer, Trust

EVERYTHING = "all"


@dataclass(frozen=True, slots=True)
class Request:
    """A policy to write: its name, the signers that are valid, and the prefixes of images that it judges.

    `mirror` is the URL where a TUF repository will be served; `open_key` opens the key that signs it, None if no key
    is named.
    """

    name: str
    signers: Sequence[Signer]
    trust: Trust
    scopes: Sequence[str]
    namespace: str = ""
    variant: str = ""
    mirror: str = ""
    open_key: Callable[[], PrivateKey] | None = None


def refuse(kind: str, signer: Signer, why: str, hint: str) -> UsageError:
    """Return the error about a signer that a tool cannot judge by."""
    return UsageError(f"--admission {kind}: signer `{signer.name}` {why}", hint=hint)


def is_p384(key: PublicKey) -> bool:
    """Return whether a key is larger than P-256, which decides its hash algorithm."""
    return key.key.curve.key_size > 256


def encode(data: bytes) -> str:
    """Return base64."""
    return base64.b64encode(data).decode()


def describe_identity(signer: KeylessSigner) -> JSON:
    """Return an identity in the words that Kyverno and policy-controller share."""
    return {"issuer": signer.issuer, "subject": signer.identity}


def encode_pem(text: str, label: str) -> str:
    """Return base64 of DER, as a Sigstore trusted root has it, as PEM. Raises ValueError for anything else."""
    data = encode(base64.b64decode(text, validate=True))
    lines = "\n".join(data[start : start + 64] for start in range(0, len(data), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"
