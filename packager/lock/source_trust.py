# SPDX-License-Identifier: Apache-2.0
"""Demand the publisher's signature of a source, when it is locked.

Files are signed in OpenSSF Model Signing's format, in a file among them or beside the recipe; an OCI artifact by
statements attached to it: ours, or cosign's. The lock records who signed, and a build trusts its lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from packager import canonical
from packager.canonical import JSON
from packager.errors import (
    BadSignatureError,
    IntegrityError,
    MalformedError,
    NegativeAnswerError,
    PackagerError,
    UnsignedError,
    UntrustedSignerError,
    UsageError,
)
from packager.formats import intoto
from packager.recipe.clauses import SourceTrust
from packager.sources import Pin, Settings
from packager.trust import evidence
from packager.trust.attach import with_chains
from packager.trust.evidence import Evidence
from packager.trust.model import CertificateSigner, KeylessSigner, KeySigner, Signer, Trust
from packager.types import Tree

if TYPE_CHECKING:
    from cryptography import x509

MAX_SIGNATURE = 16 << 20  # bytes
_HINT = "compare `trust` of the recipe with what the publisher announced, and get source and signature again"
_WHOLE = (intoto.BUNDLE_PREDICATE, intoto.COSIGN_SIGN_PREDICATE)


def check(
    wanted: SourceTrust, pin: Pin, tree: Tree, read: Callable[[str], bytes], settings: Settings, now: datetime
) -> dict[str, JSON]:
    """Return who signed the source, for the lock. Raises a NegativeAnswerError or IntegrityError with the reason.

    `read` returns a file of `tree`.
    """
    trust = trust_of(wanted, settings.base)
    try:
        if pin.kind == "oci" and wanted.signature is None:
            found, form = _attached(pin, trust, settings, now)
        else:
            found, form = _files(wanted, tree, read, trust, settings.base, now), "openssf-model-signing"
    except (NegativeAnswerError, IntegrityError) as error:
        error.hint = error.hint or _HINT
        raise
    time = found.attested.time
    return {
        "form": form,
        "signer": found.attested.identity,
        "time": f"{time:%Y-%m-%dT%H:%M:%SZ}" if time else None,
        "statement": found.digest,
    }


def files_of(wanted: SourceTrust) -> list[str]:
    """Return the files beside the recipe that say whom to trust."""
    named = (wanted.key, wanted.ca, wanted.ca_intermediates, wanted.tsa_ca, wanted.trust_config)
    return [name for name in named if name is not None]


def trust_of(wanted: SourceTrust, base: Path) -> Trust:
    """Return the trust that a recipe describes. Raises UsageError for a file that cannot be read or holds no key."""
    if wanted.key is not None:
        from packager.trust.keys import load_public

        key = load_public(base / wanted.key)
        return Trust((KeySigner("publisher", key),))
    signer: Signer
    if wanted.ca is not None:
        between = _certificates(base, wanted.ca_intermediates)
        signer = CertificateSigner(
            "publisher", _certificates(base, wanted.ca), wanted.identity or "", intermediates=between
        )
        return Trust((signer,), timestamping=_certificates(base, wanted.tsa_ca))
    instances = {} if wanted.trust_config is None else {"publisher": _root(base / wanted.trust_config)}
    signer = KeylessSigner("publisher", wanted.identity or "", wanted.issuer or "", "publisher" if instances else None)
    return Trust((signer,), instances=instances)


def _certificates(base: Path, name: str | None) -> tuple[x509.Certificate, ...]:
    if name is None:
        return ()
    from packager.trust import certificates

    return tuple(certificates.load(base / name))


def _root(path: Path) -> bytes:
    data = _read(path)
    try:
        value = canonical.load(data, limit=MAX_SIGNATURE)
        return canonical.dump(value.get("trustedRoot", value))
    except (ValueError, AttributeError) as error:
        raise UsageError(f"`{path}` holds no trusted root: {error}") from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_SIGNATURE)
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from None


def _files(
    wanted: SourceTrust, tree: Tree, read: Callable[[str], bytes], trust: Trust, base: Path, now: datetime
) -> Evidence:
    from packager.trust import oms

    name = wanted.signature or oms.DEFAULT_NAME
    blob = tree.get(name)
    if blob is None and not (base / name).is_file():
        raise UnsignedError(
            f"the source is not signed: there is no `{name}` among its files or beside the recipe",
            hint="get the publisher's signature, and name its file: `trust: {signature: FILE}`",
        )
    data = read(name) if blob is not None else _read(base / name)
    return oms.verify_files(dict(tree.files), data, trust, now, name)


def _attached(pin: Pin, trust: Trust, settings: Settings, now: datetime) -> tuple[Evidence, str]:
    from packager.sources import oci

    digest = pin.uri.rpartition("@")[2].rpartition("sha256:")[2]
    doubts: list[PackagerError] = []
    statements, chains = oci.read_statements(pin, settings)
    for name, data in sorted(statements.items()):
        try:
            statement = with_chains(evidence.parse_statements({name: data})[name], chains)
            found = evidence.authenticate_one(name, statement, trust, now)
        except BadSignatureError:
            raise
        except (NegativeAnswerError, MalformedError) as error:
            doubts.append(error)
            continue
        if found.statement.predicate_type in _WHOLE and found.statement.subject_sha256 == digest:
            return found, "cosign" if found.statement.predicate_type == intoto.COSIGN_SIGN_PREDICATE else "bundle"
        doubts.append(
            UntrustedSignerError(f"the signature is of another artifact: {found.statement.subject_sha256:.16}")
        )
    raise _no_signature(pin, doubts)


def _no_signature(pin: Pin, doubts: list[PackagerError]) -> PackagerError:
    telling = [doubt for doubt in doubts if isinstance(doubt, NegativeAnswerError)]
    if not telling:
        return UnsignedError(f"`{pin.uri}` is not signed", hint="ask its publisher, or take `trust` out of the recipe")
    worst = next((doubt for doubt in telling if not isinstance(doubt, UntrustedSignerError)), telling[0])
    return type(worst)(f"`{pin.uri}` is not signed by the trusted publisher: {worst.message}", hint=worst.hint or _HINT)


def read_inputs(wanted: SourceTrust, base: Path) -> Mapping[str, JSON]:
    """Return what a lock answers of a recipe's trust: its text, and the content of the files that it names."""
    files = {name: canonical.sha256(_read(base / name)) for name in files_of(wanted)}
    return {"trust": wanted.to_json(), "files": files}
