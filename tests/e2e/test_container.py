# SPDX-License-Identifier: Apache-2.0
"""Rendered images: bit-identical in two builds, and serving in a container that has nothing but its loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml

from tests.e2e.conftest import Project
from tests.support.containers import Engine, inside

pytestmark = pytest.mark.slow

ASK = """
import json, sys, urllib.request
body = {"inputs": [{"name": "image", "shape": [2, 1, 8, 8], "datatype": "FP32", "data": [0.5] * 128}]}
request = urllib.request.Request("http://127.0.0.1:8000/v2/models/cnn/infer", json.dumps(body).encode())
print(json.loads(urllib.request.urlopen(request, timeout=20).read())["outputs"][0]["data"])
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def base(engine: Engine, root_filesystem: Path) -> str:
    return engine.base(root_filesystem)


def context(deployable: Project, base: str, out: Path, *more: str) -> Path:
    deployable.run("render", "container", "1.2.3.bundle.tar", out, "--key", "release.pub", "--base", base, *more)
    return out


def test_two_builds_are_one_image_and_it_serves(
    deployable: Project, engine: Engine, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From contexts rendered under another umask and at another place and time; stages `runtime` and `model` as well."""
    first = context(deployable, base, tmp_path / "first")
    before = os.umask(0o077)
    try:
        second = context(deployable, base, tmp_path / "deep" / "er" / "second")
    finally:
        os.umask(before)
    tags = [f"localhost/packager-test-{name}" for name in ("a", "b", "ra", "rb", "ma", "mb")]
    try:
        for stage, one, other in (
            ((), *tags[:2]),
            (("--target", "runtime"), *tags[2:4]),
            (("--target", "model"), *tags[4:]),
        ):
            made = engine.build(first, one, *stage), engine.build(second, other, *stage)
            assert made[0] == made[1]
            with capsys.disabled():
                print(f"\n{' '.join(stage) or 'final'}: {made[0]}")
        with engine.running(tags[0]) as (name, pid):
            assert engine.healthy(name), engine.logs(name)
            done = subprocess.run(inside(pid, sys.executable, "-c", ASK), capture_output=True, text=True, check=True)
            session = onnxruntime.InferenceSession(first / "model" / "bundle" / "model" / "model.onnx")
            expected = session.run(None, {"image": np.full((2, 1, 8, 8), 0.5, np.float32)})[0]
            np.testing.assert_allclose(json.loads(done.stdout), expected.reshape(-1), atol=1e-5, rtol=1e-4)
            status = Path(f"/proc/{pid}/status").read_text()
            assert "\nUid:\t65532\t" in status
            assert "\nCapEff:\t0000000000000000" in status
            assert "\nNoNewPrivs:\t1" in status
            routes = subprocess.run(
                inside(pid, "cat", "/proc/net/dev"), capture_output=True, text=True, check=True
            ).stdout
            assert routes.count(":") == 1, "loopback and nothing else"
            written = engine.run("podman", "exec", name, "python3", "-c", "open('/srv/x', 'w')", check=False)
            assert "Read-only file system" in written.stderr
            log = engine.logs(name)
            assert not [row for row in log.splitlines() if json.loads(row)["level"] not in ("info", "INFO")], log
    finally:
        engine.remove(*tags)


def test_neither_another_python_nor_a_changed_model_is_served(
    deployable: Project, engine: Engine, base: str, tmp_path: Path
) -> None:
    out = context(deployable, base, tmp_path / "out")
    changed = shutil.copytree(out, tmp_path / "changed")
    graph = changed / "model" / "bundle" / "model" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    other = shutil.copytree(out, tmp_path / "other")
    record = other / "model" / "deployment.json"
    record.write_text(record.read_text().replace("-cp311", "-cp312"))
    tags = ["localhost/packager-test-changed", "localhost/packager-test-other"]
    reasons = ["is not the file of the bundle", "its wheels are for cp312"]
    try:
        for folder, tag, reason in zip((changed, other), tags, reasons, strict=True):
            engine.build(folder, tag)
            done = engine.run(
                "podman",
                "run",
                "--rm",
                "--network",
                "none",
                "--read-only",
                "--ulimit",
                "nofile=1024:1024",
                "--ulimit",
                "nproc=1000:1000",
                tag,
                check=False,
            )
            assert done.returncode == 4, done.stderr
            assert reason in done.stderr
    finally:
        engine.remove(*tags)


def test_the_model_may_come_from_an_image_or_from_a_volume(
    deployable: Project, engine: Engine, base: str, tmp_path: Path
) -> None:
    """What Kubernetes does with image volumes and after an init container, done by podman with the manifests' own words."""
    out = context(deployable, base, tmp_path / "out")
    tags = runtime, model = "localhost/packager-test-runtime", "localhost/packager-test-model"
    pin = f"r.example/x@{base.partition('@')[2]}"
    deployable.run(
        "render",
        "kubernetes",
        "1.2.3.bundle.tar",
        tmp_path / "k",
        "--key",
        "release.pub",
        "--image",
        pin,
        "--variant",
        "init-container",
        "--init-image",
        pin,
        "--source",
        "oci://r.example/cnn:1.2.3",
    )
    data = yaml.safe_load((tmp_path / "k" / "manifests" / "configmap.yaml").read_text())["data"]
    pod = yaml.safe_load((tmp_path / "k" / "manifests" / "deployment.yaml").read_text())["spec"]["template"]["spec"]
    deployable.run("unpack", "1.2.3.bundle.tar", tmp_path / "volume" / "bundle", "--key", "release.pub")
    (tmp_path / "config").mkdir()
    for name, text in data.items():
        (tmp_path / "config" / name).write_text(text)
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)  # pytest's directories are for their owner alone
    knobs = f"--knobs={data['knobs.json']}"
    volumes = (
        "--volume",
        f"{tmp_path / 'volume'}:/srv/model:ro",
        "--volume",
        f"{tmp_path / 'config'}:/srv/config:ro",
        "--entrypoint",
        json.dumps(pod["containers"][0]["command"]),
    )
    image = ("--mount", f"type=image,source={model},destination=/srv/model")
    try:
        engine.build(out, runtime, "--target", "runtime")
        engine.build(out, model, "--target", "model")
        for options in (image, volumes):
            with engine.running(runtime, knobs, options=options) as (name, pid):
                assert engine.healthy(name), engine.logs(name)
                done = subprocess.run(
                    inside(pid, sys.executable, "-c", ASK), capture_output=True, text=True, check=True
                )
                assert len(json.loads(done.stdout)) == 20
    finally:
        engine.remove(*tags)
