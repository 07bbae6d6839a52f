# SPDX-License-Identifier: Apache-2.0
"""What makes a cluster admit only images that a trusted signer signed, for three judges of images.

    kyverno             an ImageValidatingPolicy: containers, init containers, ephemeral containers, image volumes
    policy-controller   a ClusterImagePolicy of Sigstore's, and a TrustRoot where an instance is pinned
    policy.json         the policy of CRI-O, podman and skopeo, which judge whatever a node pulls

Keys and roots are inlined, so nothing is fetched to know the signer. A signer that no longer signs (`until`) and one
that is revoked are left out: these policies have no clock. What a tool cannot judge by is refused, not left out.
Sources: Kyverno's API `policies.kyverno.io/v1beta1`, policy-controller's API, containers-policy.json(5).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence

from packager.canonical import JSON
from packager.deploy.renderers._deployment import yaml_text
from packager.errors import UsageError
from packager.formats.intoto import BUNDLE_PREDICATE
from packager.trust.keys import PublicKey
from packager.trust.model import CertificateSigner, KeylessSigner, KeySigner, Signer, Trust

EVERYTHING = "all"
SCOPE = rf"{EVERYTHING}|[a-z0-9][a-z0-9.-]*(:[0-9]{{1,5}})?(/[a-z0-9][a-z0-9._-]*)*"
_FULCIO, _REKOR = "https://fulcio.sigstore.dev", "https://rekor.sigstore.dev"
_LISTS = ("containers", "initContainers", "ephemeralContainers", "volumes")
_VOLUMES = "object.spec.?volumes.orValue([]).filter(v, has(v.image)).map(v, v.image.reference)"
_PINS = {"SHA2_256": "sha-256", "SHA2_384": "sha-384", "SHA2_512": "sha-512"}


def build_files(
    kind: str, name: str, trust: Trust, images: Sequence[str], options: Mapping[str, str]
) -> dict[str, bytes]:
    """Return the policy of a deployment called `name` by path. `images` are those of its pods.

    Raises UsageError if `trust` has no signer that the tool can judge by, or one that it cannot.
    """
    signers = [signer for signer in trust.signers if not _is_over(signer, trust)]
    if not signers:
        raise UsageError(
            f"--admission {kind}: no trusted signer is still valid", hint="add one with `packager trust add`"
        )
    given = options["admission-scope"]
    scopes = [given] if given else sorted({image.partition("@")[0] for image in images})
    return _KINDS[kind](name, signers, trust, scopes, options["namespace"])


def next_step(kind: str, namespace: str) -> str:
    """Return what to do with the files."""
    if kind == "policy.json":
        return (
            "on every node: OUT/admission/policy.json to "
            + (f"/etc/crio/policies/{namespace}.json" if namespace else "/etc/containers/policy.json")
            + ", OUT/admission/registries.yaml to /etc/containers/registries.d/"
        )
    return f"kubectl apply --server-side -f OUT/admission/{kind}.yaml"


def _is_over(signer: Signer, trust: Trust) -> bool:
    """Tell whether a signer signs no more, which these policies cannot say."""
    if isinstance(signer, KeySigner):
        revoked = signer.key.fingerprint in trust.revoked.keys
    else:
        revoked = signer.identity in trust.revoked.identities
    return revoked or signer.period.end is not None


def _unfit(kind: str, signer: Signer, why: str, hint: str) -> UsageError:
    return UsageError(f"--admission {kind}: signer `{signer.name}` {why}", hint=hint)


def _is_p384(key: PublicKey) -> bool:
    return key.key.curve.key_size > 256


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


# Kyverno


def _kyverno(
    name: str, signers: Sequence[Signer], trust: Trust, scopes: Sequence[str], namespace: str
) -> dict[str, bytes]:
    attestors = [_attestor(f"signer{number}", signer) for number, signer in enumerate(signers)]
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
    spec = {
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
    policy = {
        "apiVersion": "policies.kyverno.io/v1beta1",
        "kind": "ImageValidatingPolicy",
        "metadata": {"name": f"{name}-signed"},
        "spec": spec,
    }
    return {"admission/kyverno.yaml": yaml_text(policy)}


def _attestor(name: str, signer: Signer) -> JSON:
    """Return a signer as Kyverno knows it."""
    if isinstance(signer, KeySigner):
        algorithm = {"hashAlgorithm": "sha384"} if _is_p384(signer.key) else {}
        ignored = {"insecureIgnoreTlog": True, "insecureIgnoreSCT": True}
        return {"name": name, "cosign": {"key": {"data": signer.key.pem.decode(), **algorithm}, "ctlog": ignored}}
    if isinstance(signer, CertificateSigner):
        hint = "sign with a key as well, or use --admission policy.json"
        raise _unfit("kyverno", signer, "has a certificate of an organisation, which Kyverno cannot judge", hint)
    if signer.instance is not None:
        hint = "sign with a key as well, or use --admission policy-controller"
        raise _unfit("kyverno", signer, "is of a pinned Sigstore instance, which Kyverno reads from TUF only", hint)
    return {"name": name, "cosign": {"keyless": {"identities": [_identity(signer)]}}}


def _identity(signer: KeylessSigner) -> JSON:
    return {"issuer": signer.issuer, "subject": signer.identity}


def _globs(scope: str) -> list[str]:
    return ["*"] if scope == EVERYTHING else [scope, f"{scope}:*", f"{scope}@*", f"{scope}/*"]


def _inside(scope: str) -> str:
    """Return CEL that tells whether `image` is of a scope: a repository, or all below a host or path.

    Kyverno counts no signature for an image that it is not to match, so others of a pod have to be taken out.
    """
    rest = " || ".join(f"image.startsWith('{scope}{mark}')" for mark in ":@/")
    return f"image == '{scope}' || {rest}"


# policy-controller


def _policy_controller(
    name: str, signers: Sequence[Signer], trust: Trust, scopes: Sequence[str], namespace: str
) -> dict[str, bytes]:
    authorities, roots = [], {}
    for number, signer in enumerate(signers):
        authority: JSON = {"name": f"signer{number}"}
        if isinstance(signer, KeySigner):
            if _is_p384(signer.key):
                raise _unfit("policy-controller", signer, "has a P-384 key, which it cannot judge", "use a P-256 key")
            authority["key"] = {"data": signer.key.pem.decode(), "hashAlgorithm": "sha256"}
        elif isinstance(signer, CertificateSigner):
            hint = "sign with a key as well, or use --admission policy.json"
            raise _unfit("policy-controller", signer, "has a certificate of an organisation", hint)
        else:
            authority |= _keyless(name, signer, trust)
            if signer.instance is not None:
                roots[signer.instance] = _trust_root(f"{name}-{signer.instance}", trust.instances[signer.instance])
        authorities.append(authority)
    globs = [{"glob": glob} for scope in scopes for glob in _wide_globs(scope)]
    policy = {
        "apiVersion": "policy.sigstore.dev/v1beta1",
        "kind": "ClusterImagePolicy",
        "metadata": {"name": f"{name}-signed"},
        "spec": {"images": globs, "authorities": authorities},
    }
    documents = [*roots.values(), policy]
    return {"admission/policy-controller.yaml": b"---\n".join(map(yaml_text, documents))}


def _wide_globs(scope: str) -> list[str]:
    """Return globs of policy-controller, where `*` ends at a slash, and an image without a tag gets one."""
    return ["**"] if scope == EVERYTHING else [f"{scope}:**", f"{scope}@**", f"{scope}/**"]


def _keyless(name: str, signer: KeylessSigner, trust: Trust) -> JSON:
    """Return an authority that looks for our bundle statement, signed by an identity."""
    stated: dict[str, JSON] = {
        "signatureFormat": "bundle",
        "attestations": [{"name": "bundle", "predicateType": BUNDLE_PREDICATE}],
    }
    identities = [_identity(signer)]
    if signer.instance is None:
        return {**stated, "keyless": {"url": _FULCIO, "identities": identities}, "ctlog": {"url": _REKOR}}
    root, named = json.loads(trust.instances[signer.instance]), {"trustRootRef": f"{name}-{signer.instance}"}
    logs = [row["baseUrl"] for row in root.get("tlogs", [])]
    found = {**stated, "keyless": {**named, "identities": identities, "insecureIgnoreSCT": True}}
    if logs:
        found["ctlog"] = {**named, "url": logs[0]}
    if root.get("timestampAuthorities"):
        found["rfc3161timestamp"] = named
    return found


def _trust_root(name: str, data: bytes) -> JSON:
    """Return a Sigstore trusted root as policy-controller's object. Raises UsageError for one that is not whole."""
    try:
        root = json.loads(data)
        spec = {
            "certificateAuthorities": [_authority(row) for row in root["certificateAuthorities"]],
            "ctLogs": [_log(row) for row in root.get("ctlogs", [])],
            "tLogs": [_log(row) for row in root.get("tlogs", [])],
            "timestampAuthorities": [_authority(row) for row in root.get("timestampAuthorities", [])],
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(f"the trusted root of `{name}` is incomplete: {error}") from None
    return {
        "apiVersion": "policy.sigstore.dev/v1alpha1",
        "kind": "TrustRoot",
        "metadata": {"name": name},
        "spec": {"sigstoreKeys": {kind: rows for kind, rows in spec.items() if rows}},
    }


def _authority(row: JSON) -> JSON:
    chain = "".join(_pem(entry["rawBytes"], "CERTIFICATE") for entry in row["certChain"]["certificates"])
    subject = {kind: row["subject"].get(kind, "") for kind in ("organization", "commonName")}
    return {"subject": subject, "uri": row.get("uri", ""), "certChain": _encoded(chain.encode())}


def _log(row: JSON) -> JSON:
    key = _pem(row["publicKey"]["rawBytes"], "PUBLIC KEY")
    return {
        "baseURL": row["baseUrl"],
        "hashAlgorithm": _PINS[row["hashAlgorithm"]],
        "publicKey": _encoded(key.encode()),
    }


def _pem(text: str, label: str) -> str:
    data = _encoded(base64.b64decode(text, validate=True))
    lines = "\n".join(data[start : start + 64] for start in range(0, len(data), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"


# policy.json


def _policy_json(
    name: str, signers: Sequence[Signer], trust: Trust, scopes: Sequence[str], namespace: str
) -> dict[str, bytes]:
    accepted = [{"type": "insecureAcceptAnything"}]
    demanded = [_requirement(signers)]
    if EVERYTHING in scopes:
        policy: JSON = {"default": [{"type": "reject"}], "transports": {"docker": {"": demanded}}}
    else:
        policy = {"default": accepted, "transports": {"docker": dict.fromkeys(scopes, demanded)}}
    attached = {"use-sigstore-attachments": True}
    lookup = (
        {"default-docker": attached} if EVERYTHING in scopes else {"docker": {scope: {**attached} for scope in scopes}}
    )
    return {
        "admission/policy.json": json.dumps(policy, indent=2).encode() + b"\n",
        "admission/registries.yaml": yaml_text(lookup),
    }


def _requirement(signers: Sequence[Signer]) -> JSON:
    """Return one requirement that any of the keys meets, or the one certificate; there all requirements must be met."""
    common = {"type": "sigstoreSigned", "signedIdentity": {"type": "matchRepository"}}
    keys = [signer.key for signer in signers if isinstance(signer, KeySigner)]
    if len(keys) == len(signers):
        for signer in signers:
            if isinstance(signer, KeySigner) and _is_p384(signer.key):
                raise _unfit("policy.json", signer, "has a P-384 key, which is read with SHA-256", "use a P-256 key")
        data = [_encoded(key.pem) for key in keys]
        return {**common, "keyDatas": data} if len(data) > 1 else {**common, "keyData": data[0]}
    (first, *more) = [signer for signer in signers if not isinstance(signer, KeySigner)]
    if keys or more:
        hint = "name one of them with --key, or --ca and --identity"
        raise _unfit("policy.json", first, "is not the only one, and keys alone may be several there", hint)
    if isinstance(first, KeylessSigner):
        hint = "sign with a key as well, or use --admission policy-controller"
        raise _unfit("policy.json", first, "is a Sigstore identity, which is not written there yet", hint)
    return {**common, "pki": _pki(first)}


def _pki(signer: CertificateSigner) -> JSON:
    from packager.trust import certificates

    def text(chain: Sequence[object]) -> str:
        return _encoded("".join(certificates.encode_pem(item) for item in chain).encode())  # type: ignore[arg-type]

    found = {"caRootsData": text(signer.authorities)}
    if signer.intermediates:
        found["caIntermediatesData"] = text(signer.intermediates)
    if re.fullmatch(r"[^\s@/:]+@[^\s@/:]+", signer.identity):
        return {**found, "subjectEmail": signer.identity}
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", signer.identity):
        return {**found, "subjectHostname": signer.identity}
    hint = "use a certificate for an e-mail address or a host name, or a key"
    raise _unfit("policy.json", signer, "is neither an e-mail address nor a host name", hint)


_KINDS: Mapping[str, Callable[[str, Sequence[Signer], Trust, Sequence[str], str], dict[str, bytes]]] = {
    "kyverno": _kyverno,
    "policy-controller": _policy_controller,
    "policy.json": _policy_json,
}
KINDS = tuple(_KINDS)
