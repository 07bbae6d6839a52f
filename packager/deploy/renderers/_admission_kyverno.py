# SPDX-License-Identifier: Apache-2.0
"""Kyverno's ImageValidatingPolicy, and for a pinned Sigstore instance the TUF repository that Kyverno reads it from.

Kyverno 1.19 looks at containers, and at image volumes where an expression names them. It takes a pinned instance from a
TUF mirror only: an inlined trusted root still asks the public one. Without a `ctlog` block every statement needs an
entry of a transparency log and a certificate with a promise of a certificate log, so an instance has to have both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from packager.canonical import JSON
from packager.deploy.renderers import _tuf
from packager.deploy.renderers._admission_request import (
    EVERYTHING,
    Request,
    describe_identity,
    encode,
    is_p384,
    refuse,
)
from packager.deploy.renderers._deployment import yaml_text
from packager.errors import UsageError
from packager.trust.model import CertificateSigner, KeylessSigner, KeySigner, Signer

_LISTS = ("containers", "initContainers", "ephemeralContainers", "volumes")
_VOLUMES = "object.spec.?volumes.orValue([]).filter(v, has(v.image)).map(v, v.image.reference)"
_NEEDED = {
    "certificateAuthorities": "certificate authority",
    "tlogs": "transparency log",
    "ctlogs": "log of certificates",
}
_MIRROR = "such as --admission-mirror http://sigstore-tuf.kyverno.svc, where OUT/admission/tuf/ will be served"
_KEY = "make one with `packager keygen tuf`, keep it for the next rendering, and give --admission-key tuf.pem"
_FOLDER = "admission/tuf"
TUF_ROOT = f"{_FOLDER}/1.root.json"


@dataclass(frozen=True, slots=True)
class _Mirror:
    """Where Kyverno finds an instance: a URL, and the first root metadata of the repository there."""

    url: str
    root: bytes


def write_kyverno(request: Request) -> dict[str, bytes]:
    """Return the policy, and the files of a TUF repository if a signer is of a pinned instance, by path."""
    repository = _build_repository(request)
    mirror = _Mirror(request.mirror.rstrip("/"), repository["1.root.json"]) if repository else None
    attestors = [_attestor(f"signer{number}", signer, mirror) for number, signer in enumerate(request.signers)]
    policy = {
        "apiVersion": "policies.kyverno.io/v1beta1",
        "kind": "ImageValidatingPolicy",
        "metadata": {"name": f"{request.name}-signed"},
        "spec": _spec(request, attestors),
    }
    files = {f"{_FOLDER}/{path}": data for path, data in repository.items()}
    return {"admission/kyverno.yaml": yaml_text(policy), **files}


def _spec(request: Request, attestors: list[JSON]) -> JSON:
    scopes, namespace = request.scopes, request.namespace
    listed = ", ".join(f"attestors.{entry['name']}" for entry in attestors)
    judged = "" if EVERYTHING in scopes else f".filter(image, {' || '.join(map(_inside, scopes))})"
    resources = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["pods", "pods/ephemeralcontainers"],
    }
    where = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}} if namespace else {}
    globs = [glob for scope in scopes for glob in _globs(scope)]
    return {
        "failurePolicy": "Fail",
        "validationActions": ["Deny"],
        "evaluation": {"background": {"enabled": False}},
        "matchConstraints": {**where, "resourceRules": [resources]},
        "matchImageReferences": [{"glob": glob} for glob in globs],
        "validationConfigurations": {"mutateDigest": False, "verifyDigest": False, "required": False},
        "images": [{"name": "volumes", "expression": _VOLUMES}],
        "attestors": attestors,
        "validations": [
            {
                "expression": f"images.{kind}{judged}"
                f".map(image, verifyImageSignatures(image, [{listed}])).all(count, count > 0)",
                "message": f"an image among the pod's {kind} is not signed by a trusted signer",
            }
            for kind in _LISTS
        ],
    }


def _attestor(name: str, signer: Signer, mirror: _Mirror | None) -> JSON:
    """Return a signer as Kyverno knows it."""
    if isinstance(signer, KeySigner):
        algorithm = {"hashAlgorithm": "sha384"} if is_p384(signer.key) else {}
        ignored = {"insecureIgnoreTlog": True, "insecureIgnoreSCT": True}
        return {"name": name, "cosign": {"key": {"data": signer.key.pem.decode(), **algorithm}, "ctlog": ignored}}
    if isinstance(signer, CertificateSigner):
        hint = "sign with a key as well, or use --admission policy.json"
        raise refuse("kyverno", signer, "has a certificate of an organisation, which Kyverno cannot judge", hint)
    keyless = {"keyless": {"identities": [describe_identity(signer)]}}
    if signer.instance is None or mirror is None:
        return {"name": name, "cosign": keyless}
    return {"name": name, "cosign": {**keyless, "tuf": {"mirror": mirror.url, "root": {"data": encode(mirror.root)}}}}


def _build_repository(request: Request) -> dict[str, bytes]:
    """Return the TUF repository of the one pinned instance, none without one. Raises UsageError."""
    pinned = [signer for signer in request.signers if isinstance(signer, KeylessSigner) and signer.instance is not None]
    if not pinned:
        if request.mirror or request.open_key:
            raise UsageError(
                "--admission-mirror and --admission-key are for identities of a pinned Sigstore instance",
                hint="the trust names none: leave both out",
            )
        return {}
    (first, *_), trust = pinned, request.trust
    others = sorted({signer.instance for signer in pinned if signer.instance is not None})
    if len(others) > 1:
        hint = "render each with a trust file, an OUT, a mirror and a key of its own"
        raise refuse("kyverno", first, f"is of one of {len(others)} pinned instances, and a mirror holds one", hint)
    if trust.name is None or trust.expires is None or trust.serial < 1:
        hint = "make one with `packager trust init` and `trust add`; its serial and expiry become the repository's"
        raise refuse("kyverno", first, "is of a pinned Sigstore instance, which needs a trust file", hint)
    if not request.mirror:
        raise refuse(
            "kyverno", first, "is of a pinned Sigstore instance, which Kyverno reads from a TUF mirror", _MIRROR
        )
    if request.open_key is None:
        raise refuse(
            "kyverno", first, "is of a pinned Sigstore instance, and the TUF repository with it is signed", _KEY
        )
    root = trust.instances[others[0]]
    _require_logs(first, root)
    key = request.open_key()
    if is_p384(key.public):
        raise UsageError("--admission-key: expected a P-256 key, which is all that Kyverno's older client reads")
    return _tuf.build_repository(root, key, trust.serial, trust.expires)


def _require_logs(signer: KeylessSigner, root: bytes) -> None:
    """Raise UsageError for an instance that lacks what Kyverno cannot do without."""
    lacking = [text for name, text in _NEEDED.items() if not json.loads(root).get(name)]
    if lacking:
        hint = "sign with a key as well, or use --admission policy-controller"
        raise refuse("kyverno", signer, f"is of an instance without a {lacking[0]}, which Kyverno needs", hint)


def _inside(scope: str) -> str:
    """Return CEL that tells whether `image` is of a scope: a repository, or all below a host or path.

    Kyverno counts no signature for an image that it is not to match, so others of a pod have to be taken out.
    """
    rest = " || ".join(f"image.startsWith('{scope}{mark}')" for mark in ":@/")
    return f"image == '{scope}' || {rest}"


def _globs(scope: str) -> list[str]:
    return ["*"] if scope == EVERYTHING else [scope, f"{scope}:*", f"{scope}@*", f"{scope}/*"]
