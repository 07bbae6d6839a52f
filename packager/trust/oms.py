# SPDX-License-Identifier: Apache-2.0
"""Verify a signature in OpenSSF Model Signing's format over the files of a model, as their publisher made it.

Every file must be signed with its content, and every signed file be there. Only git's own names and the signature are
left out, as the specification says; what else a signature "ignores" is unsigned, and so refused. The subject digest is
compared and never used as an identity: it does not bind names. Bytes and digests in, no clock.
Source: ossf/model-signing-spec v1.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from packager import canonical
from packager.canonical import JSON
from packager.errors import MalformedError, UsageError, WrongContentError, WrongSubjectError
from packager.files import digest_of, open_regular, walk_regular
from packager.formats.dsse import read_items, read_members
from packager.formats.intoto import MODEL_SIGNING_PREDICATE
from packager.trust import evidence
from packager.trust.evidence import Evidence
from packager.trust.model import Trust
from packager.trust.verifier import Verifier, read_bounded
from packager.types import DIGEST, Blob

DEFAULT_NAME = "model.sig"
GIT = frozenset({".git", ".gitattributes", ".github", ".gitignore"})
MAX_FILES = 100_000
MAX_SIGNATURE = 16 << 20  # bytes
_ANY = 1 << 62  # bytes; files are as long as they are
_HINT = "get the files and their signature again from the publisher"


def verify_model_files(root: Path, signature: Path | None, verifier: Verifier) -> Evidence:
    """Verify the directory `root` with the signature in a file, by default `model.sig` in it. Raises UsageError."""
    if not root.is_dir():
        raise UsageError(f"`{root}` is no directory", hint="give the directory of the model")
    path = signature or root / DEFAULT_NAME
    data = read_bounded(path, MAX_SIGNATURE)
    inside = path.resolve().is_relative_to(root.resolve())
    own = path.resolve().relative_to(root.resolve()).as_posix() if inside else None
    return verify_directory(root, data, verifier.trust, verifier.now, own)


def verify_directory(root: Path, data: bytes, trust: Trust, now: datetime, own: str | None) -> Evidence:
    """Verify the files below `root`; `own` is the path there of the signature itself. Raises as `verify_files` does."""
    found = {name: path for name, path in walk_regular(root) if not _left_out(name, own)}
    return verify_files({name: _blob(path) for name, path in found.items()}, data, trust, now, own)


def _blob(path: Path) -> Blob:
    with open_regular(path) as file:
        return digest_of(file, limit=_ANY)


def verify_files(files: Mapping[str, Blob], data: bytes, trust: Trust, now: datetime, own: str | None) -> Evidence:
    """Return who signed `files`, if the signature `data` is by a trusted signer and covers all of them.

    Raises MalformedError for a signature of another form, BadSignatureError for a forged one, WrongSubjectError for a
    statement about something else, WrongContentError naming the first file that differs, is missing or unsigned, and
    the NegativeAnswerError of an untrusted signer.
    """
    digest = canonical.sha256(data)
    found = evidence.authenticate_one(digest, evidence.parse_statements({digest: data})[digest], trust, now)
    if found.statement.predicate_type != MODEL_SIGNING_PREDICATE:
        kind = f"{found.statement.predicate_type:.80}"
        raise WrongSubjectError(f"the signature states no files: it is `{kind}`", subject=digest, hint=_HINT)
    try:
        listed = _resources(found)
    except (ValueError, KeyError, TypeError) as error:
        raise MalformedError(f"the signature is of another form: {error}", subject=digest) from None
    _compare({name: blob.digest for name, blob in files.items() if not _left_out(name, own)}, listed)
    return found


def _left_out(name: str, own: str | None) -> bool:
    return name.partition("/")[0] in GIT or name == own


def _resources(found: Evidence) -> dict[str, str]:
    """Return (path: digest) of the signed files. Raises ValueError."""
    predicate = read_members(found.statement.predicate, "predicate", "serialization resources")
    _check_serialization(predicate["serialization"])
    listed: dict[str, str] = {}
    for row in read_items(predicate["resources"], "resources", 0, MAX_FILES):
        entry = read_members(row, "resource", "name algorithm digest")
        digest = f"sha256:{entry['digest']}"
        if entry["algorithm"] != "sha256" or not DIGEST.fullmatch(digest):
            raise ValueError(f"expected SHA-256 digests, got {entry['algorithm']!s:.40}")
        if not isinstance(entry["name"], str) or entry["name"] in listed:
            raise ValueError(f"`{entry['name']!s:.100}` is there twice")
        listed[entry["name"]] = digest
    rows = b"".join(bytes.fromhex(digest[7:]) for _, digest in sorted(listed.items()))
    if hashlib.sha256(rows).hexdigest() != found.statement.subject_sha256:
        raise ValueError("its subject is not the digest of its resources")
    return listed


def _check_serialization(value: JSON) -> None:
    table = value if isinstance(value, dict) else {}
    method, kind = table.get("method"), table.get("hash_type")
    if method != "files" or kind != "sha256":
        raise ValueError(f"expected whole files with SHA-256, got {method!s:.40} with {kind!s:.40}")


def _compare(present: Mapping[str, str], signed: Mapping[str, str]) -> None:
    for name in sorted({*present, *signed}):
        if name not in signed:
            raise WrongContentError(f"`{name}` is not signed by the publisher", subject=name, hint=_HINT)
        if name not in present:
            raise WrongContentError(f"`{name}`, which the publisher signed, is missing", subject=name, hint=_HINT)
        if present[name] != signed[name]:
            raise WrongContentError(
                f"`{name}` is not what the publisher signed: expected {signed[name]}, got {present[name]}",
                subject=name,
                hint=_HINT,
            )
