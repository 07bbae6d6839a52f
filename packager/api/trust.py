# SPDX-License-Identifier: Apache-2.0
"""Trust files: who may sign, what must be stated, what is revoked; signed by root keys, followed by verifiers.

For example:

    root = signing.load_private_key(Path("root.pem"), lambda: None)
    draft = trust.TrustDraft.create("acme", [root.public], api.utc_now() + timedelta(days=365))
    draft = draft.with_key("release", signing.load_public_key(Path("release.pub")))
    trust.write_trust_file(draft.sign([root]), Path("acme.trust"))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from packager.api._lazy import lazily

if TYPE_CHECKING:
    from datetime import datetime

    from packager.trust.draft import Period, TrustDraft
    from packager.trust.evidence import Evidence
    from packager.trust.file import TrustFile
    from packager.trust.keys import PrivateKey
    from packager.trust.model import Requirement, Revocations, Roots, Trust
    from packager.trust.verifier import Verifier
else:
    __getattr__ = lazily(
        __name__,
        {
            "Period": "packager.trust.draft",
            "Requirement": "packager.trust.model",
            "Revocations": "packager.trust.model",
            "Roots": "packager.trust.model",
            "Trust": "packager.trust.model",
            "TrustDraft": "packager.trust.draft",
            "TrustFile": "packager.trust.file",
        },
    )

__all__ = [
    "Period",
    "Requirement",
    "Revocations",
    "Roots",
    "Trust",
    "TrustDraft",
    "TrustFile",
    "add_signatures",
    "describe_signers",
    "read_trust_file",
    "update_trust_file",
    "verify_model_files",
    "write_trust_file",
]


def read_trust_file(path: Path) -> TrustFile:
    """Read a trust file strictly, without verifying it; `api.Verifier.from_trust_file` verifies it.

    Raises UsageError for a path, MalformedError for a form that trust files do not have.
    """
    from packager.trust import update

    return update.read_trust_file(path)


def write_trust_file(file: TrustFile, path: Path) -> None:
    """Replace the trust file at `path` in one step. Raises OSError."""
    from packager.trust import update

    update.write_trust_file(file, path)


def add_signatures(file: TrustFile, keys: Sequence[PrivateKey]) -> TrustFile:
    """Return the file with signatures of more root keys, where more than one must sign.

    A signature of a key that is no root key counts nothing. Raises nothing.
    """
    from packager.trust import file as trust_file

    return trust_file.add_signatures(file, keys)


def describe_signers(file: TrustFile) -> list[tuple[str, str]]:
    """Return (name, key or identity with its period, in words) of every entry. Raises nothing for a parsed file."""
    from packager.trust import draft

    return draft.describe_signers(file)


def update_trust_file(
    path: Path, new: str, now: datetime, state: Path | None = None, tuf_root: Path | None = None
) -> TrustFile:
    """Replace the trust file at `path` by `new`, if that may follow it and what `state` remembers; return it.

    `new` is a file, or a target of a TUF channel (`tuf+file:///DIR#NAME`, `tuf+https://…#NAME`), which needs the
    channel's first root metadata and a state (`Workspace.seen`). Raises UsageError, TrustFileError, OutdatedError,
    RolledBackError, SourceError.
    """
    from packager.trust import update

    return update.update_trust_file(path, new, now, state, tuf_root)


def verify_model_files(directory: Path, verifier: Verifier, signature: Path | None = None) -> Evidence:
    """Return who signed the files of a model in OpenSSF Model Signing's format; they need not be a bundle.

    `signature` is by default `model.sig` in the directory. Every file there must be signed, but for git's own and the
    signature. Raises UsageError, MalformedError, BadSignatureError, WrongContentError naming a file, WrongSubjectError,
    and the NegativeAnswerError of a signer who is not trusted.
    """
    from packager.trust import oms

    return oms.verify_model_files(directory, signature, verifier)
