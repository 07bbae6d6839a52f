# SPDX-License-Identifier: Apache-2.0
"""A TUF repository with a Sigstore trusted root in it, as Sigstore's clients read one.

    root.json, 1.root.json              the trust anchor: one key for all four roles
    timestamp.json, N.snapshot.json, N.targets.json         version N, and when they expire
    targets/SHA256.trusted_root.json    what sigstore-go, cosign 3 and Kyverno look for
    targets/SHA256.{fulcio,rekor,ctfe}-I.{crt.pem,pub}      the same roots and keys for clients before trusted roots

The same trusted root, key, version and expiry give the same bytes: signatures are deterministic, and there is no clock.
Sources: TUF 1.0.33; sigstore-go 1.3 `pkg/tuf` (consistent snapshots, targets below `targets/`); sigstore 1.10
`pkg/tuf` (`custom.sigstore.usage` and `status` of a target).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from packager.canonical import JSON
from packager.deploy.renderers._admission_request import encode_pem
from packager.errors import MissingToolError, UsageError
from packager.trust.keys import PrivateKey

ROOT_EXPIRES = datetime(2100, 1, 1, tzinfo=UTC)  # freshness is the timestamp's: one key signs both
_ROLES = ("root", "timestamp", "snapshot", "targets")


def build_repository(trusted_root: bytes, key: PrivateKey, version: int, expires: datetime) -> dict[str, bytes]:
    """Return the files of a repository by path. `version` is that of everything but the root, which is version 1.

    Raises UsageError for a trusted root that is not whole, MissingToolError without the library `tuf`.
    """
    metadata = _library("tuf.api.metadata")
    files: dict[str, bytes] = {}
    targets = metadata.Targets(version=version, expires=expires)
    for name, data, custom in _list_targets(trusted_root):
        target = metadata.TargetFile.from_data(name, data, ["sha256"])
        target.unrecognized_fields.update({"custom": custom} if custom else {})
        targets.targets[name] = target
        files[f"targets/{target.hashes['sha256']}.{name}"] = data
    snapshot = metadata.Snapshot(version=version, expires=expires)
    snapshot.meta["targets.json"] = metadata.MetaFile(version)
    timestamp = metadata.Timestamp(version=version, expires=expires)
    timestamp.snapshot_meta = metadata.MetaFile(version)
    signer = _make_signer(key)
    root = metadata.Root(version=1, expires=ROOT_EXPIRES, consistent_snapshot=True)
    for role in _ROLES:
        root.add_key(signer.public_key, role)
    signed = {
        "1.root.json": root,
        "timestamp.json": timestamp,
        f"{version}.snapshot.json": snapshot,
        f"{version}.targets.json": targets,
    }
    for path, content in signed.items():
        document = metadata.Metadata(content)
        document.sign(signer)
        files[path] = document.to_bytes()
    return {**files, "root.json": files["1.root.json"]}


def _list_targets(trusted_root: bytes) -> list[tuple[str, bytes, JSON]]:
    """Return name, content and custom metadata of every target."""
    try:
        return [("trusted_root.json", trusted_root, None), *_list_parts(json.loads(trusted_root))]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(f"the trusted root of the pinned instance is incomplete: {error!r}") from None


def _list_parts(root: Mapping[str, JSON]) -> Iterator[tuple[str, bytes, JSON]]:
    for number, row in enumerate(root.get("certificateAuthorities", [])):
        chain = "".join(encode_pem(entry["rawBytes"], "CERTIFICATE") for entry in row["certChain"]["certificates"])
        yield f"fulcio-{number}.crt.pem", chain.encode(), _custom("Fulcio", row.get("validFor", {}))
    for member, name, usage in (("tlogs", "rekor", "Rekor"), ("ctlogs", "ctfe", "CTFE")):
        for number, row in enumerate(root.get(member, [])):
            public = row["publicKey"]
            data = encode_pem(public["rawBytes"], "PUBLIC KEY").encode()
            yield f"{name}-{number}.pub", data, _custom(usage, public.get("validFor", {}))


def _custom(usage: str, period: Mapping[str, str]) -> JSON:
    """Return what tells older clients what a target is for; one with an end signs no more."""
    return {"sigstore": {"usage": usage, "status": "Expired" if "end" in period else "Active"}}


def _make_signer(key: PrivateKey) -> Any:
    """Return a signer of TUF metadata whose signatures are deterministic (RFC 6979)."""
    signers = _library("securesystemslib.signer")
    public = signers.SSlibKey.from_crypto(key.public.key)

    class Deterministic(signers.Signer):  # type: ignore[misc, name-defined]
        @property
        def public_key(self) -> Any:
            return public

        @classmethod
        def from_priv_key_uri(cls, *_: object) -> Any:
            raise TypeError("a signer is made of an opened key")  # the base class wants the method, nothing calls it

        def sign(self, payload: bytes) -> Any:
            return signers.Signature(public.keyid, key.sign_bytes(payload).hex())

    return Deterministic()


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingToolError("tuf", "tuf") from error
