# SPDX-License-Identifier: Apache-2.0
"""A certificate statement carries one certificate; those up to the root are attached, or in the verifier's trust."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest

from packager.bundle.bundle import Bundle, open_bundle
from packager.cli import main
from packager.errors import PackagerError, UntrustedSignerError
from packager.formats import dsse, intoto
from packager.formats.dsse import SignedStatement
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport.copy import save
from packager.trust import certificates, keys
from packager.trust.model import CertificateSigner, Trust
from packager.trust.signers.certificate import CertificateHolder
from packager.trust.verify import list_statements, verify
from tests.support import bundles, pki
from tests.support.tampering import no_store

ROOT = pki.root()
UPPER = ROOT.issue("Upper", ca=True)
LOWER = UPPER.issue("Lower", ca=True)
LEAF = LOWER.signer()
TRUST = Trust((CertificateSigner("corp", (ROOT.certificate,), pki.EMAIL),))


@pytest.fixture
def signed(tmp_path: Path) -> Bundle:
    chain = (LEAF.certificate, LOWER.certificate, UPPER.certificate)
    holder = CertificateHolder(keys.PrivateKey(LEAF.key), chain, None)
    return sign(bundles.make(Store(tmp_path / "made")), holder)


def judged(bundle: Bundle, trust: Trust = TRUST) -> PackagerError | None:
    return verify(bundle, trust, now=pki.NOW).failure


def without_chain(bundle: Bundle) -> Bundle:
    """Return the bundle with the statement about it alone."""
    keep = [digest for digest, _, kind in list_statements(bundle) if kind == intoto.BUNDLE_PREDICATE]
    return bundle.only(lambda item: item.content.digest in keep)


def test_one_certificate_is_written(signed: Bundle) -> None:
    """But for OpenSSF Model Signing, whose format has the chain inside, and whose tool reads no other."""
    rows = [{"rawBytes": base64.b64encode(holder.der).decode()} for holder in (LEAF, LOWER, UPPER)]
    forms = {
        intoto.BUNDLE_PREDICATE: {"certificate": rows[0], "tlogEntries": []},
        intoto.MODEL_SIGNING_PREDICATE: {"x509CertificateChain": {"certificates": rows}, "tlogEntries": []},
    }
    for digest, _, kind in list_statements(signed):
        assert json.loads(signed.record_bytes(digest))["verificationMaterial"] == forms[kind]
    assert len(signed.referrers) == 3
    assert signed.statements == 2


def test_the_certificates_between_travel_with_the_bundle(signed: Bundle, tmp_path: Path) -> None:
    assert judged(signed) is None
    save(signed, tmp_path / "b.tar")
    assert judged(open_bundle(str(tmp_path / "b.tar"), no_store)) is None


def test_the_certificates_between_may_be_in_the_trust(signed: Bundle) -> None:
    bare = without_chain(signed)
    assert isinstance(judged(bare), UntrustedSignerError)
    between = (UPPER.certificate, LOWER.certificate)
    (signer,) = TRUST.signers
    assert isinstance(signer, CertificateSigner)
    assert judged(bare, replace(TRUST, signers=(replace(signer, intermediates=between),))) is None
    lower = replace(signer, intermediates=(LOWER.certificate,))
    assert isinstance(judged(bare, replace(TRUST, signers=(lower,))), UntrustedSignerError)


def test_attached_certificates_prove_nothing(signed: Bundle) -> None:
    """An attached root is no root, and one of the same name and key that another authority signed leads elsewhere."""
    bare = without_chain(signed)
    fake = pki.root()
    twin = fake.issue("Lower", ca=True, key=LOWER.key)
    other = Trust((CertificateSigner("corp", (pki.root().certificate,), pki.EMAIL),))
    assert isinstance(judged(signed.with_certificates(ROOT.pem), other), UntrustedSignerError)
    assert isinstance(judged(bare.with_certificates(twin.pem + fake.pem)), UntrustedSignerError)
    assert judged(signed.with_certificates(twin.pem + fake.pem)) is None


def test_many_attached_certificates_hide_none(signed: Bundle) -> None:
    crowd = signed.with_certificates(b"garbage").with_certificates(b"").with_certificates(b"x" * (2 << 20))
    for number in range(60):
        fake = pki.root(f"Root {number}")
        crowd = crowd.with_certificates(
            fake.issue("Lower", ca=True, key=LOWER.key).pem + fake.issue("Lower", ca=True).pem
        )
    assert judged(crowd) is None


def test_a_chain_inside_is_still_read(signed: Bundle) -> None:
    """As this program wrote it before, and as cosign writes it."""
    before = signed.only(lambda item: False)
    rows = [{"rawBytes": base64.b64encode(holder.der).decode()} for holder in (LEAF, LOWER, UPPER)]
    for referrer in without_chain(signed).referrers:
        document = json.loads(signed.record_bytes(referrer.content.digest))
        document["verificationMaterial"] = {"x509CertificateChain": {"certificates": rows}}
        before = before.with_statement(json.dumps(document).encode(), "urn:x")
    assert judged(before) is None


@pytest.mark.parametrize("entries", [[{}], [1], {}, "x", 7])
def test_log_entries_make_another_kind(signed: Bundle, entries: object) -> None:
    document = json.loads(signed.record_bytes(without_chain(signed).referrers[0].content.digest))
    document["verificationMaterial"]["tlogEntries"] = entries
    data = json.dumps(document).encode()
    if isinstance(entries, list):
        assert isinstance(dsse.parse(data).material, dsse.Logged)
    else:
        with pytest.raises(ValueError, match="log entries"):
            dsse.parse(data)


def test_only_issuers_are_candidates() -> None:
    statement = SignedStatement(b"{}", b"", dsse.Certificates((LEAF.der,)))
    pool = [ROOT.certificate, UPPER.certificate, LOWER.certificate, pki.root().certificate, LEAF.certificate]
    found = certificates.with_path(statement, pool).material
    assert isinstance(found, dsse.Certificates)
    assert found.chain == (LEAF.der, LOWER.der, UPPER.der, ROOT.der)


def test_the_options_say_what_lies_between(
    signed: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACKAGER_STATE", str(tmp_path / "seen"))
    save(without_chain(signed), tmp_path / "b.tar")
    (tmp_path / "root.pem").write_bytes(ROOT.pem)
    (tmp_path / "between.pem").write_bytes(UPPER.pem + LOWER.pem)
    who = ("--ca", "root.pem", "--identity", pki.EMAIL)
    assert main(["verify", "b.tar", *who]) == 1
    assert main(["verify", "b.tar", *who, "--ca-intermediates", "between.pem"]) == 0
    assert main(["verify", "b.tar", "--key", "x", "--ca-intermediates", "between.pem"]) == 2
    assert main(["keygen", "owner"]) == 0
    owner = ("--root-key", "owner.pem")
    assert main(["trust", "init", "acme.trust", "--name", "acme", *owner]) == 0
    between = ("--ca-intermediates", "between.pem")
    assert main(["trust", "add", "acme.trust", "--signer", "corp", *who, *between, *owner]) == 0
    assert main(["verify", "b.tar", "--trust", "acme.trust"]) == 0
