# SPDX-License-Identifier: Apache-2.0
"""Make the exact inputs of admission: signed and forged bundles, policies with the key in them, and what is expected.

    python -m tests.make_admission_vectors      writes conformance/vectors/admission/

`run.py` there lets whatever tools are on PATH judge them. The private keys are thrown away.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packager import canonical
from packager.bundle.bundle import Bundle
from packager.deploy.renderers import _admission
from packager.formats import dsse
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport.copy import save
from packager.trust import keys
from packager.trust.model import KeySigner, Trust
from tests.support import bundles

TARGET = Path(__file__).parents[1] / "conformance" / "vectors" / "admission"
SIGNED = {"signed": True, "signed-by-two": True}
POD = """apiVersion: v1
kind: Pod
metadata: {name: serving, namespace: default}
spec:
  containers:
  - {name: server, image: "@HOST@/admission/@CASE@/tiny:1.0.0"}
  volumes:
  - name: model
    image: {reference: "@HOST@/admission/@CASE@/tiny@@DIGEST@"}
"""
TOOLS: dict[str, tuple[list[str], str | None, str]] = {  # command, what it says of every bundle or None, note
    "packager verify": (
        ["packager", "verify", "oci://@HOST@/admission/@CASE@/tiny:1.0.0", "--key", "release.pub"],
        None,
        "",
    ),
    "cosign verify-attestation": (
        [
            *("cosign", "verify-attestation", "--type", "urn:packager:bundle:v1", "--key", "release.pub"),
            *("--insecure-ignore-tlog", "--allow-http-registry", "@HOST@/admission/@CASE@/tiny:1.0.0"),
        ],
        None,
        "",
    ),
    "cosign verify": (
        [
            *("cosign", "verify", "--key", "release.pub", "--insecure-ignore-tlog", "--allow-http-registry"),
            "@HOST@/admission/@CASE@/tiny:1.0.0",
        ],
        None,
        "",
    ),
    "kyverno apply": (
        ["kyverno", "apply", "kyverno.yaml", "--resource", "pod.yaml", "--registry"],
        None,
        "containers and image volumes",
    ),
    "policy-tester": (
        ["policy-tester", "--policy", "policy-controller.yaml", "--image", "@HOST@/admission/@CASE@/tiny@@DIGEST@"],
        "refused",
        "keys in cosign's first form only",
    ),
    "oras pull": (
        ["oras", "pull", "--plain-http", "--output", "@OUT@", "@HOST@/admission/@CASE@/tiny:1.0.0"],
        "accepted",
        "reads, judges nothing",
    ),
    "modctl pull": (
        ["modctl", "pull", "--plain-http", "@HOST@/admission/@CASE@/tiny:1.0.0"],
        "accepted",
        "reads, judges nothing",
    ),
    "kit inspect": (
        ["kit", "inspect", "--remote", "--plain-http", "@HOST@/admission/@CASE@/tiny:1.0.0"],
        "accepted",
        "reads, judges nothing",
    ),
}


def main(target: Path) -> None:
    """Write bundles, keys, policies and the expected verdicts."""
    target.mkdir(parents=True, exist_ok=True)
    release, stranger = keys.generate_key("p256"), keys.generate_key("p256")
    with tempfile.TemporaryDirectory() as name:
        made = _bundles(Store(Path(name)), release, stranger)
        for case, bundle in made.items():
            (target / f"{case}.tar").unlink(missing_ok=True)
            save(bundle, target / f"{case}.tar")
    (target / "release.pub").write_bytes(release.public.pem)
    (target / "pod.yaml").write_text(POD)
    trust = Trust((KeySigner("release", release.public),))
    for kind in ("kyverno", "policy-controller"):
        options = {"admission-scope": "registry.example/admission", "namespace": ""}
        for path, data in _admission.build_files(kind, "models", trust, (), options).items():
            (target / Path(path).name).write_text(data.decode().replace("registry.example", "@HOST@"))
    rows = {
        tool: {
            "command": command,
            "expected": {case: always or ("accepted" if case in SIGNED else "refused") for case in made},
            "note": note,
        }
        for tool, (command, always, note) in TOOLS.items()
    }
    (target / "expected.json").write_text(json.dumps({"bundles": list(made), "tools": rows}, indent=1) + "\n")


def _bundles(store: Store, release: keys.PrivateKey, stranger: keys.PrivateKey) -> dict[str, Bundle]:
    bundle = bundles.make(store)
    other = sign(bundles.make(store, {"model/model.onnx": b"another"}, version="1.0.1"), release)
    return {
        "signed": sign(bundle, release),
        "signed-by-two": sign(sign(bundle, stranger), release),
        "unsigned": bundle,
        "by-a-stranger": sign(bundle, stranger),
        "of-another-bundle": _with(bundle, other, lambda document: None),
        "rewritten": _with(bundle, sign(bundle, release), _rewrite),
        "signature-changed": _with(bundle, sign(bundle, release), _bend),
        "under-our-name": _with(bundle, sign(bundle, stranger), lambda document: _rename(document, release)),
    }


def _with(bundle: Bundle, signed: Bundle, change: Callable[[Any], object]) -> Bundle:
    """Return `bundle` with the signatures of another one attached, each changed."""
    for content in signed.pending.values():
        if b"dsseEnvelope" in content:
            document = json.loads(content)
            change(document)
            bundle = bundle.with_statement(canonical.dump(document), "forged")
    return bundle


def _rewrite(document: Any) -> None:
    statement = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
    statement["predicate"]["more"] = "x"
    document["dsseEnvelope"]["payload"] = dsse.encode(canonical.dump(statement))


def _bend(document: Any) -> None:
    (row,) = document["dsseEnvelope"]["signatures"]
    data = bytearray(base64.b64decode(row["sig"]))
    data[-1] ^= 1
    row["sig"] = dsse.encode(bytes(data))


def _rename(document: Any, release: keys.PrivateKey) -> None:
    document["verificationMaterial"]["publicKey"]["hint"] = release.public.fingerprint


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else TARGET)
