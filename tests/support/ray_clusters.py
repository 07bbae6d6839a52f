# SPDX-License-Identifier: Apache-2.0
"""A Ray cluster of machines that share nothing but a wire: one network namespace each, with a store of its own.

Ray listens on every interface that it sees, so nothing of it runs outside these namespaces. Needs root and `ip`. All
processes of a namespace are the test's own, and end with it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.support import registry_server
from tests.support.tools import missing, tool

PORT, REGISTRY = 6379, 5000
_TRIES = 4  # Ray gives its agents 15 seconds to start, whatever the machine does meanwhile
_HURRY = ("sh", "-c", 'echo -15 > /proc/self/autogroup; exec "$@"', "sh")
"""Starts a command whose session gets most of a busy machine; where the kernel groups no sessions it changes nothing."""
SETTINGS = {
    "RAY_AUTH_MODE": "disabled",  # else a token that another Ray left in the home directory is demanded
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_health_check_initial_delay_ms": "60000",
}


def run(*command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=check)


@dataclass
class Machine:
    """One node: its namespace, address, store, and how many processors Ray may use there."""

    number: int
    prefix: str
    folder: Path
    cpus: int = 1
    pinned: str | None = None  # processors that its processes may use

    @property
    def namespace(self) -> str:
        return f"{self.prefix}{self.number}"

    @property
    def address(self) -> str:
        return f"10.77.0.{self.number + 1}"

    @property
    def store(self) -> Path:
        return self.folder / f"store{self.number}"

    def inside(self, *command: object) -> list[str]:
        """Return a command that runs on this machine."""
        pin = ("taskset", "-c", self.pinned) if self.pinned else ()
        return [str(word) for word in ("ip", "netns", "exec", self.namespace, *pin, *command)]

    def actions(self) -> set[str]:
        """Return the keys of the actions that this machine's store remembers."""
        folder = self.store / "v1" / "actions"
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def pids(self) -> list[int]:
        return [int(word) for word in run("ip", "netns", "pids", self.namespace, check=False).stdout.split()]

    def kill(self) -> None:
        """End everything that runs on this machine, as a power failure does."""
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


@dataclass
class Cluster:
    """Machines, each with a wire to the first. That one has Ray's head, the registry and, with a store apart, the release."""

    folder: Path
    machines: list[Machine] = field(default_factory=list)
    registry: subprocess.Popen[bytes] | None = None
    beside: str | None = None  # processors of the registry and of the release; None: those of the first machine

    @property
    def head(self) -> Machine:
        return self.machines[0]

    @property
    def host(self) -> str:
        return f"{self.head.address}:{REGISTRY}"

    def start(self) -> None:
        for machine in self.machines:
            run("ip", "netns", "add", machine.namespace)
            run("ip", "-n", machine.namespace, "link", "set", "lo", "up")
        run("ip", "-n", self.head.namespace, "addr", "add", f"{self.head.address}/32", "dev", "lo")
        for machine in self.machines[1:]:
            self._wire(machine)
        self._start_registry()
        for machine in self.machines:
            self.start_ray(machine)

    def _beside(self, *command: object) -> list[str]:
        return replace(self.head, pinned=self.beside or self.head.pinned).inside(*command)

    def _wire(self, machine: Machine) -> None:
        """Lay a wire between a machine and the first one."""
        theirs, ours = f"{machine.namespace}a", f"{machine.namespace}z"
        run("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs)
        for one, other, wire in ((machine, self.head, ours), (self.head, machine, theirs)):
            run("ip", "link", "set", wire, "netns", one.namespace)
            run("ip", "-n", one.namespace, "addr", "add", one.address, "peer", other.address, "dev", wire)
            run("ip", "-n", one.namespace, "link", "set", wire, "up")

    def _start_registry(self) -> None:
        folder = self.folder / "registry"
        folder.mkdir()
        text = registry_server.CONFIG.format(root=folder / "data", port=REGISTRY, more="")
        (folder / "config.yml").write_text(text.replace("127.0.0.1", self.head.address))
        with (folder / "log").open("ab") as log:
            command = self._beside(tool("docker-registry"), "serve", folder / "config.yml")
            self.registry = subprocess.Popen(command, stdout=log, stderr=log)

    def start_ray(self, machine: Machine) -> None:
        """Start Ray on a machine; its output goes to a file, because Ray's processes keep what they were given."""
        own = ("--head", f"--port={PORT}", f"--temp-dir={self.folder / 'ray'}", "--include-dashboard=false")
        which = own if machine is self.head else (f"--address={self.head.address}:{PORT}",)
        command = [
            *_HURRY,
            *machine.inside(sys.executable, "-m", "ray.scripts.scripts", "start", *which),
            f"--node-ip-address={machine.address}",
            f"--num-cpus={machine.cpus}",
            "--disable-usage-stats",
            "--object-store-memory=80000000",
        ]
        environment = {**os.environ, **SETTINGS, "PACKAGER_STORE": str(machine.store)}
        log = self.folder / f"ray{machine.number}.log"
        for _ in range(_TRIES):
            with log.open("wb") as sink:
                done = subprocess.run(
                    command,
                    env=environment,
                    stdout=sink,
                    stderr=sink,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    check=False,
                )
            if done.returncode == 0:
                return self._calm(machine)
            self._kill_ray(machine)
        pytest.fail(f"Ray does not start: {log.read_text()[-1500:]}")

    def _calm(self, machine: Machine) -> None:
        """Give back what `_HURRY` took: Ray runs, and is one session among others."""
        for pid in machine.pids():
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/autogroup").write_text("0")

    def _kill_ray(self, machine: Machine) -> None:
        """End what a failed start left on a machine, but not the registry."""
        kept = {self.registry.pid} if self.registry else set()
        for pid in set(machine.pids()) - kept:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(1)

    def release(self, folder: Path, store: Path, *words: object, **extra: str) -> subprocess.Popen[bytes]:
        """Start `packager release` on the first machine, with a store that is no node's."""
        command = self._beside(sys.executable, "-m", "packager", "release", "--json", *words)
        options = ["--ray", f"{self.head.address}:{PORT}", "--ray-store", f"oci://{self.host}/build/cache"]
        environment: Mapping[str, str] = {**os.environ, **SETTINGS, "PACKAGER_STORE": str(store), **extra}
        with (folder / "out.json").open("wb") as out, (folder / "err").open("wb") as err:
            return subprocess.Popen(
                [*command, *options, "--plain-http"], cwd=folder, env=environment, stdout=out, stderr=err
            )

    def stop(self) -> None:
        for machine in self.machines:
            machine.kill()
            run("ip", "netns", "del", machine.namespace, check=False)
        if self.registry:
            self.registry.wait()


@contextlib.contextmanager
def cluster(
    folder: Path, cpus: Sequence[int] = (1, 1), pinned: Sequence[str | None] = (), beside: str | None = None
) -> Iterator[Cluster]:
    """Run a cluster of as many machines as there are numbers of processors; skip where that cannot be.

    Machines are `pinned` to processors; the registry and the release run `beside` them, by default on the first one.
    """
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    tool("ip")
    tool("docker-registry")
    prefix = f"pk{secrets.token_hex(2)}"
    if os.getuid() != 0 or run("unshare", "--net", "true", check=False).returncode:
        missing("network namespaces, as root")
    pins = [*pinned, *([None] * len(cpus))]
    made = Cluster(folder, [Machine(n, prefix, folder, count, pins[n]) for n, count in enumerate(cpus)], beside=beside)
    try:
        made.start()
        yield made
    finally:
        made.stop()
