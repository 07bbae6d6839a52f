# SPDX-License-Identifier: Apache-2.0
"""RFC 3161: our reader against OpenSSL's authority and against another reader."""

from __future__ import annotations

import datetime as dt
import subprocess
from pathlib import Path

import pytest
import rfc3161_client
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from packager.errors import BadSignatureError, PackagerError, UntrustedTimeError
from packager.formats import der
from packager.trust import timestamps
from tests.sigstore.stamping import StampingAuthority, crafted
from tests.support import pki
from tests.support.breadth import examples
from tests.support.tools import tool

ROOT = pki.root("tsa-root")
TSA = ROOT.issue("tsa", purposes=[pki.STAMPING], critical=True)
MESSAGE = b"a signature"


@pytest.fixture(scope="module")
def response(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return StampingAuthority(TSA, tmp_path_factory.mktemp("tsa")).answer(timestamps.encode_request(MESSAGE, 42))


def test_a_request_is_what_openssl_reads(tmp_path: Path) -> None:
    (tmp_path / "q").write_bytes(timestamps.encode_request(MESSAGE, 2**63 - 1))
    text = subprocess.run(
        [tool("openssl"), "ts", "-query", "-in", tmp_path / "q", "-text"], capture_output=True, text=True, check=True
    ).stdout
    assert "Hash Algorithm: sha256" in text
    assert "Nonce: 0x7FFFFFFFFFFFFFFF" in text
    assert "Certificate required: yes" in text


def test_timestamp_time_equals_that_of_openssl(response: bytes) -> None:
    stamp = timestamps.parse(response)
    theirs = rfc3161_client.decode_timestamp_response(response)
    verifier = rfc3161_client.VerifierBuilder().add_root_certificate(ROOT.certificate).build()
    assert verifier.verify_message(theirs, MESSAGE)
    assert timestamps.verify(stamp, MESSAGE, [ROOT.certificate]) == theirs.tst_info.gen_time
    assert (stamp.nonce, stamp.imprint) == (42, theirs.tst_info.message_imprint.message)


def test_crafted_timestamp_is_valid_for_openssl_too() -> None:
    made = crafted(TSA, MESSAGE, dt.datetime(2027, 1, 1, tzinfo=dt.UTC))
    verifier = rfc3161_client.VerifierBuilder().add_root_certificate(ROOT.certificate).build()
    assert verifier.verify_message(rfc3161_client.decode_timestamp_response(made), MESSAGE)
    timestamps.verify(timestamps.parse(made), MESSAGE, [ROOT.certificate])


def test_the_pinned_authority_itself_is_enough(response: bytes) -> None:
    timestamps.verify(timestamps.parse(response), MESSAGE, [TSA.certificate])


def test_an_rsa_authority(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    builder = x509.CertificateBuilder(
        ROOT.certificate.subject, pki.name("rsa"), key.public_key(), 5, pki.NOW - pki.DAY, pki.NOW + pki.DAY
    )
    builder = builder.add_extension(x509.ExtendedKeyUsage([pki.STAMPING]), True)
    holder = pki.Holder(key, builder.sign(ROOT.key, hashes.SHA256()))  # type: ignore[arg-type]
    made = StampingAuthority(holder, tmp_path).answer(timestamps.encode_request(MESSAGE, 1))
    timestamps.verify(timestamps.parse(made), MESSAGE, [ROOT.certificate])


def test_untrusted_signer(response: bytes) -> None:
    with pytest.raises(UntrustedTimeError):
        timestamps.verify(timestamps.parse(response), MESSAGE, [pki.root("tsa-root").certificate])
    with pytest.raises(BadSignatureError):
        timestamps.verify(timestamps.parse(response), b"another signature", [ROOT.certificate])


def test_every_flipped_byte_is_refused_or_changes_nothing(response: bytes) -> None:
    """Some bytes of a CMS message are not signed; whatever is accepted must state the same time."""
    good = timestamps.verify(timestamps.parse(response), MESSAGE, [ROOT.certificate])
    accepted = 0
    for position in range(len(response)):
        changed = bytearray(response)
        changed[position] ^= 0x04
        try:
            assert timestamps.verify(timestamps.parse(bytes(changed)), MESSAGE, [ROOT.certificate]) == good
            accepted += 1
        except (ValueError, PackagerError):
            pass
    assert accepted < len(response) // 20


@given(st.binary(max_size=300))
@settings(max_examples=examples(300))
def test_garbage_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        timestamps.parse(data)


@given(st.integers(0, 2**80))
def test_integers_round_trip(number: int) -> None:
    value = der.parse(der.write_integer(number)).of(der.INTEGER)
    assert int.from_bytes(value.content, signed=True) == number


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x80\x00\x00",
        b"\x30\x81\x01\x00",
        b"\x30\x82\x00\x01\x00",
        b"\x30\x01",
        b"\x1f\x01\x00",
        b"\x30\x00\x00",
        b"\x30\x85\x01\x00\x00\x00\x00",
    ],
)
def test_der_has_one_spelling(data: bytes) -> None:
    with pytest.raises(ValueError):
        der.parse(data)
