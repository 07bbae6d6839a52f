# SPDX-License-Identifier: Apache-2.0
"""What makes a cluster admit only images that a trusted signer signed, for four judges of images.

    kyverno             an ImageValidatingPolicy: containers, init containers, ephemeral containers, image volumes
    policy-controller   a ClusterImagePolicy of Sigstore's, and a TrustRoot where an instance is pinned
    connaisseur         values of its Helm chart: containers, init containers, ephemeral containers
    policy.json         the policy of CRI-O, podman and skopeo, which judge whatever a node pulls

Keys and roots are inlined, so nothing is fetched to know the signer. A signer that no longer signs (`until`) and one
that is revoked are left out: these policies have no clock. What a tool cannot judge by is refused, not left out.
Sources: Kyverno's API `policies.kyverno.io/v1beta1`, policy-controller's API, containers-policy.json(5).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence

from packager.canonical import JSON
from packager.deploy.renderers._admission_connaisseur import write_connaisseur
from packager.deploy.renderers._admission_kyverno import TUF_ROOT, write_kyverno
from packager.deploy.renderers._admission_request import (
    EVERYTHING,
    Request,
    describe_identity,
    encode,
    encode_pem,
    is_p384,
    refuse,
)
from packager.deploy.renderers._deployment import yaml_text
from packager.errors import UsageError
from packager.formats.intoto import BUNDLE_PREDICATE
from packager.trust.keys import PrivateKey
from packager.trust.model import CertificateSigner, KeylessSigner, KeySigner, Signer, Trust

SCOPE = rf"{EVERYTHING}|[a-z0-9][a-z0-9.-]*(:[0-9]{{1,5}})?(/[a-z0-9][a-z0-9._-]*)*"
_FULCIO, _REKOR = "https://fulcio.sigstore.dev", "https://rekor.sigstore.dev"
_PINS = {"SHA2_256": "sha-256", "SHA2_384": "sha-384", "SHA2_512": "sha-512"}


def build_files(
    kind: str,
    name: str,
    trust: Trust,
    images: Sequence[str],
    options: Mapping[str, str],
    open_key: Callable[[], PrivateKey] | None = None,
) -> dict[str, bytes]:
    """Return the policy of a deployment called `name` by path. `images` are those of its pods.

    `open_key` opens the key of the option `admission-key`. Raises UsageError if `trust` has no signer that the tool can
    judge by, or one that it cannot.
    """
    signers = [signer for signer in trust.signers if not _is_over(signer, trust)]
    if not signers:
        raise UsageError(
            f"--admission {kind}: no trusted signer is still valid", hint="add one with `packager trust add`"
        )
    if kind != "kyverno" and (options.get("admission-mirror") or open_key):
        raise UsageError(f"--admission-mirror and --admission-key are for `kyverno`, not for `{kind}`")
    given = options["admission-scope"]
    scopes = [given] if given else sorted({image.partition("@")[0] for image in images})
    return _KINDS[kind](
        Request(
            name,
            signers,
            trust,
            scopes,
            options["namespace"],
            options.get("variant", ""),
            options.get("admission-mirror", ""),
            open_key,
        )
    )


def list_steps(kind: str, files: Collection[str], options: Mapping[str, str]) -> tuple[str, ...]:
    """Return what to do with the files."""
    if kind == "policy.json":
        namespace = options["namespace"]
        place = f"/etc/crio/policies/{namespace}.json" if namespace else "/etc/containers/policy.json"
        registries = "OUT/admission/registries.yaml to /etc/containers/registries.d/"
        return (f"on every node: OUT/admission/policy.json to {place}, {registries}",)
    if kind == "connaisseur":
        return (
            f"helm upgrade connaisseur CHART --namespace connaisseur -f OUT/admission/{kind}.yaml, with your own rules",
        )
    served = f"serve OUT/admission/tuf/ at {options['admission-mirror']}" if TUF_ROOT in files else ""
    return (*filter(None, [served]), f"kubectl apply --server-side -f OUT/admission/{kind}.yaml")


def _is_over(signer: Signer, trust: Trust) -> bool:
    """Tell whether a signer signs no more, which these policies cannot say."""
    if isinstance(signer, KeySigner):
        revoked = signer.key.fingerprint in trust.revoked.keys
    else:
        revoked = signer.identity in trust.revoked.identities
    return revoked or signer.period.end is not None


# policy-controller


def _policy_controller(request: Request) -> dict[str, bytes]:
    name, signers, trust, scopes = request.name, request.signers, request.trust, request.scopes
    authorities, roots = [], {}
    for number, signer in enumerate(signers):
        authority: JSON = {"name": f"signer{number}"}
        if isinstance(signer, KeySigner):
            if is_p384(signer.key):
                raise refuse("policy-controller", signer, "has a P-384 key, which it cannot judge", "use a P-256 key")
            authority["key"] = {"data": signer.key.pem.decode(), "hashAlgorithm": "sha256"}
        elif isinstance(signer, CertificateSigner):
            hint = "sign with a key as well, or use --admission policy.json"
            raise refuse("policy-controller", signer, "has a certificate of an organisation", hint)
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
    identities = [describe_identity(signer)]
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
    chain = "".join(encode_pem(entry["rawBytes"], "CERTIFICATE") for entry in row["certChain"]["certificates"])
    subject = {kind: row["subject"].get(kind, "") for kind in ("organization", "commonName")}
    return {"subject": subject, "uri": row.get("uri", ""), "certChain": encode(chain.encode())}


def _log(row: JSON) -> JSON:
    key = encode_pem(row["publicKey"]["rawBytes"], "PUBLIC KEY")
    return {
        "baseURL": row["baseUrl"],
        "hashAlgorithm": _PINS[row["hashAlgorithm"]],
        "publicKey": encode(key.encode()),
    }


# policy.json


def _policy_json(request: Request) -> dict[str, bytes]:
    signers, scopes = request.signers, request.scopes
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
            if isinstance(signer, KeySigner) and is_p384(signer.key):
                raise refuse("policy.json", signer, "has a P-384 key, which is read with SHA-256", "use a P-256 key")
        data = [encode(key.pem) for key in keys]
        return {**common, "keyDatas": data} if len(data) > 1 else {**common, "keyData": data[0]}
    (first, *more) = [signer for signer in signers if not isinstance(signer, KeySigner)]
    if keys or more:
        hint = "name one of them with --key, or --ca and --identity"
        raise refuse("policy.json", first, "is not the only one, and keys alone may be several there", hint)
    if isinstance(first, KeylessSigner):
        hint = "sign with a key as well, or use --admission policy-controller"
        raise refuse("policy.json", first, "is a Sigstore identity, which is not written there yet", hint)
    return {**common, "pki": _pki(first)}


def _pki(signer: CertificateSigner) -> JSON:
    from packager.trust import certificates

    def text(chain: Sequence[object]) -> str:
        return encode("".join(certificates.encode_pem(item) for item in chain).encode())  # type: ignore[arg-type]

    found = {"caRootsData": text(signer.authorities)}
    if signer.intermediates:
        found["caIntermediatesData"] = text(signer.intermediates)
    if re.fullmatch(r"[^\s@/:]+@[^\s@/:]+", signer.identity):
        return {**found, "subjectEmail": signer.identity}
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", signer.identity):
        return {**found, "subjectHostname": signer.identity}
    hint = "use a certificate for an e-mail address or a host name, or a key"
    raise refuse("policy.json", signer, "is neither an e-mail address nor a host name", hint)


_KINDS: Mapping[str, Callable[[Request], dict[str, bytes]]] = {
    "kyverno": write_kyverno,
    "policy-controller": _policy_controller,
    "policy.json": _policy_json,
    "connaisseur": write_connaisseur,
}
KINDS = tuple(_KINDS)
