# SPDX-License-Identifier: Apache-2.0
"""An installation lives: upgrade with a canary, status, no way back unasked, an end; and a kill at every step."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.conftest import Project
from tests.support.triton_servers import free_ports

# Kills itself at the n-th change below a directory: what an operator, a power cut or the kernel may do at that moment.
KILLER = """
import os, signal, sys
site, left = sys.argv[1], int(sys.argv[2])
CHANGES = {"os.rename", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
own = (site + "/current", site + "/previous", site + "/journal", site + "/.current", site + "/.previous")
def hook(event, arguments):
    global left
    if event in CHANGES or (event == "open" and str(arguments[0]).endswith("journal.jsonl")):
        named = [str(item) for item in arguments if isinstance(item, (str, os.PathLike))]
        top = [n for n in named if n.startswith(own) or os.path.dirname(n) == site + "/releases"]
        if top:
            left -= 1
            if left < 0: os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
from packager.cli import main
code = main(sys.argv[3:])
print("steps left", left, file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def versions(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """1.2.3, 1.3.0 and their wheels."""
    root = tmp_path_factory.mktemp("versions")
    shutil.copytree(built.folder, root / "project")
    project = Project(root / "project", built.store)
    project.write((built.folder / "bundle.yaml").read_text().replace("1.2.3", "1.3.0"))
    project.run("build", "--locked")
    project.run("sign", "cnn:1.3.0", "--key", "release.pem", "-o", "new.bundle.tar")
    project.carry("cnn.bundle.tar", project.folder / "wheels")
    return project


def deploy(versions: Project, verb: str, bundle: str, site: Path, *options: str, code: int = 0):
    words = (site, bundle) if verb == "upgrade" else (bundle, site)
    return versions.run(verb, *words, "--key", "release.pub", "--wheelhouse", "wheels", *options, code=code)


@pytest.fixture(scope="module")
def first(versions: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("life") / "cnn"
    deploy(versions, "install", "cnn.bundle.tar", site, "--set", "batch.max=32")
    return site


@pytest.fixture(scope="module")
def both(versions: Project, first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.2.3 is current, 1.3.0 is there and was before it."""
    site = tmp_path_factory.mktemp("both") / "cnn"
    shutil.copytree(first, site, symlinks=True)
    deploy(versions, "upgrade", "new.bundle.tar", site)
    versions.run("rollback", site)
    return site


@pytest.fixture(scope="module")
def newer(versions: Project, both: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.3.0 is current again; 1.2.3 served before it."""
    site = tmp_path_factory.mktemp("newer") / "cnn"
    shutil.copytree(both, site, symlinks=True)
    deploy(versions, "upgrade", "new.bundle.tar", site)
    return site


def test_the_life_of_an_installation(versions: Project, first: Path) -> None:
    done = deploy(versions, "upgrade", "new.bundle.tar", first)
    assert "reference vectors" in done.stderr
    found = versions.run("status", first, "--json")
    assert (found["current"]["version"], found["previous"]["version"]) == ("1.3.0", "1.2.3")
    steps = [(entry["action"], entry["step"]) for entry in found["history"]]
    assert steps == [("install", step) for step in ("begun", "staged", "switched", "done")] + [
        ("upgrade", step) for step in ("begun", "staged", "tried", "switched", "done")
    ]
    times = [entry["when"] for entry in found["history"]]
    assert times == sorted(times) and all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", when) for when in times)
    assert found["unfinished"] is None
    kept = versions.run("config", first, "--json")["knobs"]["batch.max"]
    assert kept == {"value": 32, "origin": "installation"}
    for verb in ("upgrade", "install"):
        assert "is older than the installed" in deploy(versions, verb, "cnn.bundle.tar", first, code=2).stderr
    versions.run("rollback", first)
    assert versions.run("status", first, "--json")["current"]["version"] == "1.2.3"
    assert versions.run("verify", first / "current" / "bundle", "--key", "release.pub", "--json")["ok"]
    deploy(versions, "upgrade", "new.bundle.tar", first)
    deploy(versions, "upgrade", "cnn.bundle.tar", first, "--allow-downgrade")
    assert versions.run("status", first, "--json")["current"]["version"] == "1.2.3"


def test_a_canary_that_does_not_serve_changes_nothing(versions: Project, both: Path, tmp_path: Path) -> None:
    site = tmp_path / "cnn"
    shutil.copytree(both, site, symlinks=True)
    before = os.readlink(site / "current")
    release = next(path for path in (site / "releases").iterdir() if path.name.startswith("1.3.0"))
    graph = release / "bundle" / "model" / "model.onnx"
    graph.chmod(0o644)
    graph.write_bytes(b"not a graph")
    done = deploy(versions, "upgrade", "new.bundle.tar", site, code=1)
    assert "the canary does not become ready" in done.stderr
    assert os.readlink(site / "current") == before
    assert versions.run("status", site, "--json")["history"][-1]["step"] == "refused"


def test_what_serves_is_not_taken_away_and_survives_when_it_is(versions: Project, both: Path, tmp_path: Path) -> None:
    site = tmp_path / "cnn"
    shutil.copytree(both, site, symlinks=True)
    (port,) = free_ports(1)
    words = [sys.executable, "-m", "packager", "serve", "cnn", "--port", str(port)]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL) as server:
        try:
            assert eventually_ready(port)
            refused = versions.run("uninstall", site, code=2).stderr
            assert f"in use by process {server.pid} and 1 more" in refused and "--force" in refused
            assert versions.run("status", site, "--json")["current"]
            versions.run("uninstall", site, "--force")
            assert eventually_ready(port)
        finally:
            server.terminate()
        assert server.wait(60) == 0


def eventually_ready(port: int) -> bool:
    """Ask until somebody says that it is ready, or a minute has passed."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=30).status == 200)
        time.sleep(0.1)
    return False


def test_the_end(versions: Project, both: Path, tmp_path: Path) -> None:
    site = tmp_path / "cnn"
    shutil.copytree(both, site, symlinks=True)
    (site / "notes.txt").write_text("mine")
    assert "left alone: notes.txt" in versions.run("uninstall", site).stdout
    assert [path.name for path in site.iterdir()] == ["notes.txt"]
    assert "holds no installation" in versions.run("uninstall", site, code=2).stderr
    assert "holds no installation" in versions.run("status", site, code=2).stderr


def test_a_full_disk_is_told_beforehand(versions: Project, tmp_path: Path) -> None:
    """In a file system of 40 MB of its own; nothing is written."""
    script = f"""mount -t tmpfs -o size=40m none {tmp_path} && cd {versions.folder} && {sys.executable} -m packager install \
cnn.bundle.tar {tmp_path}/site --key release.pub --wheelhouse wheels; echo "exit $?"; ls -A {tmp_path}/site/releases"""
    environment = {**os.environ, "PACKAGER_STORE": str(versions.store), "HOME": str(versions.folder)}
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "no space left below" in done.stderr
    assert done.stdout.splitlines() == ["exit 4"]


@pytest.mark.slow
def test_killed_at_every_step_the_old_or_the_new_release_serves(
    versions: Project, both: Path, newer: Path, tmp_path: Path
) -> None:
    """And the same call afterwards ends well; likewise for rollback and uninstall."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PACKAGER_STORE": str(versions.store)}
    trust = ["--key", "release.pub", "--wheelhouse", "wheels"]
    for verb in ("upgrade", "rollback", "uninstall"):
        step, ended = 0, False
        while not ended:
            site = tmp_path / f"{verb}-{step}"
            origin = newer if verb == "rollback" else both
            subprocess.run(["cp", "-al", origin, site], check=True)  # our writes replace files, so links are safe
            (site / "journal.jsonl").unlink()  # but this one, which is appended to
            shutil.copy(origin / "journal.jsonl", site)
            before = os.readlink(site / "current")
            words = [verb, str(site), *(["new.bundle.tar", *trust] if verb == "upgrade" else [])]
            command = [sys.executable, "-c", KILLER, str(site), str(step), *words]
            done = subprocess.run(
                command, cwd=versions.folder, env=environment, capture_output=True, text=True, check=False
            )
            ended = done.returncode == 0
            assert ended or done.returncode == -9, done.stderr
            if verb == "uninstall":
                if not ended and site.exists():
                    again = versions.run("uninstall", site, code=None)
                    assert again.returncode in (0, 2), again.stderr
                assert not (site / "current").exists()
            else:
                name = os.readlink(site / "current")
                assert (site / "releases" / name.removeprefix("releases/") / "serve.json").is_file()
                assert not ended or name != before
                assert versions.run("status", site, "--json")["current"]["release"] == Path(name).name
                assert versions.run("verify", site / "current" / "bundle", "--key", "release.pub", "--json")["ok"]
                if verb == "rollback" and not ended:
                    versions.run(*words)
                    assert os.readlink(site / "current").startswith("releases/1.2.3-"), "back, and no further"
                if verb == "upgrade":
                    versions.run(*words)
                    assert os.readlink(site / "current").startswith("releases/1.3.0-")
                    assert json.loads((site / "current" / "serve.json").read_text())["version"] == "1.3.0"
            shutil.rmtree(site, ignore_errors=True)
            step += 1
        assert step >= {"upgrade": 8, "rollback": 3, "uninstall": 3}[verb], "the kills reached the steps"
