# SPDX-License-Identifier: Apache-2.0
"""A repository with one model, as CI systems check it out, and the registry that it releases to."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager.cli import main
from packager.formats import platforms
from tests.support import clean_debian, github, graphs, registry_server
from tests.support.github import Job
from tests.support.registry_server import Registry
from tests.support.tools import tool

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("python3", "python3-venv", "ca-certificates", "git", "openssl", "procps", "rsync", "sudo")
"""What Debian has where jobs run: Python, and what GitHub's runners have of Debian."""
PASSPHRASE = "correct horse"
SECRETS = {"PACKAGER_PASSPHRASE": PASSPHRASE, "REGISTRY_USER": "ci", "REGISTRY_PASSWORD": "unused"}


@dataclass(frozen=True)
class Checkout:
    """A repository with one model and a release file, and the registry that it releases to."""

    folder: Path
    wheels: Path
    registry: Registry

    def commit(self) -> None:
        """Commit everything."""
        git = ["git", "-C", self.folder, "-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run([*git, "add", "--all"], check=True)
        subprocess.run([*git, "commit", "--quiet", "-m", "release"], check=True)

    def variables(self) -> dict[str, str]:
        """Return what pip and apt are told on machines of CI, so that they find packager's wheel and ask nothing."""
        links = clean_debian.find_links(self.wheels)
        return {"PIP_FIND_LINKS": links, "PIP_ROOT_USER_ACTION": "ignore", "DEBIAN_FRONTEND": "noninteractive"}

    def perform(self, job: Job, shown: Sequence[Path] = ()) -> tuple[dict[str, Any], str]:
        """Perform a job of GitHub on a machine of its own; what a cache keeps stays in the checkout."""
        place = Path(tempfile.mkdtemp(prefix="machine-", dir=self.folder.parent))
        return github.perform_job(job, PACKAGES, place, self.folder, self.variables(), (self.wheels, *shown))

    def run(self, command: Sequence[str], shown: Sequence[Path] = (), **more: str) -> str:
        """Run a command in the checkout on a machine of its own; return what it prints. A failure fails the test."""
        place = Path(tempfile.mkdtemp(prefix="machine-", dir=self.folder.parent))
        root = clean_debian.make_root(*PACKAGES)
        variables = self.variables() | more
        done = clean_debian.run_inside(root, place, self.folder, command, variables, (self.wheels, *shown))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def pushed(self) -> bool:
        """Return whether the registry has the bundle, signed by the key."""
        out = self.folder.parent / "pulled.bundle.tar"
        address = f"oci://{self.registry.host}/models/m:1.0.0"
        store = str(self.folder.parent / "store of who pulls")
        key = str(self.folder / "release.pub")
        return main(["pull", address, "-o", str(out), "--key", key, "--store", store]) == 0


def copy_repository(target: Path) -> Path:
    """Copy the files of this repository that are, or may be, committed; return `target`."""
    listed = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)
    return target


@contextmanager
def make_checkout(place: Path) -> Iterator[Checkout]:
    """Yield a checkout below `place`, with a key, a release file and a wheel of this repository."""
    folder, wheels = place / "checkout", place / "wheels"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(graphs.convolution(17).graph)
    recipe = f"name: m\nversion: 1.0.0\nsource: ./m.onnx\npolicy: dev\nplatforms: [{platforms.name_host()}]\n"
    (folder / "bundle.yaml").write_text(recipe)
    (folder / "passphrase").write_text(PASSPHRASE)
    assert main(["keygen", str(folder / "release"), "--passphrase-file", str(folder / "passphrase")]) == 0
    (folder / "passphrase").unlink()
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", wheels, ROOT], check=True)
    with registry_server.registry(tool("docker-registry"), place / "registry") as registry:
        settings = (
            f"  policy: dev\n  sign: key:release.pem\n  push: oci://{registry.host}/models/{{name}}:{{version}}\n"
        )
        (folder / "release.yaml").write_text(f"recipes: [bundle.yaml]\ndefaults:\n{settings}")
        git = ["git", "-C", folder, "-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run([*git, "init", "--quiet", "--initial-branch", "main"], check=True)
        subprocess.run([*git, "remote", "add", "origin", "https://gitlab.example.org/acme/models.git"], check=True)
        yield Checkout(folder, wheels, registry)
