# SPDX-License-Identifier: Apache-2.0
"""Decide whether a bundle is what a trusted key signed, and whole. Offline; the order of the checks is fixed.

    structure   index, manifest, paths, records: strict parsing under size caps (done by opening the bundle)
    signature   at least one bundle statement carries a valid signature of a trusted key
    statement   its subject is this manifest; its name, version, file set are those of the bundle's own record
    files       every file: size, digest, mode, name; and nothing that no statement covers
    formats     every file is of a format that holds data, not programs

Bytes in, verdict out: no clock, no network, no environment. The first failing check ends the verdict, because what
comes after it would judge data that nobody vouches for.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from packager.bundle import Bundle
from packager.canonical import JSON
from packager.errors import IntegrityError, NegativeAnswer, PackagerError
from packager.events import OnEvent, Progress, ignore
from packager.files import digest_of
from packager.formats import dsse, intoto
from packager.keys import PublicKey
from packager.media import record
from packager.types import Blob

# Formats that are data, and two that are not: wheels enter an isolated environment by their hashes, and engines are
# native code, which is why no file of a bundle is opened before its signature and digest hold. External data of a graph
# and of an OpenVINO `.xml` is `.bin`.
ALLOWED_SUFFIXES = frozenset(
    {".onnx", ".bin", ".safetensors", ".json", ".txt", ".md", ".pbtxt", ".whl", ".html", ".engine", ".xml", ".toml"}
)


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer."""

    name: str
    ok: bool
    detail: str

    def to_json(self) -> JSON:
        return {"check": self.name, "ok": self.ok, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Verification:
    """The whole verdict. Deterministic: the same bundle and keys give the same JSON everywhere."""

    name: str
    version: str
    digest: str
    set_digest: str
    signers: tuple[str, ...]
    checks: tuple[Check, ...]
    failure: PackagerError | None

    @property
    def ok(self) -> bool:
        return self.failure is None

    def to_json(self) -> JSON:
        return {
            "ok": self.ok,
            "name": self.name,
            "version": self.version,
            "digest": self.digest,
            "setDigest": self.set_digest,
            "signers": list(self.signers),
            "checks": [check.to_json() for check in self.checks],
        }


@dataclass(frozen=True, slots=True)
class Attested:
    """A statement whose signature a trusted key verifies."""

    statement: intoto.Statement
    signer: str


def verify(bundle: Bundle, trusted: Sequence[PublicKey], on_event: OnEvent = ignore) -> Verification:
    """Check `bundle` against the keys in `trusted`; see the module docstring for the order."""
    attested: list[Attested] = []
    plan: Sequence[tuple[str, Callable[[], str]]] = (
        ("structure", lambda: f"{len(bundle.tree.files)} files, {len(bundle.referrers)} attached statements"),
        ("signature", lambda: _check_signatures(bundle, trusted, attested)),
        ("statement", lambda: _check_statements(bundle, [item.statement for item in attested])),
        ("files", lambda: check_files(bundle, on_event)),
        ("formats", lambda: _check_formats(bundle)),
    )
    checks: list[Check] = []
    failure: PackagerError | None = None
    for name, perform in plan:
        try:
            checks.append(Check(name, True, perform()))
        except (IntegrityError, NegativeAnswer) as error:
            checks.append(Check(name, False, error.message))
            failure = error
            break
    signers = tuple(sorted({item.signer for item in attested}))
    return Verification(bundle.name, bundle.version, bundle.digest, bundle.set_digest, signers, tuple(checks), failure)


def require_signature(bundle: Bundle, trusted: Sequence[PublicKey]) -> None:
    """Raise unless a trusted key vouches for `bundle`; for callers that hash the files themselves while copying."""
    attested: list[Attested] = []
    _check_signatures(bundle, trusted, attested)
    _check_statements(bundle, [item.statement for item in attested])
    _check_formats(bundle)


def attached(bundle: Bundle) -> Iterator[tuple[str, str, str]]:
    """Yield (blob digest, key fingerprint it claims, predicate type) of every attached statement, unverified."""
    for digest, signed in _signed_statements(bundle):
        yield digest, signed.key_hint, _parse_statement(digest, signed).predicate_type


def _check_signatures(bundle: Bundle, trusted: Sequence[PublicKey], found: list[Attested]) -> str:
    """Collect what trusted keys said; an unknown signer is no evidence, a broken signature of a known one is a lie."""
    keys = {key.fingerprint: key for key in trusted}
    unknown: list[str] = []
    for digest, signed in _signed_statements(bundle):
        key = keys.get(signed.key_hint)
        if key is None:
            unknown.append(signed.key_hint[:16])
            continue
        if not key.verifies(signed):
            place = bundle.medium.place("", Blob(digest, 0))
            raise IntegrityError(f"the signature in `{place}` does not match its statement", subject=place)
        found.append(Attested(_parse_statement(digest, signed), key.fingerprint))
    if any(item.statement.predicate_type == intoto.BUNDLE_PREDICATE for item in found):
        return f"signed by {', '.join(sorted({item.signer[:16] for item in found}))}"
    if unknown:
        raise NegativeAnswer(
            f"no trusted key signed this bundle: expected {', '.join(k[:16] for k in keys)}, "
            f"got {', '.join(sorted(set(unknown)))}",
            hint="compare the fingerprints with what the publisher announced; `packager inspect` lists the signers",
        )
    raise NegativeAnswer(
        "the bundle is not signed", hint="ask the publisher for the signed form; `packager sign` makes it"
    )


def _signed_statements(bundle: Bundle) -> Iterator[tuple[str, dsse.SignedStatement]]:
    for referrer in sorted(bundle.referrers, key=lambda r: r.manifest.digest):
        if referrer.artifact_type != dsse.BUNDLE:
            continue
        digest = referrer.content.digest
        data = bundle.pending.get(digest) or record(bundle.medium, digest, limit=dsse.MAX_BUNDLE)
        try:
            yield digest, dsse.parse(data)
        except ValueError as error:
            raise IntegrityError(f"statement `{digest}` is malformed: {error}", subject=digest) from None


def _parse_statement(digest: str, signed: dsse.SignedStatement) -> intoto.Statement:
    try:
        return intoto.parse(signed.payload, limit=dsse.MAX_BUNDLE)
    except ValueError as error:
        raise IntegrityError(f"statement `{digest}` is malformed: {error}", subject=digest) from None


def _check_statements(bundle: Bundle, statements: Sequence[intoto.Statement]) -> str:
    """Every statement of a kind we know must say exactly what we would say of this bundle."""
    expected = {
        statement.predicate_type: statement
        for statement in (
            intoto.bundle_statement(bundle.name, bundle.version, bundle.digest, bundle.tree),
            intoto.model_signing_statement(bundle.name, bundle.version, bundle.tree),
        )
    }
    for statement in statements:
        wanted = expected.get(statement.predicate_type)
        if wanted is not None and statement != wanted:
            raise IntegrityError(
                f"a trusted key signed another bundle: expected {wanted.subject_name} {wanted.subject_sha256[:16]}, "
                f"got {statement.subject_name:.80} {statement.subject_sha256[:16]}",
                subject=statement.subject_name,
            )
    return f"{len(statements)} statements are about this manifest and its files"


def check_files(bundle: Bundle, on_event: OnEvent = ignore) -> str:
    """Read every file once, on all cores, and account for everything on the medium."""
    bundle.medium.check_extent(bundle.tree, bundle.records)
    for digest in sorted(bundle.records):
        if digest not in bundle.pending:
            record(bundle.medium, digest, limit=dsse.MAX_BUNDLE)
    done, total = 0, bundle.tree.size

    def moved(count: int) -> None:
        nonlocal done
        done += count
        on_event(Progress(f"checking {bundle.name} {bundle.version}", done, total))

    def check(item: tuple[str, Blob]) -> None:
        path, blob = item
        with bundle.medium.open_file(path, blob) as file:
            got = digest_of(file, limit=blob.size, moved=moved)
        if got != blob:
            place = bundle.medium.place(path, blob)
            raise IntegrityError(
                f"`{place}` is not what was signed: expected {blob.digest}, got {got.digest}", subject=place
            )

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(check, sorted(bundle.tree, key=lambda item: -item[1].size)):
            pass
    return f"{len(bundle.tree.files)} files, {total} bytes, nothing else"


def _check_formats(bundle: Bundle) -> str:
    for path, _ in bundle.tree:
        suffix = PurePosixPath(path).suffix
        if suffix not in ALLOWED_SUFFIXES:
            raise NegativeAnswer(
                f"`{path}` is of a format that bundles may not hold",
                hint=f"allowed: {', '.join(sorted(ALLOWED_SUFFIXES))}",
            )
    return "only allowed formats"
