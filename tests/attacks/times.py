# SPDX-License-Identifier: Apache-2.0
"""When it was signed, and what the transparency log says."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from packager.errors import (
    BadSignatureError,
    MalformedError,
    UntrustedSignerError,
    UntrustedTimeError,
)
from packager.trust import timestamps
from tests.attacks.registry import fails_with, variants
from tests.attacks.stage import JSON, Attempt, Stage, log_entry, material, rewrite_payload, stamp_rows
from tests.sigstore.stamping import StampingAuthority, crafted
from tests.support import pki

# when


def _without_stamps(document: JSON) -> None:
    stamp_rows(document).clear()


def _stamped_again(stage: Stage, folder: Path, change: Callable[[JSON], object], *, kind: str = "identity") -> Attempt:
    signer = stage.identity() if kind == "identity" else stage.certificate()
    return stage.attempt(stage.bent(change, signer), folder)


variants(
    UntrustedTimeError,
    "Without a timestamp it is unknown whether the certificate was valid when it signed.",
    certificate_without_a_time_stamp=lambda stage, folder: _stamped_again(
        stage, folder, _without_stamps, kind="certificate"
    ),
    identity_without_a_time_stamp=lambda stage, folder: _stamped_again(stage, folder, _without_stamps),
)
variants(
    MalformedError,
    "The same time stamp twice pretends to be two authorities.",
    certificate_with_a_duplicate_time_stamp=lambda stage, folder: _stamped_again(
        stage, folder, lambda d: stamp_rows(d).append(stamp_rows(d)[0]), kind="certificate"
    ),
    identity_with_a_duplicate_time_stamp=lambda stage, folder: _stamped_again(
        stage, folder, lambda d: stamp_rows(d).append(stamp_rows(d)[0])
    ),
)


@fails_with(MalformedError)
def too_many_time_stamps(stage: Stage, folder: Path) -> Attempt:
    """Thirty-three time stamps are work for the verifier, not proof."""

    def many(document: JSON) -> None:
        rows = stamp_rows(document)
        rows += [{"signedTimestamp": base64.b64encode(bytes([number])).decode()} for number in range(32)]

    return _stamped_again(stage, folder, many)


def _stamp_of_another(stage: Stage) -> Callable[[JSON], object]:
    row = {"signedTimestamp": base64.b64encode(stage.stamps(b"another signature")[0]).decode()}
    return lambda document: stamp_rows(document).__setitem__(slice(None), [row])


variants(
    BadSignatureError,
    "The time stamp is about another signature.",
    certificate_with_a_foreign_time_stamp=lambda stage, folder: _stamped_again(
        stage, folder, _stamp_of_another(stage), kind="certificate"
    ),
    identity_with_a_foreign_time_stamp=lambda stage, folder: _stamped_again(stage, folder, _stamp_of_another(stage)),
)


def _stamped_by(stage: Stage, folder: Path, holder: pki.Holder) -> Attempt:
    authority = StampingAuthority(holder, folder / "tsa")
    return stage.certified(folder, stamp=lambda signature: [authority.answer(timestamps.encode_request(signature, 1))])


@fails_with(UntrustedTimeError)
def timestamp_of_an_untrusted_authority(stage: Stage, folder: Path) -> Attempt:
    """Anybody can run an authority; only the pinned one counts."""
    fake = pki.root("tsa-root")
    return _stamped_by(stage, folder, fake.issue("tsa", purposes=[pki.STAMPING], critical=True))


@fails_with(UntrustedTimeError)
def time_stamp_of_an_expired_authority(stage: Stage, folder: Path) -> Attempt:
    """The authority's own certificate was not valid at the time it states."""
    start, end = pki.NOW - 90 * pki.DAY, pki.NOW - 60 * pki.DAY
    late = stage.instance.stamping[1].issue("tsa", purposes=[pki.STAMPING], critical=True, start=start, end=end)
    return _stamped_by(stage, folder, late)


def _crafted(stage: Stage, folder: Path, **certificate: object) -> Attempt:
    holder = stage.instance.stamping[1].issue("tsa", **certificate)  # type: ignore[arg-type]
    return stage.certified(folder, stamp=lambda signature: [crafted(holder, signature, stage.now)])


variants(
    UntrustedTimeError,
    "A time stamping certificate is for that, and for nothing else (RFC 3161 §2.3).",
    time_stamp_with_a_certificate_for_more=lambda stage, folder: _crafted(
        stage, folder, purposes=[pki.STAMPING, pki.CODE_SIGNING], critical=True
    ),
    time_stamp_with_a_certificate_for_signing=lambda stage, folder: _crafted(
        stage, folder, purposes=[pki.CODE_SIGNING], critical=True
    ),
    time_stamp_with_an_optional_purpose=lambda stage, folder: _crafted(stage, folder, purposes=[pki.STAMPING]),
)


@fails_with(BadSignatureError)
def time_stamp_changed(stage: Stage, folder: Path) -> Attempt:
    """One digit of the time was changed after the authority signed it."""

    def later(document: JSON) -> None:
        data = base64.b64decode(stamp_rows(document)[0]["signedTimestamp"])
        year = f"{stage.now:%Y}".encode()
        place = data.index(year)
        stamp_rows(document)[0]["signedTimestamp"] = base64.b64encode(
            data[:place] + f"{int(year) - 1}".encode() + data[place + 4 :]
        ).decode()

    return _stamped_again(stage, folder, later, kind="certificate")


@fails_with(MalformedError)
def time_stamp_garbled(stage: Stage, folder: Path) -> Attempt:
    """Half a time stamp is none."""

    def cut(document: JSON) -> None:
        data = base64.b64decode(stamp_rows(document)[0]["signedTimestamp"])
        stamp_rows(document)[0]["signedTimestamp"] = base64.b64encode(data[: len(data) // 2]).decode()

    return _stamped_again(stage, folder, cut, kind="certificate")


@fails_with(UntrustedTimeError)
def age_without_a_time(stage: Stage, folder: Path) -> Attempt:
    """A plain key proves no time, so it cannot show that a statement is young enough."""
    required = (replace(stage.trusting().required[0], maximum_age=timedelta(days=30)),)
    return stage.attempt(stage.signed(), folder, stage.trusting(required=required))


# the log


def _logged(change: Callable[[Stage, JSON], object]) -> Callable[[Stage, Path], Attempt]:
    return lambda stage, folder: stage.attempt(stage.bent(lambda d: change(stage, d), stage.identity()), folder)


def _other_entry(stage: Stage) -> JSON:
    return log_entry(json.loads(stage.document(stage.identity(), stage.other)))


variants(
    BadSignatureError,
    "The log vouches for another signature.",
    log_entry_of_another_bundle=_logged(lambda stage, d: material(d).update(tlogEntries=[_other_entry(stage)])),
    checkpoint_of_another_entry=_logged(
        lambda stage, d: log_entry(d)["inclusionProof"].update(
            checkpoint=_other_entry(stage)["inclusionProof"]["checkpoint"]
        )
    ),
    wrong_root_hash=_logged(
        lambda stage, d: log_entry(d)["inclusionProof"].update(rootHash=base64.b64encode(bytes(32)).decode())
    ),
    log_body_of_another_entry=_logged(
        lambda stage, d: log_entry(d).update(canonicalizedBody=_other_entry(stage)["canonicalizedBody"])
    ),
)
variants(
    MalformedError,
    "Without its parts a proof of inclusion proves nothing.",
    two_log_entries=_logged(lambda stage, d: material(d).update(tlogEntries=[log_entry(d)] * 2)),
    no_inclusion_proof=_logged(lambda stage, d: log_entry(d).pop("inclusionProof")),
    negative_log_index=_logged(lambda stage, d: log_entry(d).update(logIndex="-1")),
)
variants(
    UntrustedSignerError,
    "Without a log entry it is a certificate of some authority, and this one's is no authority of the verifier.",
    no_log_entry=_logged(lambda stage, d: material(d).update(tlogEntries=[])),
)


@fails_with(BadSignatureError)
def payload_changed_under_a_log_entry(stage: Stage, folder: Path) -> Attempt:
    """The certificate's key did not sign this payload, whatever the log says."""
    change: Callable[[JSON], object] = lambda d: rewrite_payload(d, lambda p: p["subject"][0].update(name="x"))  # noqa: E731
    return stage.attempt(stage.bent(change, stage.identity()), folder)
