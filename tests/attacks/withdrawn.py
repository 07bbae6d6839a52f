# SPDX-License-Identifier: Apache-2.0
"""Revoked, older, kept away, too much; and trust files that are any of these."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from packager import canonical
from packager.bundle.readers import blob_path
from packager.errors import (
    MalformedError,
    OutdatedError,
    RevokedError,
    RolledBackError,
    TooLargeError,
    TrustFileError,
)
from packager.transport import copy
from packager.trust import edit, keys
from packager.trust import file as trustfile
from packager.trust.file import AcceptedFile, TrustFile
from packager.trust.model import Period, Revocations
from packager.trust.seen import NOTHING
from tests.attacks.registry import fails_with, variants
from tests.attacks.stage import CI, JSON, Attempt, Stage, put
from tests.support import pki

# revoked, older, stale


def _revoked(signer: str, **what: object) -> Callable[[Stage, Path], Attempt]:
    def make(stage: Stage, folder: Path) -> Attempt:
        who = {"key": stage.key, "certificate": stage.certificate(), "identity": stage.identity()}[signer]
        listed = {field: value(stage) if callable(value) else value for field, value in what.items()}
        return stage.attempt(stage.signed(who), folder, stage.trusting(revoked=Revocations(**listed)))

    return make


variants(
    RevokedError,
    "The maintainer of the trust file has revoked it.",
    key_revoked=_revoked("key", keys=lambda s: frozenset({s.key.public.fingerprint})),
    certificate_key_revoked=_revoked(
        "certificate", keys=lambda s: frozenset({keys.public_key(s.leaf.key.public_key()).fingerprint})
    ),
    certificate_name_revoked=_revoked("certificate", identities=frozenset({pki.EMAIL})),
    certificate_serial_revoked=_revoked(
        "certificate", certificates=lambda s: frozenset({f"{s.leaf.certificate.serial_number:x}"})
    ),
    identity_revoked=_revoked("identity", identities=frozenset({CI})),
    bundle_revoked=_revoked("key", bundles=lambda s: frozenset({s.bundle.digest})),
    version_revoked=_revoked("key", versions={"tiny": ">=0.9.0,<1.0.1"}),
)


@fails_with(RolledBackError)
def older_bundle(stage: Stage, folder: Path) -> Attempt:
    """Rollback: a sound, signed bundle, older than one that was seen here."""
    seen = NOTHING.with_bundle("tiny", "1.0.1", stage.other.digest)
    return stage.attempt(stage.signed(), folder, seen=seen)


@fails_with(RolledBackError)
def pre_release_of_what_was_seen(stage: Stage, folder: Path) -> Attempt:
    """Rollback: `1.0.1-rc.1` comes before `1.0.1`, whatever a text comparison says."""
    seen = NOTHING.with_bundle("tiny", "1.0.1", stage.other.digest)
    return stage.attempt(stage.signed(bundle=stage.make(version="1.0.1-rc.1")), folder, seen=seen)


@fails_with(RolledBackError)
def same_version_with_another_digest(stage: Stage, folder: Path) -> Attempt:
    """A version is published once; a second 1.0.0 is a replacement."""
    seen = NOTHING.with_bundle("tiny", "1.0.0", stage.other.digest)
    return stage.attempt(stage.signed(), folder, seen=seen)


@fails_with(RolledBackError)
def build_metadata_taken_for_an_order(stage: Stage, folder: Path) -> Attempt:
    """`+build.1` is neither older nor newer than `+build.2`: if one could follow the other, everything could."""
    seen = NOTHING.with_bundle("tiny", "1.0.0+build.2", stage.other.digest)
    return stage.attempt(stage.signed(), folder, seen=seen)


@fails_with(RolledBackError)
def below_the_minimum(stage: Stage, folder: Path) -> Attempt:
    """The trust file demands a higher version, also of a verifier that has seen nothing."""
    return stage.attempt(stage.signed(), folder, stage.trusting(minimum={"tiny": "1.0.1"}))


@fails_with(OutdatedError)
def trust_file_expired(stage: Stage, folder: Path) -> Attempt:
    """Freeze: an attacker who withholds newer trust files gains time only until this one expires."""
    return stage.attempt(stage.signed(), folder, stage.trusting(expires=stage.now - timedelta(seconds=1)))


@fails_with(OutdatedError)
def statement_too_old(stage: Stage, folder: Path) -> Attempt:
    """Freeze: the statement is sound, and older than the trust file allows."""
    required = (replace(stage.trusting().required[0], maximum_age=timedelta(days=30)),)
    attempt = stage.attempt(
        stage.signed(stage.certificate()), folder, stage.trusting(required=required, expires=stage.now + 99 * pki.DAY)
    )
    return replace(attempt, now=stage.now + 31 * pki.DAY)


@fails_with(OutdatedError)
def signer_not_trusted_any_more(stage: Stage, folder: Path) -> Attempt:
    """The key was trusted until yesterday."""
    release = replace(stage.trusting().signers[0], period=Period(end=stage.now - pki.DAY))
    return stage.attempt(stage.signed(), folder, stage.trusting(signers=(release,)))


# trust files


def _trust_file(
    stage: Stage, serial: int = 3, signers: list[keys.PrivateKey] | None = None, **changes: JSON
) -> TrustFile:
    content = edit.new_content("acme", [stage.rootkey.public], 1, stage.now + 30 * pki.DAY)
    return trustfile.write({**content, "serial": serial, **changes}, signers or [stage.rootkey])


def _accepting(stage: Stage, folder: Path, data: bytes, before: AcceptedFile | None = None) -> Attempt:
    """The bundle is sound; what is judged is the trust file it is judged by."""
    (folder / "acme.trust").write_bytes(data)

    def show() -> object:
        return trustfile.accept(trustfile.parse((folder / "acme.trust").read_bytes(), "acme.trust"), before, stage.now)

    return Attempt(show, stage.trusting(), stage.now)  # type: ignore[arg-type]


@fails_with(RolledBackError)
def trust_file_with_a_lower_serial(stage: Stage, folder: Path) -> Attempt:
    """An old trust file knows no recent revocations."""
    before = trustfile.remember(_trust_file(stage, 4))
    return _accepting(stage, folder, _trust_file(stage, 3).to_bytes(), before)


@fails_with(RolledBackError)
def trust_file_with_the_same_serial(stage: Stage, folder: Path) -> Attempt:
    """Two trust files with one serial: one of them was not meant for us."""
    before = trustfile.remember(_trust_file(stage, 3))
    return _accepting(stage, folder, _trust_file(stage, 3, minimum={"tiny": "0.0.1"}).to_bytes(), before)


@fails_with(TrustFileError)
def trust_file_of_other_roots(stage: Stage, folder: Path) -> Attempt:
    """A higher serial and roots of its own do not help: the former roots must sign the step."""
    content = edit.new_content("acme", [stage.stranger.public], 1, stage.now + 30 * pki.DAY)
    file = trustfile.write({**content, "serial": 9}, [stage.stranger])
    return _accepting(stage, folder, file.to_bytes(), trustfile.remember(_trust_file(stage)))


@fails_with(TrustFileError)
def trust_file_below_its_threshold(stage: Stage, folder: Path) -> Attempt:
    """Two of two roots must sign; one thief with one key is not enough."""
    second = keys.generate_key("p256")
    roots = {"keys": [stage.rootkey.public.pem.decode(), second.public.pem.decode()], "threshold": 2}
    return _accepting(stage, folder, _trust_file(stage, roots=roots).to_bytes())


@fails_with(TrustFileError)
def trust_file_changed(stage: Stage, folder: Path) -> Attempt:
    """A signer was added after the root key signed."""
    envelope = json.loads(_trust_file(stage).to_bytes())
    content = json.loads(base64.b64decode(envelope["payload"]))
    content["signers"]["evil"] = {"key": stage.stranger.public.pem.decode()}
    envelope["payload"] = base64.b64encode(canonical.dump(content)).decode()
    return _accepting(stage, folder, json.dumps(envelope).encode())


@fails_with(OutdatedError)
def trust_file_expired_on_arrival(stage: Stage, folder: Path) -> Attempt:
    """Freeze: an expired trust file is refused when it is read, too."""
    past = edit.format_time(stage.now - pki.DAY)
    return _accepting(stage, folder, _trust_file(stage, expires=past).to_bytes())


@fails_with(MalformedError)
def trust_file_with_a_weak_root(stage: Stage, folder: Path) -> Attempt:
    """A P-192 key signs nothing here, a root least of all."""
    public = ec.generate_private_key(ec.SECP192R1()).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    envelope = json.loads(_trust_file(stage).to_bytes())
    content = json.loads(base64.b64decode(envelope["payload"]))
    content["roots"]["keys"] = [pem]
    envelope["payload"] = base64.b64encode(canonical.dump(content)).decode()
    return _accepting(stage, folder, json.dumps(envelope).encode())


# too much


@fails_with(TooLargeError)
def signature_file_of_a_gigabyte(stage: Stage, folder: Path) -> Attempt:
    """A signature is read up to its cap, not into the last byte of memory."""
    copy.save(stage.signed(), folder / "layout")
    path = folder / "layout" / blob_path(next(iter(stage.signed().referrers)).content.digest)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(1 << 30)
    return stage.shown(folder / "layout")


@fails_with(TooLargeError)
def signature_that_admits_a_gigabyte(stage: Stage, folder: Path) -> Attempt:
    """A size that is declared honestly is refused before anything is read."""
    bundle = stage.signed()
    grown = tuple(replace(r, content=replace(r.content, size=1 << 30)) for r in bundle.referrers)
    attempt = stage.attempt(bundle, folder)
    return replace(attempt, show=lambda: replace(stage.shown(folder / "layout").show(), referrers=grown))


@fails_with(TooLargeError)
def ten_thousand_signature_files(stage: Stage, folder: Path) -> Attempt:
    """Each would be parsed and checked; their number has a cap as well."""
    copy.save(stage.signed(), folder / "layout")
    path = folder / "layout/index.json"
    index = json.loads(path.read_bytes())
    row = index["manifests"][1]
    for number in range(10_000):
        digest = put(folder / "layout", f'{{"number":{number}}}'.encode())
        index["manifests"].append({**row, "digest": digest, "size": 12})
    path.write_bytes(json.dumps(index).encode())
    return stage.shown(folder / "layout")
