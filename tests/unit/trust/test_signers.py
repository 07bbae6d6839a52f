# SPDX-License-Identifier: Apache-2.0
"""Signers refuse half a location before they touch a key, a token or the network."""

from __future__ import annotations

from pathlib import Path

import pytest

from packager.errors import UsageError
from packager.trust.signers import certificate, key_pkcs11, keyless
from tests.support import pki

MODULE = "module-path=/usr/lib/softhsm/libsofthsm2.so"


@pytest.mark.parametrize(
    "location",
    [
        "",
        "token=a",
        "token=a;object=b",
        f"object=b?{MODULE}",
        f"token=a?{MODULE}",
        f"token=a;object=b;colour=red?{MODULE}",
        f"token=a;object=b?{MODULE}&pin-value=1234",
        f"token=a;object=b?{MODULE}&pin-source=file",
    ],
)
def test_half_a_token_uri(location: str) -> None:
    with pytest.raises(UsageError) as caught:
        key_pkcs11.open_signer(location, lambda: None)
    assert caught.value.hint


def test_a_token_without_a_module_or_pin() -> None:
    for location, secret in (("token=a;object=b?module-path=/nothing.so", b"1"), (f"token=a;object=b?{MODULE}", None)):
        with pytest.raises(UsageError):
            key_pkcs11.open_signer(location, lambda s=secret: s).sign(b"")  # type: ignore[misc]


def test_half_a_certificate(tmp_path: Path) -> None:
    private, public = pki.root().signer().save(tmp_path, "leaf")
    for location in (
        f"{public}",
        f"{public}?chain=x",
        f"{public}?key={private}&colour=red",
        f"?key={private}",
        f"{private}?key={private}",
    ):
        with pytest.raises(UsageError):
            certificate.open_signer(location, lambda: None)
    certificate.open_signer(f"{public}?key={private}", lambda: None)
    certificate.open_signer(f"{public}?key=key:{private}", lambda: None)


def test_the_root_does_not_travel(tmp_path: Path) -> None:
    root = pki.root()
    private, public = root.signer().save(tmp_path, "leaf")
    (tmp_path / "chain.pem").write_bytes(root.pem)
    signer = certificate.open_signer(f"{public}?key={private}&chain={tmp_path / 'chain.pem'}", lambda: None)
    assert isinstance(signer, certificate.CertificateHolder)
    assert len(signer.chain) == 1


def test_no_trust_configuration(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("{}")
    for location in (str(tmp_path / "missing"), str(tmp_path / "config")):
        with pytest.raises(UsageError, match="trust configuration"):
            keyless.open_signer(location, lambda: b"x")
