# SPDX-License-Identifier: Apache-2.0
"""What a version signed, every later version still verifies: conformance/vectors/v1/<version>/, made once per release."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from packager.bundle.bundle import Bundle, open_bundle
from packager.transport import copy
from packager.trust import certificates, file, keys, model
from packager.trust.model import CertificateSigner, KeylessSigner, KeySigner, Trust
from packager.trust.verify import verify
from tests.support.tampering import no_store

VECTORS = Path(__file__).parents[3] / "conformance" / "vectors" / "v1"
RELEASES = sorted(path.name for path in VECTORS.iterdir() if path.is_dir())
KINDS = ("key", "certificate", "keyless", "trust file")


def expected(release: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((VECTORS / release / "expected.json").read_text())
    return value


def opened(release: str) -> Bundle:
    return open_bundle(str(VECTORS / release / "bundle.tar"), no_store)


def believed(release: str, kind: str, at: dt.datetime) -> Trust:
    folder, identity = VECTORS / release, expected(release)["identity"]
    if kind == "trust file":
        return file.accept(file.parse((folder / "acme.trust").read_bytes(), "acme.trust"), None, at)
    if kind == "key":
        return Trust((KeySigner("k", keys.load_public(folder / "release.pub")),))
    if kind == "certificate":
        signer = CertificateSigner("c", tuple(certificates.load(folder / "root.pem")), identity["certificate"])
        return Trust((signer,), timestamping=tuple(certificates.load(folder / "tsa.pem")))
    root = (folder / "trusted_root.json").read_bytes()
    return Trust((KeylessSigner("i", identity["keyless"], identity["issuer"], "local"),), instances={"local": root})


def test_there_is_a_vector_of_a_release() -> None:
    assert RELEASES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("release", RELEASES)
def test_every_release_still_verifies(release: str, kind: str) -> None:
    wanted = expected(release)
    at = model.parse_time(wanted["at"])
    verdict = verify(opened(release), believed(release, kind, at), now=at)
    assert verdict.failure is None
    assert (verdict.digest, verdict.set_digest) == (wanted["digest"], wanted["setDigest"])
    if kind == "trust file":
        assert sorted([e.attested.signer, e.statement.predicate_type] for e in verdict.evidence) == wanted["statements"]


@pytest.mark.parametrize("kind", ["certificate", "keyless"])
@pytest.mark.parametrize("release", RELEASES)
def test_time_stamps_outlive_certificates(release: str, kind: str) -> None:
    """Twenty years later every certificate has expired, and the time stamps still say when they were valid."""
    at = model.parse_time(expected(release)["at"]) + dt.timedelta(days=20 * 365)
    assert verify(opened(release), believed(release, kind, at), now=at).ok


@pytest.mark.parametrize("release", RELEASES)
def test_today_writes_every_release_byte_for_byte(release: str, tmp_path: Path) -> None:
    """Through every form and back: the single file of then is the single file of now."""
    copy.unpack(opened(release), tmp_path / "tree")
    copy.save(open_bundle(str(tmp_path / "tree"), no_store), tmp_path / "layout")
    copy.save(open_bundle(str(tmp_path / "layout"), no_store), tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == (VECTORS / release / "bundle.tar").read_bytes()
