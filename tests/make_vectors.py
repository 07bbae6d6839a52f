# SPDX-License-Identifier: Apache-2.0
"""Make the vectors of this version: a real bundle, signed in every way, with all that verifies it for ever.

    python -m tests.make_vectors        writes conformance/vectors/v1/<version>/, once per release

The folder is data that no later version may fail to verify (`tests/unit/bundle/test_vectors.py`). Private keys are thrown away.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import packager
from tests.e2e.conftest import CNN_RECIPE, make_model
from tests.sigstore import Sigstore
from tests.support import pki

VECTORS = Path(__file__).parents[1] / "conformance" / "vectors" / "v1"
WHO = "ci@local.test"
SCAN = "https://in-toto.io/attestation/test-result/v0.1"
KEPT = ("bundle.tar", "acme.trust", "release.pub", "root.pem", "tsa.pem", "trusted_root.json")


def main(target: Path) -> None:
    """Build, sign with a key, a certificate and an identity, and keep what a verifier needs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model("cnn", folder / "made")
        shutil.copytree(folder / "made", folder / "model")
        (folder / "bundle.yaml").write_text(CNN_RECIPE)
        with Sigstore(folder) as instance:
            verdict = _sign(folder, instance)
        target.mkdir(parents=True)
        for kept in KEPT:
            shutil.copy(folder / kept, target / kept)
        expected = {
            "digest": verdict["digest"],
            "setDigest": verdict["set_digest"],
            "at": f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}",
            "identity": {"certificate": pki.EMAIL, "keyless": WHO, "issuer": instance.url},
            "statements": sorted([s["signer"], s["predicate_type"]] for s in verdict["statements"]),
        }
        (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def _sign(folder: Path, instance: Sigstore) -> dict[str, str]:
    def run(*arguments: str | Path) -> str:
        environment = {**os.environ, "PACKAGER_STORE": str(folder / "store"), "PACKAGER_STATE": str(folder / "seen")}
        command = [sys.executable, "-m", "packager", *map(str, arguments)]
        return subprocess.run(
            command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    root = pki.root()
    middle = root.issue("Corp Signing", ca=True, length=0)
    middle.signer().save(folder, "leaf")
    for file, data in (("chain.pem", middle.pem), ("root.pem", root.pem), ("tsa.pem", instance.stamping[1].pem)):
        (folder / file).write_bytes(data)
    (folder / "token").write_text(instance.token(WHO))
    (folder / "scan.json").write_text('{"result": "PASSED", "configuration": [{"name": "vectors"}]}')
    run("lock")
    run("build", "--locked", "-o", "bundle.tar")
    run("keygen", "release")
    run("keygen", "trust-root")
    run("sign", "bundle.tar", "--key", "release.pem")
    run(
        "sign",
        "bundle.tar",
        "--certificate",
        "leaf.pem",
        "--key",
        "leaf.key",
        "--chain",
        "chain.pem",
        "--tsa",
        f"{instance.url}/api/v1/timestamp",
    )
    run("sign", "bundle.tar", "--keyless", "--trust-config", instance.trust_config, "--identity-token", "token")
    run("attest", "bundle.tar", "--predicate", "scan.json", "--type", SCAN, "--key", "release.pem")
    with_root = ("--root-key", "trust-root.pem")
    run("trust", "init", "acme.trust", "--name", "acme", *with_root)
    run("trust", "add", "acme.trust", "--signer", "release", "--key", "release.pub", *with_root)
    run(
        "trust",
        "add",
        "acme.trust",
        "--signer",
        "corp",
        "--ca",
        "root.pem",
        "--identity",
        pki.EMAIL,
        "--tsa-ca",
        "tsa.pem",
        *with_root,
    )
    run(
        "trust",
        "add",
        "acme.trust",
        "--signer",
        "ci",
        "--identity",
        WHO,
        "--issuer",
        instance.url,
        "--trust-config",
        instance.trust_config,
        *with_root,
    )
    run("trust", "add", "acme.trust", "--require", SCAN, "--by", "release", *with_root)
    verdict: dict[str, str] = json.loads(run("verify", "bundle.tar", "--trust", "acme.trust", "--json"))
    return verdict


if __name__ == "__main__":
    main(VECTORS / packager.__version__)
