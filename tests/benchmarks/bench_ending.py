# SPDX-License-Identifier: Apache-2.0
"""What is lost when servers end: SIGTERM in a cluster and behind a balancer, SIGKILL of a process and of a worker.

    python tests/benchmarks/bench_ending.py [--requests 100000] [--rounds 2]

Prints the tables of `docs/measurements/serve.md`. Clients over HTTP and gRPC, on kept and on new connections, ask a
service of two servers without a pause, and none asks twice (`tests/support/endings.py`). The first table repeats Kubernetes'
sequence until so many requests were asked. Takes about ten minutes with the defaults on two shared cores.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import bench_serve
import numpy as np
from packager.runtimes.onnxruntime.session import open_session

from packager.deploy import server_files

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.endings import Ended, Load, Pod, Service, children, ended_behind_a_balancer, ended_by_a_cluster

KINDS = {"http, kept": 2, "http, kept, with pauses": 2, "http, new": 2, "grpc, kept": 1, "grpc, new": 1}


@dataclass
class Row:
    """What a few runs of one kind showed together."""

    name: str
    answered: Counter = field(default_factory=Counter)
    lost: Counter = field(default_factory=Counter)
    slowest: float = 0.0
    codes: set[int] = field(default_factory=set)
    unready: float = 0.0
    took: float = 0.0
    done: int = 0

    def add(self, load: Load, ended: Ended) -> None:
        self.answered += load.answered
        self.lost += load.lost
        self.slowest = max(self.slowest, load.slowest)
        self.codes.add(ended.code)
        self.unready = max(self.unready, ended.unready or 0.0)
        self.took = max(self.took, ended.took)
        self.done += 1

    def __str__(self) -> str:
        asked = self.answered.total() + self.lost.total()
        return (
            f"| {self.name} | {self.done} | {asked:,} | **{self.lost.total()}** | {self.slowest * 1000:.0f} | "
            f"{self.unready * 1000:.0f} | {self.took:.1f} | {', '.join(map(str, sorted(self.codes)))} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000, help="of Kubernetes' sequence (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="of everything else (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        bench = Bench(installed(folder / "app"), bench_serve.write("mlp", folder))
        print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores\n")
        bench.report(
            "ends",
            until(arguments.requests, bench.cluster),
            rounds(arguments.rounds, bench.balancer),
            rounds(arguments.rounds, bench.worker_killed),
            rounds(arguments.rounds, bench.killed),
        )
        print(f"\nload of the machine after: {os.getloadavg()[0]:.1f}")


Way = Callable[[int], tuple[str, Load, Ended]]


def until(requests: int, way: Way) -> Iterator[Row]:
    """Repeat for 1, 2 and 4 processes in turn until so many requests were asked."""
    rows: dict[int, Row] = {}
    asked = 0
    while asked < requests:
        for processes in (1, 2, 4):
            name, load, ended = way(processes)
            rows.setdefault(processes, Row(name)).add(load, ended)
            asked += load.asked
    yield from rows.values()


def rounds(count: int, way: Way) -> Iterator[Row]:
    for processes in (1, 2, 4):
        row = Row("")
        for _ in range(count):
            row.name, load, ended = way(processes)
            row.add(load, ended)
        yield row


def installed(app: Path) -> Path:
    """Write the server as an installation has it."""
    for name, data in server_files.list_program("onnxruntime").items():
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_bytes(data)
    return app


@dataclass
class Bench:
    """The server's program and a model."""

    app: Path
    config: Path

    def report(self, first: str, *tables: Iterator[Row]) -> None:
        print("| what " + first + " | times | asked | lost | slowest ms | 503 after ms | ended after s | exit code |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for table in tables:
            for row in table:
                print(row, flush=True)
                for reason, count in row.lost.most_common(5):
                    print(f"  {count} x {reason}", file=sys.stderr)

    @contextmanager
    def load(self, service: Service) -> Iterator[Load]:
        x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
        session = open_session(self.config.with_name("mlp.onnx"), threads=1)
        with service.forwarding(), Load(service, "mlp", x, session.run({"x": x})[0].tobytes(), KINDS).running() as load:
            time.sleep(1)
            yield load
            time.sleep(1)

    @contextmanager
    def pair(self, processes: int, *options: str) -> Iterator[tuple[Service, Pod]]:
        old, new = Pod(self.app, self.config, processes, options), Pod(self.app, self.config, 1)
        with old.running(), new.running():
            yield Service([old, new]), old

    def cluster(self, processes: int) -> tuple[str, Load, Ended]:
        with self.pair(processes) as (service, old), self.load(service) as load:
            ended = ended_by_a_cluster(service, old, notice=2, lag=6)
        return f"SIGTERM 2 s after preStop, endpoint gone after 6 s, {count(processes)}", load, ended

    def balancer(self, processes: int) -> tuple[str, Load, Ended]:
        with self.pair(processes, "--quiet", "4") as (service, old), self.load(service) as load:
            ended = ended_behind_a_balancer(service, old, interval=1, failures=3)
        return f"SIGTERM at once, balancer learns from 3 probes, {count(processes)}", load, ended

    def worker_killed(self, processes: int) -> tuple[str, Load, Ended]:
        with self.pair(processes, "--runtime-processes", "2") as (service, old):
            service.pods = [old]
            with self.load(service) as load:
                for process in children(old.process.pid):
                    killed_worker(old, process)
            return f"SIGKILL of a worker in each of {count(processes)}", load, stopped(old)

    def killed(self, processes: int) -> tuple[str, Load, Ended]:
        with self.pair(processes) as (service, old):
            service.pods = [old]
            with self.load(service) as load:
                ready = len(old.events("ready"))
                os.kill(random.choice(children(old.process.pid)), signal.SIGKILL)
                old.until(lambda: len(old.events("ready")) > ready)
            return f"SIGKILL of one that holds connections, of {count(processes)}", load, stopped(old)


def killed_worker(pod: Pod, process: int) -> None:
    """Kill a worker of a process, and wait until another has taken its place."""
    seen = len(pod.events("worker replaced"))
    os.kill(random.choice(children(process)), signal.SIGKILL)
    pod.until(lambda: len(pod.events("worker replaced")) > seen)


def stopped(pod: Pod) -> Ended:
    """End a server that nobody asks any more."""
    began = time.monotonic()
    pod.process.terminate()
    return Ended(pod.process.wait(60), time.monotonic() - began, None)


def count(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


if __name__ == "__main__":
    main()
