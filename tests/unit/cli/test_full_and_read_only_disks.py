# SPDX-License-Identifier: Apache-2.0
"""Real places that refuse: read-only, full or `noexec` file systems, names too long, files and dangling links in the
way, few descriptors, no temporary directory. Each verb that writes says so with one error; none calls it a bug."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from packager.release.sign import sign
from packager.store.store import Store
from packager.transport.copy import save
from packager.trust import keys
from tests.support import deployments, graphs

PLACES = {  # shell commands that make `place` refuse
    "ordinary": "P=place/out",
    "read-only": 'mount -t tmpfs -o ro none "$PWD/place"; P=place/out',
    "full": 'mount -t tmpfs -o size=16k none "$PWD/place"; P=place/out',
    "noexec": 'mount -t tmpfs -o noexec,size=256m none "$PWD/place"; P=place/out; export TMPDIR="$PWD/place"',
    "too long": "P=place/$(printf '%0300d' 1)",
    "file in the way": "rmdir place; touch place; P=place/out",
    "dangling link": "ln -s nowhere/at/all place/out; P=place/out",
    "link in a circle": "ln -s loop place/loop; P=place/loop/out",
    "few descriptors": "ulimit -n 12; P=place/out",
    "no temporary directory": "export TMPDIR=/nowhere; P=place/out",
}
VERBS = {
    "import": "import small.bundle.tar --key release.pub --store $P",
    "unpack": "unpack small.bundle.tar $P --key release.pub",
    "install": "install small.bundle.tar $P --key release.pub --store store2",
    "export": "export tiny:1.0.0 $P --store store",
    "render": "render systemd small.bundle.tar $P --key release.pub",
    "keygen": "keygen $P --passphrase-file passphrase",
    "sbom": "sbom small.bundle.tar -o $P",
    "build": "build real/bundle.yaml --store $P",
    "lock": "lock real/bundle.yaml --store $P",
    "init": "init small.onnx --no-look -o $P",
    "verify": "verify small.bundle.tar --key release.pub",
    "conform": "conform small.bundle.tar --key release.pub --python python3 --runtime onnxruntime --keep $P",
}
QUICK = {"unpack", "install"}
ORDINARY = {"build": 3, "lock": 3, "conform": 4}  # there is no graph to build from, no runtime to ask
REFUSES = {"read-only", "too long", "file in the way", "link in a circle"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a signed bundle, its store and its key."""
    place, key = tmp_path_factory.mktemp("hard"), keys.generate_key("p256")
    wheel = deployments.installable("kleines", "1.0", {"kleines/__init__.py": b""})
    save(sign(deployments.carrier(Store(place / "store"), kleines=wheel), key), place / "small.bundle.tar")
    (place / "release.pub").write_bytes(key.public.pem)
    (place / "passphrase").write_text("correct horse\n")
    (place / "model.onnx").write_bytes(b"no graph")
    onnx.save(graphs.GRAPHS["convolution at 18"]().graph, place / "small.onnx")
    (place / "real").mkdir()
    (place / "real" / "bundle.yaml").write_text(
        "name: real\nversion: 1.0.0\nsource: ../model.onnx\nruns-on: {onnxruntime: '>=1.17'}\n"
    )
    return place


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "verb", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in VERBS]
)
def test_a_place_that_refuses_is_told(verb: str, place: str, folder: Path, tmp_path: Path) -> None:
    script = (
        f'set -e; cp -r "$FROM/." .; mkdir place; {PLACES[place]}; set +e; "$PYTHON" -m packager {VERBS[verb]} --json'
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "FROM": str(folder), "PYTHON": sys.executable}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stderr[-2000:]
    assert done.returncode in range(6) and "Traceback" not in said and "this is a bug" not in said, said
    if place == "ordinary":
        assert done.returncode == ORDINARY.get(verb, 0), said
    if place in REFUSES and verb != "verify":
        assert done.returncode in (2, 4), f"nothing was refused: {done.stdout}"
    if done.returncode:
        told = json.loads(done.stdout)
        assert told["ok"] is False and told["error"]["hint"], done.stdout
    out = tmp_path / "place"
    left = [path.name for path in out.rglob("*") if ".staging-" in path.name] if out.is_dir() else []
    assert left == []
