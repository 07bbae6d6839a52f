# SPDX-License-Identifier: Apache-2.0
"""Real images and containers: buildah builds, podman and runc run, in a storage of the tests, without a network."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.conftest import tool
from tests.support.environments import CACHE

BASE = "localhost/packager-python"
HEALTH = '["python3", "-I", "/srv/health.py", "http://127.0.0.1:8000"]'
RUNC = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")


class Engine:
    """buildah and podman on one storage."""

    def __init__(self, work: Path) -> None:
        self.storage = ("--root", str(CACHE / "containers"), "--runroot", str(CACHE / "containers-run"))
        self.work = work

    def run(
        self, program: str, *words: str | Path, check: bool = True, prefix: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        runtime = ("--runtime", tool("runc")) if program == "podman" else ()
        command = [*prefix, tool(program), *self.storage, *runtime, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.work)
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def base(self, root: Path) -> str:
        """Return the pinned name of an image with the Debian in `root`, imported once."""
        if self.run("podman", "image", "exists", BASE, check=False).returncode:
            with subprocess.Popen(
                ["tar", "-C", root, "--numeric-owner", "-cf", "-", "."], stdout=subprocess.PIPE
            ) as tar:
                command = [tool("podman"), *self.storage, "import", "-", BASE]
                subprocess.run(command, stdin=tar.stdout, check=True, capture_output=True)
        return f"{BASE}@{self.run('podman', 'image', 'inspect', '--format', '{{.Digest}}', BASE).stdout.strip()}"

    def build(self, context: Path, tag: str, *options: str) -> str:
        """Build as the renderer says, with no network interface at all; return the image's identity."""
        self.run(
            "buildah",
            "build",
            "--layers=false",
            "--timestamp",
            "0",
            "--pull-never",
            "--isolation",
            "chroot",
            "--tag",
            tag,
            *options,
            context,
            prefix=(tool("unshare"), "--net"),
        )
        return self.run("podman", "image", "inspect", "--format", "{{.Id}} {{.Digest}}", tag).stdout.strip()

    def remove(self, *tags: str) -> None:
        self.run("podman", "rmi", "--force", *tags, check=False)

    @contextlib.contextmanager
    def running(self, image: str, *words: str, options: tuple[str, ...] = ()) -> Iterator[tuple[str, int]]:
        """Run a container as restricted as a cluster would; yield its name and the process that is its first."""
        name = f"packager-test-{abs(hash((image, time.monotonic())))}"
        self.run(
            "podman",
            "run",
            "--detach",
            "--name",
            name,
            "--network",
            "none",
            "--read-only",
            "--cap-drop",
            "all",
            "--security-opt",
            "no-new-privileges",
            "--health-cmd",
            HEALTH,
            *RUNC,
            *options,
            image,
            *words,
        )
        try:
            yield name, int(self.run("podman", "inspect", "--format", "{{.State.Pid}}", name).stdout)
        finally:
            self.run("podman", "rm", "--force", "--time", "10", name, check=False)

    def healthy(self, name: str) -> bool:
        """Wait for the image's own health check to pass."""
        for _ in range(120):
            if self.run("podman", "healthcheck", "run", name, check=False).returncode == 0:
                return True
            time.sleep(0.5)
        return False

    def logs(self, name: str) -> str:
        done = self.run("podman", "logs", name, check=False)
        return done.stdout + done.stderr

    def layers(self, image: str) -> list[str]:
        """Return the digests of the image's layers."""
        found: list[str] = json.loads(self.run("podman", "image", "inspect", image).stdout)[0]["RootFS"]["Layers"]
        return found


def inside(pid: int, *command: str | Path) -> list[str]:
    """Return a command that runs on this host, in the network of a container."""
    return [tool("nsenter"), "--target", str(pid), "--net", *map(str, command)]
