# SPDX-License-Identifier: Apache-2.0
"""The services over HTTP, and the configuration that makes clients use them."""

from __future__ import annotations

import base64
import datetime as dt
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from packager.formats import der
from tests.sigstore.log import JSON, CertificateLog, Rekor, b64, key_id, spki
from tests.sigstore.stamping import StampingAuthority
from tests.support import pki

MINUTES = 10  # a certificate is valid for so long
_UTF8 = 0x0C
_CLAIMS = {"repository_uri": "12", "sha": "13", "ref": "14", "workflow_uri": "18"}  # below 1.3.6.1.4.1.57264.1


class Sigstore:
    """An instance; `url` answers while the block lasts."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        handler = type("Handler", (_Handler,), {"instance": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.fulcio = pki.root("fulcio")
        stamping_root = pki.root("tsa-root")
        stamper = stamping_root.issue("tsa", purposes=[pki.STAMPING], critical=True)
        self.stamping = [stamper, stamping_root]
        self.tsa = StampingAuthority(stamper, folder / "tsa")
        self.rekor, self.ct = Rekor("127.0.0.1"), CertificateLog()
        self.issuer = ec.generate_private_key(ec.SECP256R1())
        self.trust_config, self.trusted_root = folder / "trust_config.json", folder / "trusted_root.json"
        root, signing = self._trusted_root(), self._signing_config()
        self.trusted_root.write_text(json.dumps(root, indent=1))
        (folder / "signing_config.json").write_text(json.dumps(signing, indent=1))
        kind = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
        self.trust_config.write_text(
            json.dumps({"mediaType": kind, "trustedRoot": root, "signingConfig": signing}, indent=1)
        )

    def __enter__(self) -> Sigstore:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Switch everything off; whatever verifies afterwards verifies offline."""
        self._server.shutdown()
        self._server.server_close()

    def token(self, identity: str, **claims: str) -> str:
        """Return an identity token: for an e-mail address, or a subject that is a URI."""
        now = int(time.time())
        who = {"sub": identity} | ({"email": identity} if "@" in identity and "//" not in identity else {})
        full = {**who, **claims, "aud": "sigstore", "iss": self.url, "iat": now, "nbf": now, "exp": now + 600}
        return jwt.encode(full, self.issuer, algorithm="ES256")

    # the services

    def certify(self, body: JSON, token: str) -> JSON:
        """Fulcio: check the token and the proof of possession, issue a short-lived certificate."""
        claims = jwt.decode(token, self.issuer.public_key(), algorithms=["ES256"], audience="sigstore", issuer=self.url)
        request = x509.load_pem_x509_csr(base64.b64decode(str(body["certificateSigningRequest"])))
        assert request.is_signature_valid
        leaf = self.issue(request.public_key(), claims)
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": [leaf.decode(), self.fulcio.pem.decode()]}}}

    def issue(self, public: object, claims: dict[str, str]) -> bytes:
        """Return a certificate (PEM) with the CT log's promise in it."""
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        builder = self._leaf(public, claims, now)
        issuer = self.fulcio.key.public_key()
        content = builder.sign(self.fulcio.key, hashes.SHA256()).tbs_certificate_bytes
        builder = builder.add_extension(self.ct.promise(issuer, content, int(now.timestamp() * 1000)), False)
        return builder.sign(self.fulcio.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _leaf(self, public: object, claims: dict[str, str], now: dt.datetime) -> x509.CertificateBuilder:
        identity = claims.get("email") or claims["sub"]
        san = x509.RFC822Name(identity) if "email" in claims else x509.UniformResourceIdentifier(identity)
        assert isinstance(public, ec.EllipticCurvePublicKey)
        builder = (
            x509.CertificateBuilder(
                self.fulcio.certificate.subject,
                x509.Name([]),
                public,
                x509.random_serial_number(),
                now,
                now + dt.timedelta(minutes=MINUTES),
            )
            .add_extension(x509.KeyUsage(True, False, False, False, False, False, False, False, False), True)
            .add_extension(x509.ExtendedKeyUsage([pki.CODE_SIGNING]), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.fulcio.key.public_key()), False)
            .add_extension(x509.SubjectAlternativeName([san]), True)  # critical, because the subject is empty
            .add_extension(_extension("1", self.url.encode()), False)
            .add_extension(_extension("8", der.encode(_UTF8, self.url.encode())), False)
        )
        for claim, number in _CLAIMS.items():
            if claim in claims:
                builder = builder.add_extension(_extension(number, der.encode(_UTF8, claims[claim].encode())), False)
        return builder

    def log(self, body: JSON) -> JSON:
        with self._lock:
            return self.rekor.add(body)

    def stamp(self, query: bytes) -> bytes:
        with self._lock:
            return self.tsa.answer(query)

    # what clients are told

    def _trusted_root(self) -> JSON:
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [self._log_entry(self.rekor.key)],
            "certificateAuthorities": [self._authority([self.fulcio])],
            "ctlogs": [self._log_entry(self.ct.key)],
            "timestampAuthorities": [self._authority(self.stamping)],
        }

    def _log_entry(self, key: ec.EllipticCurvePrivateKey) -> JSON:
        public = key.public_key()
        shown = {"rawBytes": b64(spki(public)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": _since()}
        return {
            "baseUrl": self.url,
            "hashAlgorithm": "SHA2_256",
            "publicKey": shown,
            "logId": {"keyId": b64(key_id(public))},
        }

    def _authority(self, chain: list[pki.Holder]) -> JSON:
        listed = [{"rawBytes": b64(holder.der)} for holder in chain]
        subject = {"organization": "local.test", "commonName": "local"}
        return {"subject": subject, "uri": self.url, "certChain": {"certificates": listed}, "validFor": _since()}

    def _signing_config(self) -> JSON:
        def service(url: str, version: int) -> list[JSON]:
            return [{"url": url, "majorApiVersion": version, "operator": "local.test", "validFor": _since()}]

        return {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "caUrls": service(self.url, 1),
            "oidcUrls": service(self.url, 1),
            "rekorTlogUrls": service(self.url, 2),
            "tsaUrls": service(f"{self.url}/api/v1/timestamp", 1),
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaConfig": {"selector": "ANY"},
        }


def _since() -> JSON:
    return {"start": f"{pki.NOW - pki.DAY:%Y-%m-%dT%H:%M:%SZ}"}


def _extension(number: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.3.6.1.4.1.57264.1.{number}"), value)


class _Handler(BaseHTTPRequestHandler):
    instance: Sigstore

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self.path != "/.well-known/openid-configuration":
            return self._answer(404, b"{}")
        url = self.instance.url
        known = {"issuer": url, "authorization_endpoint": f"{url}/auth", "token_endpoint": f"{url}/token"}
        return self._answer(200, json.dumps(known).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            if self.path == "/api/v2/signingCert":
                token = self.headers["Authorization"].split(" ", 1)[1]
                return self._answer(201, json.dumps(self.instance.certify(json.loads(body), token)).encode())
            if self.path == "/api/v2/log/entries":
                return self._answer(201, json.dumps(self.instance.log(json.loads(body))).encode())
            if self.path == "/api/v1/timestamp":
                return self._answer(201, self.instance.stamp(body), "application/timestamp-reply")
        except Exception as error:  # whatever a client did wrong, it hears of
            return self._answer(400, json.dumps({"message": f"{type(error).__name__}: {error}"}).encode())
        return self._answer(404, b"{}")

    def _answer(self, status: int, data: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
