# SPDX-License-Identifier: Apache-2.0
"""Policies of admission: the signers are in them, every place of an image is judged, and nothing else changes.

The schemas below say what the tools' own APIs say: Kyverno's `policies.kyverno.io/v1beta1`, policy-controller's
`policy.sigstore.dev`, containers-policy.json(5). They admit no other member.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
import yaml

from packager.deploy import render
from packager.errors import UsageError
from packager.store.store import Store
from packager.trust import keys
from packager.trust.model import CertificateSigner, KeylessSigner, KeySigner, Period, Revocations, Trust
from tests.support import pki
from tests.support.deployments import DIGEST, OPTIONS, carrier, rendered, snapshot, values

KEY, OTHER, WIDE = (keys.generate_key(curve).public for curve in ("p256", "p256", "p384"))
ROOT = pki.root()
IDENTITY, ISSUER = "release@example.com", "https://issuer.example.com"
TEXT = {"type": "string", "minLength": 1}


def closed(required: dict, **optional: object) -> dict:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **optional},
        "additionalProperties": False,
    }


def rows(item: dict) -> dict:
    return {"type": "array", "minItems": 1, "items": item}


META = closed({"name": {"type": "string", "pattern": "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"}})
KEYLESS_IDENTITY = closed({"issuer": TEXT, "subject": TEXT})
COSIGN = {
    "oneOf": [
        closed(
            {
                "key": closed({"data": TEXT}, hashAlgorithm={"enum": ["sha256", "sha384"]}),
                "ctlog": closed({"insecureIgnoreTlog": {"const": True}, "insecureIgnoreSCT": {"const": True}}),
            }
        ),
        closed(
            {"keyless": closed({"identities": rows(KEYLESS_IDENTITY)})},
            tuf=closed({"mirror": {"type": "string", "pattern": "^https?://"}, "root": closed({"data": TEXT})}),
        ),
    ]
}
KYVERNO = closed(
    {
        "apiVersion": {"const": "policies.kyverno.io/v1beta1"},
        "kind": {"const": "ImageValidatingPolicy"},
        "metadata": META,
        "spec": closed(
            {
                "failurePolicy": {"enum": ["Fail", "Ignore"]},
                "validationActions": rows({"enum": ["Deny", "Audit", "Warn"]}),
                "evaluation": closed({"background": closed({"enabled": {"type": "boolean"}})}),
                "matchConstraints": closed(
                    {
                        "resourceRules": rows(
                            closed(
                                {
                                    "apiGroups": rows({"type": "string"}),
                                    "apiVersions": rows(TEXT),
                                    "operations": rows({"enum": ["CREATE", "UPDATE", "DELETE", "CONNECT"]}),
                                    "resources": rows(TEXT),
                                }
                            )
                        )
                    },
                    namespaceSelector=closed({"matchLabels": {"type": "object"}}),
                ),
                "matchImageReferences": rows(closed({"glob": TEXT})),
                "validationConfigurations": closed(
                    {name: {"type": "boolean"} for name in ("mutateDigest", "verifyDigest", "required")}
                ),
                "images": rows(closed({"name": TEXT, "expression": TEXT})),
                "attestors": rows(
                    closed({"name": {"type": "string", "pattern": "^[a-z][a-z0-9]*$"}, "cosign": COSIGN})
                ),
                "validations": rows(closed({"expression": TEXT, "message": TEXT})),
            }
        ),
    }
)
REFERENCE = {"trustRootRef": TEXT}
CONTROLLER = closed(
    {
        "apiVersion": {"const": "policy.sigstore.dev/v1beta1"},
        "kind": {"const": "ClusterImagePolicy"},
        "metadata": META,
        "spec": closed(
            {
                "images": rows(closed({"glob": {"type": "string", "pattern": r"^[a-zA-Z0-9-_:/*.@]+$"}})),
                "authorities": rows(
                    closed(
                        {"name": TEXT},
                        key=closed({"data": TEXT, "hashAlgorithm": {"const": "sha256"}}),
                        keyless=closed(
                            {"identities": rows(KEYLESS_IDENTITY)},
                            url=TEXT,
                            insecureIgnoreSCT={"type": "boolean"},
                            **REFERENCE,
                        ),
                        ctlog=closed({"url": TEXT}, **REFERENCE),
                        rfc3161timestamp=closed(REFERENCE),
                        signatureFormat={"enum": ["bundle", "legacy"]},
                        attestations=rows(closed({"name": TEXT, "predicateType": TEXT})),
                    )
                ),
            }
        ),
    }
)
AUTHORITY = closed(
    {
        "subject": closed({"organization": {"type": "string"}, "commonName": {"type": "string"}}),
        "uri": TEXT,
        "certChain": TEXT,
    }
)
LOG = closed({"baseURL": TEXT, "hashAlgorithm": TEXT, "publicKey": TEXT})
TRUST_ROOT = closed(
    {
        "apiVersion": {"const": "policy.sigstore.dev/v1alpha1"},
        "kind": {"const": "TrustRoot"},
        "metadata": META,
        "spec": closed(
            {
                "sigstoreKeys": closed(
                    {"certificateAuthorities": rows(AUTHORITY)},
                    ctLogs=rows(LOG),
                    tLogs=rows(LOG),
                    timestampAuthorities=rows(AUTHORITY),
                )
            }
        ),
    }
)
SIGNED = {
    "oneOf": [
        closed({"type": {"const": "sigstoreSigned"}, "signedIdentity": {"const": {"type": "matchRepository"}}, **one})
        for one in (
            {"keyData": TEXT},
            {"keyDatas": rows(TEXT)},
            {
                "pki": {
                    **closed({"caRootsData": TEXT}, caIntermediatesData=TEXT, subjectEmail=TEXT, subjectHostname=TEXT)
                }
            },
        )
    ]
}
CONTAINERS = closed(
    {
        "default": rows(closed({"type": {"enum": ["reject", "insecureAcceptAnything"]}})),
        "transports": closed({"docker": {"type": "object", "minProperties": 1, "additionalProperties": rows(SIGNED)}}),
    }
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory):
    return carrier(Store(tmp_path_factory.mktemp("store")))


def of_keys(*trusted: keys.PublicKey) -> Trust:
    return Trust(tuple(KeySigner(f"key{number}", key) for number, key in enumerate(trusted)))


def made(bundle, out: Path, trust: Trust | None, **options: str) -> Path:
    given = {**OPTIONS["kubernetes"], **{name.replace("_", "-"): value for name, value in options.items()}}
    render.render_directory("kubernetes", bundle, values("kubernetes", bundle), out, given, trust)
    return out


def policy(bundle, out: Path, trust: Trust, kind: str, **options: str) -> dict:
    text = (made(bundle, out, trust, admission=kind, **options) / "admission" / FILES[kind]).read_text()
    *roots, found = yaml.safe_load_all(text)
    jsonschema.validate(found, SCHEMAS[kind])
    for root in roots:
        jsonschema.validate(root, TRUST_ROOT)
    return {**found, "roots": roots} if roots else found


FILES = {
    "kyverno": "kyverno.yaml",
    "policy-controller": "policy-controller.yaml",
    "policy.json": "policy.json",
    "connaisseur": "connaisseur.yaml",
}
SCHEMAS = {"kyverno": KYVERNO, "policy-controller": CONTROLLER, "policy.json": CONTAINERS}


def test_everything_else_stays_as_it_is(bundle, tmp_path: Path) -> None:
    plain = snapshot(rendered("kubernetes", bundle, tmp_path / "plain"))
    assert snapshot(made(bundle, tmp_path / "trusted", of_keys(KEY))) == plain, "trust alone changes no byte"
    assert "admission" not in (tmp_path / "plain" / "deployment.json").read_text()
    for kind in FILES:
        found = snapshot(made(bundle, tmp_path / kind, of_keys(KEY), admission=kind))
        added = {path for path in found if path.partition("/")[0] == "admission"}
        assert f"admission/{FILES[kind]}" in added
        assert {path: found[path][1] for path in found.keys() - added - {"deployment.json"}} == {
            path: plain[path][1] for path in plain if path != "deployment.json"
        }


def test_kyverno_judges_every_place_of_an_image(bundle, tmp_path: Path) -> None:
    spec = policy(
        bundle,
        tmp_path / "out",
        of_keys(KEY, WIDE),
        "kyverno",
        variant="image-volume",
        model_image=f"r.example:5000/m@{DIGEST}",
        namespace="models",
    )["spec"]
    judged = [re.match(r"images\.(\w+)", row["expression"])[1] for row in spec["validations"]]
    assert judged == ["containers", "initContainers", "ephemeralContainers", "volumes"]
    assert "spec.?volumes" in spec["images"][0]["expression"] and spec["images"][0]["name"] == "volumes"
    (rule,) = spec["matchConstraints"]["resourceRules"]
    assert {"CREATE", "UPDATE"} <= set(rule["operations"]), "an image may be exchanged in a pod that runs"
    assert spec["matchConstraints"]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "models"}
    inlined = [row["cosign"]["key"] for row in spec["attestors"]]
    assert [keys.parse_public(row["data"].encode()).fingerprint for row in inlined] == [
        KEY.fingerprint,
        WIDE.fingerprint,
    ]
    assert [row.get("hashAlgorithm") for row in inlined] == [None, "sha384"]
    for row in spec["validations"]:
        assert "[attestors.signer0, attestors.signer1]" in row["expression"]
        assert row["expression"].endswith(".all(count, count > 0)")
    globs = {row["glob"] for row in spec["matchImageReferences"]}
    assert {"r.example:5000/m@*", "r.example:5000/m:*", "registry.example/tiny@*"} <= globs


def test_images_beyond_the_scope_are_taken_out_where_the_judge_counts_them_as_unsigned(bundle, tmp_path: Path) -> None:
    spec = policy(bundle, tmp_path / "a", of_keys(KEY), "kyverno", admission_scope="r.example/team")["spec"]
    (kept,) = {re.search(r"\.filter\(image, (.*?)\)\.map", row["expression"])[1] for row in spec["validations"]}
    inside = lambda image: eval(  # noqa: E731 - the expression's own operators, in Python's words
        kept.replace("||", "or").replace("startsWith", "startswith"), {"__builtins__": {}}, {"image": image}
    )
    for image in ("r.example/team", "r.example/team:1", f"r.example/team@{DIGEST}", "r.example/team/a:1"):
        assert inside(image)
    for image in ("r.example/teams:1", "r.example/tea", "docker.io/r.example/team", "xr.example/team"):
        assert not inside(image)
    every = policy(bundle, tmp_path / "b", of_keys(KEY), "kyverno", admission_scope="all")["spec"]
    assert every["matchImageReferences"] == [{"glob": "*"}]
    assert not any(".filter(" in row["expression"] for row in every["validations"])


def test_policy_controller_takes_keys_and_pinned_instances(bundle, tmp_path: Path) -> None:
    spec = policy(bundle, tmp_path / "a", of_keys(KEY), "policy-controller")["spec"]
    (authority,) = spec["authorities"]
    assert keys.parse_public(authority["key"]["data"].encode()).fingerprint == KEY.fingerprint
    globs = [re.compile("^" + re.escape(row["glob"]).replace(r"\*\*", ".*") + "$") for row in spec["images"]]
    matched = lambda image: any(glob.match(image) for glob in globs)  # noqa: E731
    assert matched(f"registry.example/tiny@{DIGEST}") and matched("registry.example/tiny:latest")
    assert not matched("registry.example/tinys:latest")
    root = json.dumps(trusted_root()).encode()
    trust = Trust((KeylessSigner("ci", IDENTITY, ISSUER, "lab"),), instances={"lab": root})
    found = policy(bundle, tmp_path / "b", trust, "policy-controller")
    (authority,) = found["spec"]["authorities"]
    (lab,) = found["roots"]
    assert {authority[place]["trustRootRef"] for place in ("keyless", "ctlog", "rfc3161timestamp")} == {
        lab["metadata"]["name"]
    }
    assert authority["keyless"]["identities"] == [{"issuer": ISSUER, "subject": IDENTITY}]
    assert authority["attestations"] == [{"name": "bundle", "predicateType": "urn:packager:bundle:v1"}]
    chain = lab["spec"]["sigstoreKeys"]["certificateAuthorities"][0]["certChain"]
    assert base64.b64decode(chain) == ROOT.pem
    public = keys.parse_public(base64.b64decode(lab["spec"]["sigstoreKeys"]["tLogs"][0]["publicKey"]))
    assert public.fingerprint == KEY.fingerprint
    torn = Trust(trust.signers, instances={"lab": b'{"certificateAuthorities": [{}]}'})
    with pytest.raises(UsageError, match="trusted root of `tiny-lab` is incomplete"):
        made(bundle, tmp_path / "not", torn, admission="policy-controller")


def trusted_root() -> dict:
    """A trusted root as a Sigstore instance publishes it."""
    der = base64.b64encode(ROOT.der).decode()
    authority = {
        "subject": {"organization": "lab", "commonName": "lab"},
        "uri": "https://ca.example.com",
        "certChain": {"certificates": [{"rawBytes": der}]},
    }
    lines = KEY.pem.decode().splitlines()[1:-1]
    log = {
        "baseUrl": "https://log.example.com",
        "hashAlgorithm": "SHA2_256",
        "publicKey": {"rawBytes": "".join(lines), "keyDetails": "PKIX_ECDSA_P256_SHA_256"},
    }
    return {
        "certificateAuthorities": [authority],
        "tlogs": [log],
        "ctlogs": [log],
        "timestampAuthorities": [authority],
    }


def test_containers_policy_takes_keys_or_the_roots_of_an_organisation(bundle, tmp_path: Path) -> None:
    one = policy(bundle, tmp_path / "a", of_keys(KEY), "policy.json")
    (demanded,) = one["transports"]["docker"]["registry.example/tiny"]
    assert base64.b64decode(demanded["keyData"]) == KEY.pem
    assert one["default"] == [{"type": "insecureAcceptAnything"}], "other images of a node are not of this policy"
    lookup = yaml.safe_load((tmp_path / "a" / "admission" / "registries.yaml").read_text())
    assert lookup == {"docker": {"registry.example/tiny": {"use-sigstore-attachments": True}}}
    two = policy(bundle, tmp_path / "b", of_keys(KEY, OTHER), "policy.json", admission_scope="all", namespace="models")
    ((demanded,),) = two["transports"]["docker"].values()
    assert [base64.b64decode(data) for data in demanded["keyDatas"]] == [KEY.pem, OTHER.pem]
    assert two["default"] == [{"type": "reject"}]
    between = ROOT.issue("Corp CA", ca=True).certificate
    corp = CertificateSigner("corp", (ROOT.certificate,), pki.EMAIL, intermediates=(between,))
    found = policy(bundle, tmp_path / "c", Trust((corp,)), "policy.json")
    (demanded,) = found["transports"]["docker"]["registry.example/tiny"]
    assert base64.b64decode(demanded["pki"]["caRootsData"]) == ROOT.pem
    assert demanded["pki"]["subjectEmail"] == pki.EMAIL and demanded["pki"]["caIntermediatesData"]
    host = policy(bundle, tmp_path / "d", Trust((replace(corp, identity="build.acme.example"),)), "policy.json")
    assert host["transports"]["docker"]["registry.example/tiny"][0]["pki"]["subjectHostname"] == "build.acme.example"


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not here")
@pytest.mark.parametrize("spoilt", [False, True])
def test_skopeo_reads_the_policy(spoilt: bool, bundle, tmp_path: Path) -> None:
    """It parses the whole policy before it looks at an image, and names what it does not know."""
    policy(bundle, tmp_path / "out", of_keys(KEY), "policy.json")
    place = tmp_path / "out" / "admission" / "policy.json"
    if spoilt:
        place.write_text(place.read_text().replace("keyData", "keyDat"))
    (tmp_path / "image").mkdir()
    done = subprocess.run(
        ["skopeo", "--policy", place, "copy", f"dir:{tmp_path / 'image'}", f"dir:{tmp_path / 'copy'}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("image/manifest.json" in done.stderr) is not spoilt, done.stderr
    assert ("keyDat" in done.stderr) is spoilt


CORP = CertificateSigner("corp", (ROOT.certificate,), "URI:spiffe://acme/x")


@pytest.mark.parametrize(
    ("kind", "trust", "message"),
    [
        ("kyverno", Trust((CORP,)), "`corp` has a certificate"),
        ("policy-controller", Trust((CORP,)), "`corp` has a certificate"),
        ("policy-controller", of_keys(WIDE), "P-384"),
        ("connaisseur", Trust((CORP,)), "`corp` has a certificate"),
        ("connaisseur", Trust((KeylessSigner("ci", IDENTITY, ISSUER),)), "`ci` has a certificate"),
        ("connaisseur", of_keys(WIDE), "P-384"),
        ("policy.json", of_keys(KEY, WIDE), "P-384"),
        ("policy.json", Trust((CORP,)), "neither an e-mail address"),
        ("policy.json", Trust((KeySigner("k", KEY), CORP)), "is not the only one"),
        ("policy.json", Trust((KeylessSigner("ci", IDENTITY, ISSUER),)), "Sigstore identity"),
        ("kyverno", replace(of_keys(KEY), revoked=Revocations(keys=frozenset({KEY.fingerprint}))), "no trusted signer"),
    ],
)
def test_what_a_tool_cannot_judge_by_is_refused(kind: str, trust: Trust, message: str, bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        made(bundle, tmp_path / "out", trust, admission=kind)
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


def test_signers_that_are_over_are_left_out(bundle, tmp_path: Path) -> None:
    old = KeySigner("old", OTHER, Period(end=datetime(2020, 1, 1, tzinfo=UTC)))
    spec = policy(bundle, tmp_path / "out", Trust((KeySigner("new", KEY), old)), "kyverno")["spec"]
    (attestor,) = spec["attestors"]
    assert keys.parse_public(attestor["cosign"]["key"]["data"].encode()).fingerprint == KEY.fingerprint


def test_options_are_bounded(bundle, tmp_path: Path) -> None:
    for options, message in (
        ({"admission": "gatekeeper"}, "--admission"),
        ({"admission": "kyverno", "admission_scope": "r.example/x' || true"}, "--admission-scope"),
        ({"admission_scope": "all"}, "goes with --admission"),
    ):
        with pytest.raises(UsageError, match=message):
            made(bundle, tmp_path / "out", of_keys(KEY), **options)
