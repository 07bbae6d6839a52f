# SPDX-License-Identifier: Apache-2.0
"""Install and serve: isolated, atomic, without a network, and answering NVIDIA's client."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

from tests.e2e.conftest import Project, tool
from tests.support import object_store, registry_server
from tests.support.tools import offline


@pytest.fixture(scope="module")
def wheelhouse(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The locked wheels, as an operator carries them to a site without a network."""
    return built.carry("cnn.bundle.tar", tmp_path_factory.mktemp("carried") / "wheels")


@pytest.fixture(scope="module")
def site(built: Project, wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation made with every network interface but loopback gone."""
    directory = tmp_path_factory.mktemp("site") / "cnn"
    alone = offline()
    built.run("install", "cnn.bundle.tar", directory, "--key", "release.pub", "--wheelhouse", wheelhouse, prefix=alone)
    return directory


@contextmanager
def serving(site: Path, *options: str, **extra: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "packager", "serve", str(site), "--port", str(port), *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **extra})
    try:
        for _ in range(300):
            assert server.poll() is None, server.stderr and server.stderr.read()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2)
                break
            except OSError:
                time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(30)
        assert server.stderr
        server.stderr.close()
    assert code == 0, "SIGTERM drains and ends with 0"


def test_the_environment_holds_the_lock_and_nothing_else(site: Path) -> None:
    python = site / "current" / "env" / "bin" / "python"
    code = "import importlib.metadata as m; print(sorted(d.name.lower().replace('_', '-') for d in m.distributions()))"
    listed = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    names = set(json.loads(listed.replace("'", '"'))) - {"pip", "setuptools"}
    lock = (site / "current" / "bundle" / "deps" / "onnxruntime" / "requirements.txt").read_text()
    assert {"onnxruntime", "numpy", "granian"} <= names
    assert all(f"{name}==" in lock for name in names), names
    assert not {"packager", "model-packager"} & set(names)


def test_the_installed_tree_verifies(built: Project, site: Path) -> None:
    assert built.run("verify", site / "current" / "bundle", "--key", "release.pub", "--json")["ok"]


def test_an_installation_is_a_bundle_to_every_question(built: Project, site: Path, tmp_path: Path) -> None:
    found = built.run("verify", site, "--key", "release.pub", "--json")
    assert found["ok"] and found["digest"] == built.run("inspect", site, "--json")["digest"]
    damaged = tmp_path / "damaged"
    shutil.copytree(site, damaged, symlinks=True)
    graph = damaged / "current" / "bundle" / "model" / "model.onnx"
    graph.chmod(0o644)
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    assert "model.onnx" in built.run("verify", damaged, "--key", "release.pub", code=5).stderr


def test_served_numbers_are_those_of_the_graph(site: Path) -> None:
    """Bit for bit what ONNX Runtime computes in this process; batches of several sizes; metadata and metrics."""
    import onnxruntime

    session = onnxruntime.InferenceSession(site / "current" / "bundle" / "model" / "model.onnx")
    with serving(site) as address:
        client = triton.InferenceServerClient(address)
        assert client.is_server_live()
        assert client.is_model_ready("cnn")
        assert client.get_model_metadata("cnn")["inputs"][0]["name"] == "image"
        for rows in (1, 2, 7, 64):
            images = np.random.default_rng(rows).random((rows, 1, 8, 8), dtype=np.float32)
            for binary in (True, False):
                request = triton.InferInput("image", list(images.shape), "FP32")
                request.set_data_from_numpy(images, binary_data=binary)
                output = triton.InferRequestedOutput("output", binary_data=binary)
                got = client.infer("cnn", [request], outputs=[output]).as_numpy("output")
                np.testing.assert_array_equal(got, session.run(None, {"image": images})[0])
        bad = triton.InferInput("image", [1, 1, 9, 9], "FP32")
        bad.set_data_from_numpy(np.zeros((1, 1, 9, 9), np.float32))
        with pytest.raises(triton.InferenceServerException, match=r"expected|image"):
            client.infer("cnn", [bad])
        metrics = urllib.request.urlopen(f"http://{address}/metrics").read().decode()
        digest = json.loads((site / "current" / "serve.json").read_bytes())["digest"]
        assert digest in metrics


def test_knobs_reach_the_server_and_no_signed_file(built: Project, site: Path, tmp_path: Path) -> None:
    """From a file, the environment and the command line; shown at an endpoint, as a label and by `config`."""
    values = tmp_path / "berlin.yaml"
    values.write_text("batch: {max: 2}\nmetrics: {labels: {place: berlin}}\nserver: {max_body: 4096}\n")
    with serving(site, "--values", str(values), PACKAGER_KNOB__LOG__FORMAT="text") as address:
        document = json.loads(urllib.request.urlopen(f"http://{address}/v2/knobs").read())
        shown = document["values"]
        assert (shown["batch.max"], shown["log.format"], shown["runtime.threads"]) == (2, "text", 1)
        metrics = urllib.request.urlopen(f"http://{address}/metrics").read().decode()
        row = next(row for row in metrics.splitlines() if row.startswith("packager_deployment_info"))
        assert document["digest"] in row
        assert 'site_place="berlin"' in row
        client = triton.InferenceServerClient(address)
        for rows, fits in ((2, True), (3, False)):
            request = triton.InferInput("image", [rows, 1, 8, 8], "FP32")
            request.set_data_from_numpy(np.zeros((rows, 1, 8, 8), np.float32))
            if fits:
                client.infer("cnn", [request])
            else:
                with pytest.raises(triton.InferenceServerException, match="1 to 2"):
                    client.infer("cnn", [request])
    assert built.run("verify", site / "current" / "bundle", "--key", "release.pub", "--json")["ok"]
    assert "from 1 to 65535" in built.run("serve", site, "--port", "99999", code=2).stderr
    same = built.run("config", "diff", site, "cnn:1.2.3", "--json")
    assert same["same"]


def test_tls_from_files_and_from_the_environment(site: Path, tmp_path: Path) -> None:
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    subprocess.run(
        [
            tool("openssl"),
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            key,
            "-out",
            chain,
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(cafile=str(chain))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "packager",
        "serve",
        str(site),
        "--port",
        str(port),
        "--set",
        f"tls.certificate=file:{chain}",
        "--set",
        "tls.key=env:SITE_KEY",
    ]
    server = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "SITE_KEY": key.read_text()}
    )
    try:
        for _ in range(100):
            try:
                url = f"https://127.0.0.1:{port}/v2/knobs"
                document = urllib.request.urlopen(url, context=context, timeout=2).read().decode()
                break
            except OSError:
                assert server.poll() is None, server.stderr and server.stderr.read()
                time.sleep(0.1)
        assert "tls" not in document, "where secrets are is nobody's business"
        seen = Path(f"/proc/{server.pid}/environ").read_bytes() + Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert b"PRIVATE KEY" not in seen
    finally:
        server.terminate()
        server.wait(30)
        assert server.stderr
        assert "PRIVATE" not in server.stderr.read()
        server.stderr.close()


def test_installing_again_changes_nothing(built: Project, site: Path, wheelhouse: Path) -> None:
    before = os.readlink(site / "current")
    built.run("install", "cnn.bundle.tar", site, "--key", "release.pub", "--wheelhouse", wheelhouse)
    assert os.readlink(site / "current") == before
    assert [path.name for path in (site / "releases").iterdir()] == [Path(before).name]
    assert "has no release before" in built.run("rollback", site, code=2).stderr


def test_installing_straight_from_a_registry(built: Project, wheelhouse: Path, tmp_path: Path) -> None:
    with registry_server.registry(tool("docker-registry"), tmp_path / "registry") as registry:
        name = f"oci://{registry.host}/team/cnn"
        built.run("push", "cnn.bundle.tar", name)
        install_and_verify(built, f"{name}:1.2.3", tmp_path / "site", wheelhouse)


@pytest.mark.slow
def test_installing_straight_from_a_bucket(built: Project, wheelhouse: Path, tmp_path: Path) -> None:
    with object_store.object_store(tmp_path / "store") as store:
        built.run("push", "cnn.bundle.tar", "s3://models/team/cnn", **store.environment())
        install_and_verify(built, "s3://models/team/cnn:1.2.3", tmp_path / "site", wheelhouse, **store.environment())


def install_and_verify(built: Project, name: str, site: Path, wheelhouse: Path, **extra: str) -> None:
    """Without a trusted signature nothing is installed; with it what is installed is what was signed."""
    stranger = site.with_name("stranger")
    built.run("keygen", stranger)
    built.run("install", name, site, "--key", f"{stranger}.pub", "--wheelhouse", wheelhouse, code=1, **extra)
    assert not (site / "current").exists()
    built.run("install", name, site, "--key", "release.pub", "--wheelhouse", wheelhouse, **extra)
    assert built.run("verify", site / "current" / "bundle", "--key", "release.pub", "--json")["ok"]


def test_a_new_version_switches_and_rolls_back(built: Project, wheelhouse: Path, tmp_path: Path) -> None:
    project, site = Project(tmp_path / "project", built.store), tmp_path / "site"
    shutil.copytree(built.folder, project.folder)
    project.write((built.folder / "bundle.yaml").read_text().replace("1.2.3", "1.3.0"))
    project.run("build", "--locked")
    project.run("sign", "cnn:1.3.0", "--key", "release.pem", "-o", "new.bundle.tar")
    for name in ("cnn.bundle.tar", "new.bundle.tar"):
        project.run("install", name, site, "--key", "release.pub", "--wheelhouse", wheelhouse)
    assert os.readlink(site / "current").startswith("releases/1.3.0-")
    for version, verb in (("1.2.3", "rollback"), ("1.3.0", "install")):
        project.run(verb, *(("new.bundle.tar", site, "--key", "release.pub") if verb == "install" else (site,)))
        assert os.readlink(site / "current").startswith(f"releases/{version}-")
        with serving(site) as address:
            assert triton.InferenceServerClient(address).get_model_metadata("cnn")["versions"] == [version]
    project.run("rollback", site)
    assert "no release before 1.2.3" in project.run("rollback", site, code=2).stderr, "back, never forward"


def test_a_kill_during_install_leaves_the_old_release_serving(built: Project, wheelhouse: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PACKAGER_STORE": str(tmp_path / "store")}
    command = [
        sys.executable,
        "-m",
        "packager",
        "install",
        "cnn.bundle.tar",
        str(site),
        "--key",
        "release.pub",
        "--wheelhouse",
        str(wheelhouse),
    ]
    for delay in (0.3, 0.8, 1.5):
        process = subprocess.Popen(
            command, cwd=built.folder, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (site / "current").exists(), "nothing is current before it is complete"
    built.run("install", "cnn.bundle.tar", site, "--key", "release.pub", "--wheelhouse", wheelhouse)
    assert sorted(path.name for path in (site / "releases").iterdir()) == [Path(os.readlink(site / "current")).name]


def test_a_wheel_changed_by_one_byte_is_refused(built: Project, wheelhouse: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    shutil.copytree(wheelhouse, wheels)
    victim = next(wheels.glob("orjson*.whl"))
    victim.write_bytes(victim.read_bytes() + b"\0")
    done = built.run(
        "install",
        "cnn.bundle.tar",
        tmp_path / "site",
        "--key",
        "release.pub",
        "--wheelhouse",
        wheels,
        "--store",
        tmp_path / "store",
        code=3,
    )
    assert "HASH" in done.stderr.upper()
    assert not (tmp_path / "site" / "current").exists()


def test_serving_nothing_is_a_clear_error(built: Project, tmp_path: Path) -> None:
    done = built.run("serve", tmp_path, code=2)
    assert "holds no installation" in done.stderr


def test_the_server_runs_without_any_network(site: Path) -> None:
    """In a network namespace with loopback only: it starts, answers, stops."""
    tool("unshare")
    tool("ip")
    script = f"""
ip link set lo up; {sys.executable} -m packager serve {site} --port 8765 2>/dev/null & server=$!
for i in $(seq 100); do {sys.executable} -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8765/v2/health/ready')" 2>/dev/null && break; sleep 0.2; done
{sys.executable} -c "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8765/v2/models/cnn').status)"
kill $server; wait $server"""
    done = subprocess.run(
        [*offline(), "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "200", done.stderr
