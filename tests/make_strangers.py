# SPDX-License-Identifier: Apache-2.0
"""Let other tools sign, attach, copy and save a bundle of ours, and keep what they wrote.

    python -m tests.make_strangers        writes tests/data/strangers/, with cosign, oras, skopeo and docker-registry

Nothing of ours writes these bytes but the bundle itself; `tests/unit/bundle/test_strangers.py` verifies them. Private
keys are thrown away.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from packager.cli import main as packager
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport.copy import save
from packager.trust import keys
from tests.support import bundles
from tests.support.registry_server import registry

DATA = Path(__file__).parent / "data" / "strangers"


def main(target: Path) -> None:
    """Sign with ours and with cosign, attach what others attach, and copy with oras, skopeo and tar."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = keys.generate_key("p256")
        keys.save(key, folder / "release.pem", folder / "release.pub", None)
        save(sign(bundles.make(Store(folder / "made")), key), folder / "signed.tar")
        os.environ["PACKAGER_STORE"] = str(folder / "store")
        with registry(str(shutil.which("docker-registry")), folder / "registry") as place:
            _attach(folder, place.host)
            _copy(folder, place.host)
        target.mkdir(parents=True, exist_ok=True)
        for kept in ("release.pub", "cosign.pub"):
            shutil.copy(folder / kept, target / kept)
        for kept in ("oras-layout", "oras-backup", "skopeo-archive", "tar"):
            (target / f"{kept}.tar.gz").write_bytes(gzip.compress((folder / f"{kept}.tar").read_bytes(), mtime=0))


def _attach(folder: Path, host: str) -> None:
    def run(*words: str) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "COSIGN_PASSWORD": ""}
        subprocess.run(words, cwd=folder, env=environment, check=True)

    there = f"{host}/models/tiny:1.0.0"
    assert packager(["push", str(folder / "signed.tar"), f"oci://{there}"]) == 0
    (folder / "p.json").write_text("{}")
    run("cosign", "generate-key-pair")
    run("cosign", "signing-config", "create", "--out", "none.json")
    plain = ("--key", "cosign.key", "--signing-config", "none.json", "--allow-http-registry", "--yes", there)
    run("cosign", "sign", *plain)
    run("cosign", "attest", "--type", "custom", "--predicate", "p.json", *plain)
    (folder / "notation.json").write_text('{"payload":"e30","protected":"e30","header":{},"signature":"AA"}')
    (folder / "garbage").write_bytes(b"\x89PNG\r\n\x1a\n")
    attach = ("oras", "attach", "--plain-http", there, "--artifact-type")
    run(*attach, "application/vnd.cncf.notary.signature", "notation.json:application/jose+json")
    bundle = "application/vnd.dev.sigstore.bundle.v0.3+json"
    run(*attach, bundle, f"garbage:{bundle}")
    run(*attach, "application/spdx+json", "p.json:application/json", "garbage:application/octet-stream")


def _copy(folder: Path, host: str) -> None:
    there = f"{host}/models/tiny:1.0.0"

    def run(*words: str) -> None:
        subprocess.run(words, cwd=folder, check=True)

    run("oras", "cp", "-r", "--from-plain-http", "--to-oci-layout", there, "oras:1.0.0")
    run("tar", "-C", "oras", "-cf", "oras-layout.tar", ".")
    run("oras", "backup", "--plain-http", "--include-referrers", "--output", "oras-backup.tar", there)
    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{there}", "oci-archive:skopeo-archive.tar:1.0.0")
    run("mkdir", "ours")
    run("tar", "-C", "ours", "-xf", "signed.tar")
    run("tar", "-C", "ours", "--sort=name", "-cf", "tar.tar", "blobs", "index.json", "oci-layout")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA)
