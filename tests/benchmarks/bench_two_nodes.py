# SPDX-License-Identifier: Apache-2.0
"""Release the same models on one node of a Ray cluster and on two: wall seconds, processor seconds, speed-up.

    python -m tests.benchmarks.bench_two_nodes [--models 16] [--rounds 1] [--trees 40]

Models are forests of scikit-learn that have no step in common and cost several seconds each, nearly all of it their own
work. Nodes are network namespaces of this machine; each is pinned to one processor, may run one step at a time, and
has an empty store, so that models and results travel through the registry. The release, its gateway and the registry
run beside them on whatever processor is free, in both cases; locks are made before, with an index. Printed for each
case are the seconds of the clock, the steps by node, the processor seconds of the nodes' steps, of Ray, of the release,
its gateway and the registry, and the bytes in the registry; then the speed-up, what it is at most with so many
processors and that work, and whether all digests are equal. Needs root, `ip`, docker-registry and Ray.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packager.formats import platforms
from packager.trust import keys
from tests.support import ray_clusters
from tests.support.ray_clusters import Cluster

TRAIN = """
import sys
from pathlib import Path
import numpy, skops.io
from sklearn.ensemble import RandomForestClassifier
for number in range(int(sys.argv[2])):
    rows = numpy.random.RandomState(number).randn(1500, 10)
    labels = (rows[:, 0] * rows[:, 1] + rows[:, 2] > 0).astype(int)
    folder = Path(sys.argv[1]) / f"m{number:04}"
    folder.mkdir()
    made = RandomForestClassifier(int(sys.argv[3]), max_depth=8, random_state=number).fit(rows, labels)
    skops.io.dump(made, folder / "model.skops")
"""
ROLES = ("steps", "ray", "release", "gateway", "registry")
_TICK = os.sysconf("SC_CLK_TCK")


def write_models(folder: Path, count: int, trees: int) -> None:
    """Train forests, each with its recipe, and write the release file and a key."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", TRAIN, str(folder), str(count), str(trees)], check=True)
    for own in sorted(folder.iterdir()):
        text = f"name: {own.name}\nversion: 1.0.0\nsource: ./model.skops\npolicy: dev\nplatforms: [{platforms.name_host()}]\n"
        (own / "bundle.yaml").write_text(text)
    keys.save(keys.generate_key("p256"), folder / "release.pem", folder / "release.pub", None)
    (folder / "release.yaml").write_text(
        "recipes: ['*/bundle.yaml']\ndefaults: {policy: dev, sign: 'key:release.pem'}\n"
    )


def lock(folder: Path, store: Path) -> None:
    command = [sys.executable, "-m", "packager", "release", "--until", "lock", "--quiet", "--json"]
    subprocess.run(
        command, cwd=folder, env={**os.environ, "PACKAGER_STORE": str(store)}, check=True, capture_output=True
    )


@dataclass(frozen=True, slots=True)
class Process:
    """One process as /proc shows it: its parent, when it began, its command and its processor seconds."""

    parent: int
    began: int
    command: str
    seconds: float


def list_processes() -> dict[int, Process]:
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:  # it has ended
            continue
        found[int(entry.name)] = Process(
            int(fields[1]), int(fields[19]), command, (int(fields[11]) + int(fields[12])) / _TICK
        )
    return found


class Meter:
    """Adds up processor seconds by role while a release runs, by looking at all processes five times a second.

    What a process uses between the last look and its end is missed: at most a fifth of a second, of steps that take
    several. Ray runs steps in processes called `ray::`; all below these belong to steps.
    """

    def __init__(self, cluster: Cluster, release: int) -> None:
        self._cluster, self._release = cluster, release
        self._least, self._most = dict[tuple[int, int], float](), dict[tuple[int, int], float]()
        self._roles: dict[tuple[int, int], str] = {}

    def look(self) -> None:
        """Take what every process has used so far."""
        table = list_processes()
        inside = {pid for machine in self._cluster.machines for pid in machine.pids()}
        for pid, process in table.items():
            key = pid, process.began
            role = self._role(pid, table, inside)
            if role:
                self._roles[key] = role
                self._least.setdefault(key, process.seconds if not self._most else 0.0)
                self._most[key] = process.seconds

    def _role(self, pid: int, table: dict[int, Process], inside: set[int]) -> str | None:
        """Return what a process does, by itself or by the nearest process above it that shows it."""
        within = pid in inside
        while pid in table:
            command = table[pid].command
            if self._cluster.registry and pid == self._cluster.registry.pid:
                return "registry"
            if "packager.cluster.gateway" in command:
                return "gateway"
            if pid == self._release:
                return "release"
            if command.startswith("ray::") or "default_worker.py" in command:
                return "steps"
            pid = table[pid].parent
        return "ray" if within else None

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Look until the block ends."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(0.2):
                self.look()

        self.look()
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.look()

    def totals(self) -> dict[str, float]:
        """Return the processor seconds of each role."""
        found: dict[str, float] = defaultdict(float)
        for key, most in self._most.items():
            found[self._roles[key]] += most - self._least[key]
        return {role: found[role] for role in ROLES}


@dataclass(frozen=True, slots=True)
class Case:
    """One release: seconds, processor seconds by role, actions by node, digests by model, bytes in the registry."""

    seconds: float
    used: dict[str, float]
    actions: list[int]
    digests: dict[str, str]
    bytes: int


def measure(base: Path, nodes: int, number: int) -> Case:
    """Release all models on fresh nodes."""
    own = base / f"n{nodes}{number}"  # short: paths of Ray's sockets have 107 bytes
    shutil.copytree(base / "models", own / "project")
    shutil.copytree(base / "locked", own / "store")
    (own / "r").mkdir()
    processors = os.cpu_count() or 1
    pins = [str(node % processors) for node in range(nodes)]
    with ray_clusters.cluster(own / "r", [1] * nodes, pins, f"0-{processors - 1}") as cluster:
        started = time.perf_counter()
        process = cluster.release(own / "project", own / "store", "--jobs", str(2 * nodes), "--quiet")
        meter = Meter(cluster, process.pid)
        with meter.measuring():
            code = process.wait()
            seconds = time.perf_counter() - started
        if code:
            sys.exit((own / "project" / "err").read_text()[-3000:])
        rows = json.loads((own / "project" / "out.json").read_text())["models"]
        actions = [len(machine.actions()) for machine in cluster.machines]
        size = sum(path.stat().st_size for path in (own / "r" / "registry" / "data").rglob("data") if path.is_file())
    shutil.rmtree(own)
    return Case(seconds, meter.totals(), actions, {row["name"]: row["digest"] for row in rows}, size)


def main(words: Sequence[str]) -> None:
    """Measure both cases in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--trees", type=int, default=40)
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "models").mkdir()
        write_models(base / "models", args.models, args.trees)
        lock(base / "models", base / "locked")
        print(
            f"{args.models} models of {args.trees} trees, {os.cpu_count()} processors; load before: {os.getloadavg()[0]:.1f}"
        )
        print(
            "| nodes | s | actions by node | " + " | ".join(f"{role}, processor s" for role in ROLES) + " | MB sent |"
        )
        print("| ---: | ---: | --- |" + " ---: |" * (len(ROLES) + 1), flush=True)
        cases: dict[int, list[Case]] = {1: [], 2: []}
        for number in range(args.rounds):
            for nodes in (1, 2) if number % 2 == 0 else (2, 1):
                case = measure(base, nodes, number)
                cases[nodes].append(case)
                cells = " | ".join(f"{case.used[role]:.1f}" for role in ROLES)
                shares = ", ".join(map(str, case.actions))
                print(f"| {nodes} | {case.seconds:.1f} | {shares} | {cells} | {case.bytes / 1e6:.1f} |", flush=True)
        one, two = (min(rows, key=lambda case: case.seconds) for rows in (cases[1], cases[2]))
        bound = one.seconds / (sum(two.used.values()) / (os.cpu_count() or 1))
        same = len({json.dumps(case.digests) for rows in cases.values() for case in rows}) == 1
        print(
            f"speed-up {one.seconds / two.seconds:.2f}, at most {min(2.0, bound):.2f} here; load after: {os.getloadavg()[0]:.1f}"
        )
        print(f"digests {'equal' if same else 'DIFFERENT'}")


if __name__ == "__main__":
    main(sys.argv[1:])
