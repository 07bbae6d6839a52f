# SPDX-License-Identifier: Apache-2.0
"""A time stamping authority: OpenSSL answers RFC 3161 queries with a certificate of ours.

`crafted` is for what OpenSSL refuses to do: other times, and certificates that are not for time stamping.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from packager.formats import der
from tests.support.pki import Holder
from tests.support.tools import tool

_SHA256, _ECDSA = der.write_oid("2.16.840.1.101.3.4.2.1"), der.write_oid("1.2.840.10045.4.3.2")

_CONFIG = """[tsa]
default_tsa=one
[one]
serial={folder}/serial
crypto_device=builtin
signer_cert={folder}/tsa.pem
signer_key={folder}/tsa.key
signer_digest=sha256
default_policy=1.3.6.1.4.1.57264.2
digests=sha256,sha384,sha512
accuracy=secs:1
ordering=no
tsa_name=no
ess_cert_id_alg=sha256
"""


class StampingAuthority:
    """Signs times with `holder`'s key."""

    def __init__(self, holder: Holder, folder: Path) -> None:
        self._openssl = tool("openssl")
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        holder.save(folder, "tsa")
        (folder / "serial").write_text("01\n")
        (folder / "tsa.cnf").write_text(_CONFIG.format(folder=folder))

    def answer(self, query: bytes) -> bytes:
        """Return the response to a query; both are DER."""
        work = Path(tempfile.mkdtemp(dir=self._folder))
        (work / "query").write_bytes(query)
        command = [
            self._openssl,
            "ts",
            "-reply",
            "-config",
            str(self._folder / "tsa.cnf"),
            "-queryfile",
            str(work / "query"),
            "-out",
            str(work / "reply"),
        ]
        subprocess.run(command, check=True, capture_output=True)
        reply = (work / "reply").read_bytes()
        shutil.rmtree(work)
        return reply


def _sequence(*parts: bytes) -> bytes:
    return der.encode(der.SEQUENCE, *parts)


def _octets(data: bytes) -> bytes:
    return der.encode(der.OCTETS, data)


def crafted(holder: Holder, message: bytes, at: dt.datetime) -> bytes:
    """Return a well-formed response that states `at`, made with any certificate (RFC 3161, RFC 5652)."""
    imprint = _sequence(_sequence(_SHA256, der.encode(der.NULL)), _octets(hashlib.sha256(message).digest()))
    when = der.encode(der.TIME, f"{at:%Y%m%d%H%M%S}Z".encode())
    info = _sequence(der.write_integer(1), der.write_oid("1.2.3.4"), imprint, der.write_integer(7), when)
    kind = der.write_oid("1.2.840.113549.1.9.16.1.4")
    named = _sequence(_sequence(_sequence(_octets(hashlib.sha256(holder.der).digest()))))
    attributes = sorted(
        _sequence(der.write_oid(name), der.encode(der.SET, value))
        for name, value in (
            ("1.2.840.113549.1.9.3", kind),
            ("1.2.840.113549.1.9.4", _octets(hashlib.sha256(info).digest())),
            ("1.2.840.113549.1.9.16.2.47", named),
        )
    )
    signature = holder.key.sign(der.encode(der.SET, *attributes), ec.ECDSA(hashes.SHA256()))
    certificate: x509.Certificate = holder.certificate
    who = _sequence(certificate.issuer.public_bytes(), der.write_integer(certificate.serial_number))
    algorithm = _sequence(_SHA256)
    signer = _sequence(
        der.write_integer(1), who, algorithm, der.encode(0xA0, *attributes), _sequence(_ECDSA), _octets(signature)
    )
    signed = _sequence(
        der.write_integer(3),
        der.encode(der.SET, algorithm),
        _sequence(kind, der.encode(0xA0, _octets(info))),
        der.encode(0xA0, holder.der),
        der.encode(der.SET, signer),
    )
    token = _sequence(der.write_oid("1.2.840.113549.1.7.2"), der.encode(0xA0, signed))
    return _sequence(_sequence(der.write_integer(0)), token)
