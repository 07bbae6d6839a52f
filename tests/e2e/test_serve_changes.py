# SPDX-License-Identifier: Apache-2.0
"""`packager serve` under constant load while everything below it changes: releases, processes, the installer, knobs.

Every answer is held against the output that the release it names gives in this process. A request fails when it is not
answered with 200 and the right numbers. Clients send each request once, over HTTP and gRPC. Processes that run the model are killed
all the while and cost nothing. Only where a process that holds connections is killed, which takes the requests in its
hands with it, is a lost one counted apart.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conformance"))

from suite import protobuf
from tests.e2e.conftest import HERE, Project
from tests.support.endings import CHANNEL, children

pytestmark = pytest.mark.slow

X = np.random.default_rng(0).random((3, 1, 8, 8)).astype(np.float32)
HEAD = json.dumps(
    {
        "inputs": [
            {"name": "image", "datatype": "FP32", "shape": list(X.shape), "parameters": {"binary_data_size": X.nbytes}}
        ],
        "parameters": {"binary_data_output": True},
    }
).encode()
BODY = HEAD + X.tobytes()
PORT = protobuf.block(1, "image") + protobuf.block(2, "FP32") + protobuf.packed(3, X.shape)
QUESTION = protobuf.block(1, "cnn") + protobuf.block(5, PORT) + protobuf.block(7, X.tobytes())
CLIENTS = 4
CALLERS = 4


@pytest.fixture(scope="module")
def versions(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """1.2.3, and 1.3.0 with other weights; their wheels."""
    root = tmp_path_factory.mktemp("changes")
    shutil.copytree(built.folder, root / "project")
    project = Project(root / "project", built.store)
    subprocess.run([sys.executable, str(HERE / "models.py"), "cnn", project.folder / "model", "7"], check=True)
    project.write((built.folder / "bundle.yaml").read_text().replace("1.2.3", "1.3.0"))
    project.run("lock")
    project.run("build", "--locked")
    project.run("sign", "cnn:1.3.0", "--key", "release.pem", "-o", "new.bundle.tar")
    project.carry("cnn.bundle.tar", project.folder / "wheels")
    return project


def words(verb: str, site: Path) -> list[str]:
    trust = ["--key", "release.pub", "--wheelhouse", "wheels"]
    return {
        "install": ["install", "cnn.bundle.tar", str(site), *trust],
        "upgrade": ["upgrade", str(site), "new.bundle.tar", *trust],
        "rollback": ["rollback", str(site)],
    }[verb]


@pytest.fixture
def site(versions: Project, tmp_path: Path) -> Path:
    place = tmp_path / "site"
    versions.run(*words("install", place))
    return place


@dataclass
class Serving:
    """A running `packager serve` and its log."""

    process: subprocess.Popen[str]
    port: int
    grpc_port: int
    site: Path
    lines: list[str] = field(default_factory=list)

    def events(self, name: str) -> list[dict]:
        return [line for line in map(json.loads, list(self.lines)) if line["event"] == name]

    def until(self, what: Callable[[], object], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, self.lines[-20:]
            assert self.process.poll() is None, self.lines[-20:]
            time.sleep(0.05)

    def processes(self) -> list[int]:
        """Those that serve."""
        return children(self.process.pid)

    def workers(self) -> list[int]:
        """Those that run the model for them."""
        return [worker for process in self.processes() for worker in children(process)]

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(versions: Project, site: Path, *options: str, **extra: str) -> Iterator[Serving]:
    port, grpc_port = free_port(), free_port()
    command = [
        sys.executable,
        "-m",
        "packager",
        "serve",
        str(site),
        "--port",
        str(port),
        "--grpc-port",
        str(grpc_port),
        "--set",
        "server.drain=12",
        *options,
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": str(site.parent), "PACKAGER_STORE": str(versions.store), **extra}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=versions.folder, env=environment)
    started = Serving(process, port, grpc_port, site)
    reader = threading.Thread(target=lambda: started.lines.extend(process.stderr))
    reader.start()
    try:
        # The first one answers while it loads, that it is not ready.
        started.until(lambda: len(started.events("ready")) == (2 if "server.processes=2" in options else 1))
        yield started
    finally:
        process.terminate()
        process.wait(60)
        reader.join()
        process.stderr.close()


def expected(site: Path) -> dict[str, np.ndarray]:
    """What each release answers, by version."""
    answers = {}
    for path in (site / "releases").glob("*/serve.json"):
        about = json.loads(path.read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            path.parent / about["artefact"], options, providers=["CPUExecutionProvider"]
        )
        answers[about["version"]] = session.run(None, {"image": X})[0]
    return answers


@dataclass
class Load:
    """Clients that send without a pause until stopped, each on its own connection or channel.

    Of those that speak gRPC every other one makes a new channel for each call. None repeats a call by itself.
    """

    port: int
    grpc_port: int
    answers: dict[str, np.ndarray]
    stopped: threading.Event = field(default_factory=threading.Event)
    murder: threading.Event = field(default_factory=threading.Event)
    right: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    lost: int = 0
    slowest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def over_http(self) -> None:
        connection = None
        while not self.stopped.is_set():
            connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            found = self._attempt("http", send_request, connection)
            if found is None or found.last:
                connection.close()
                connection = None

    def over_grpc(self, fresh: bool) -> None:
        channel = None
        while not self.stopped.is_set():
            channel = channel or grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}", CHANNEL)
            if self._attempt("grpc, new channel" if fresh else "grpc", call, channel) is None or fresh:
                channel.close()
                channel = None

    def _attempt(self, way: str, send_request: Callable[[Any], Answer], place: Any) -> Answer | None:
        """Send once and check the answer; None if there was none."""
        murder, began = self.murder.is_set(), time.monotonic()
        try:
            found = send_request(place)
        except (OSError, http.client.HTTPException, grpc.RpcError) as error:
            with self.lock:
                if murder or self.murder.is_set():
                    self.lost += 1
                else:
                    self.failed.append(f"{way}: {error!r}"[:500])
            return None
        with self.lock:
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.judge(way, found)
        return found

    def judge(self, way: str, found: Answer) -> None:
        if found.status != 200:
            self.failed.append(f"{way}: {found.status}: {found.output[:200]!r}")
        elif np.allclose(found.numbers, self.answers[found.version], rtol=1e-4, atol=1e-5):
            self.right[way, found.version] += 1
        else:
            self.wrong.append(f"{way}: {found.version}")

    def of(self, version: str) -> int:
        return sum(count for (_, name), count in self.right.items() if name == version)


@dataclass
class Answer:
    """What came back. `last`: the server closes the connection."""

    status: int
    version: str
    last: bool
    output: bytes

    @property
    def numbers(self) -> np.ndarray:
        return np.frombuffer(self.output, np.float32).reshape(3, 10)


def send_request(connection: http.client.HTTPConnection) -> Answer:
    headers = {"Inference-Header-Content-Length": str(len(HEAD)), "Content-Type": "application/octet-stream"}
    connection.request("POST", "/v2/models/cnn/infer", BODY, headers)
    answer = connection.getresponse()
    data = answer.read()
    if answer.status != 200:
        return Answer(answer.status, "", answer.will_close, data)
    length = int(answer.getheader("inference-header-content-length"))
    return Answer(200, json.loads(data[:length])["model_version"], answer.will_close, data[length:])


def call(channel: grpc.Channel) -> Answer:
    method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    fields = protobuf.parse(method(QUESTION, timeout=30))
    return Answer(200, protobuf.text(fields, 2), False, protobuf.blocks(fields, 6)[0])


@contextlib.contextmanager
def load(server: Serving, answers: dict[str, np.ndarray]) -> Iterator[Load]:
    made = Load(server.port, server.grpc_port, answers)
    threads = [threading.Thread(target=made.over_http) for _ in range(CLIENTS)]
    threads += [threading.Thread(target=made.over_grpc, args=(number % 2 == 1,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.stopped.set()
        for thread in threads:
            thread.join()


def changed_over(server: Serving, act: Callable[[], object]) -> None:
    """Do something, and wait until the processes of before have gone."""
    before, processes = len(server.events("changed over")), set(server.processes())
    act()
    server.until(lambda: len(server.events("changed over")) > before)
    server.until(lambda: not processes & set(server.processes()))


def connections(pid: int) -> int:
    found = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            found += os.readlink(path).startswith("socket:")
    return found


def replaced(server: Serving, number: int) -> None:
    """Send a signal to the busiest process, and wait until another has taken its place."""
    victim = max(server.processes(), key=connections)
    ready = len(server.events("ready"))
    os.kill(victim, number)
    server.until(lambda: victim not in server.processes())
    server.until(lambda: len(server.events("ready")) > ready)


def kill_the_installer(versions: Project, site: Path, after: float) -> int:
    environment = {"PATH": os.environ["PATH"], "HOME": str(versions.folder), "PACKAGER_STORE": str(versions.store)}
    command = [sys.executable, "-m", "packager", *words("upgrade", site)]
    process = subprocess.Popen(
        command, cwd=versions.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(after)
    process.kill()
    return process.wait()


@contextlib.contextmanager
def workers_killed(server: Serving, done: Counter[str]) -> Iterator[None]:
    """Kill the workers there are now, one after the other, while the block runs; those that start meanwhile live."""
    over = threading.Event()

    def kill(victims: list[int]) -> None:
        while victims and not over.wait(1.0):
            victim = victims.pop()
            with contextlib.suppress(ProcessLookupError):  # it ended with its process
                os.kill(victim, signal.SIGKILL)
                done["worker killed"] += 1

    victims = server.workers()
    random.shuffle(victims)
    killer = threading.Thread(target=kill, args=(victims,))
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


def report(clients: Load, done: Counter[str]) -> None:
    total = sum(clients.right.values())
    print(
        f"\n{total} right answers {dict(clients.right)}, {len(clients.wrong)} wrong, {len(clients.failed)} failed; "
        f"{clients.lost} lost; slowest {clients.slowest * 1000:.0f} ms; {dict(done)}"
    )


@pytest.fixture
def answers(versions: Project, site: Path) -> dict[str, np.ndarray]:
    """What 1.2.3 and 1.3.0 answer; the site has the first."""
    shutil.copytree(site, site.with_name("both"), symlinks=True)
    versions.run(*words("upgrade", site.with_name("both")))
    found = expected(site.with_name("both"))
    assert not np.allclose(found["1.2.3"], found["1.3.0"])
    return found


def test_a_running_server_follows_the_installation(versions: Project, site: Path, answers: dict) -> None:
    with serving(versions, site, "--set", "server.processes=2") as server, load(server, answers) as clients:
        changed_over(server, lambda: versions.run(*words("upgrade", site)))
        replaced(server, signal.SIGTERM)
        changed_over(server, lambda: versions.run(*words("rollback", site)))
        time.sleep(0.5)
    assert (clients.failed, clients.wrong, clients.lost) == ([], [], 0)
    assert min(clients.of("1.2.3"), clients.of("1.3.0")) > 10


def test_two_minutes_of_load_while_everything_changes(versions: Project, site: Path, answers: dict) -> None:
    done: Counter[str] = Counter()
    apart = ("--set", "server.processes=2", "--set", "runtime.processes=2")
    with serving(versions, site, *apart) as server, load(server, answers) as clients:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with workers_killed(server, done):
                kill_the_installer(versions, site, random.uniform(0.2, 4.0))
                done["installer killed"] += 1
                current = json.loads((site / "current" / "serve.json").read_text())["version"]
                if current == "1.2.3":
                    versions.run(*words("upgrade", site))
                server.until(lambda: (time.sleep(1.0), server.get("/v2/models/cnn/versions/1.3.0/ready")[0] == 200)[1])
                done["upgraded"] += 1
            with workers_killed(server, done):
                replaced(server, signal.SIGTERM)
                done["process ended"] += 1
            with workers_killed(server, done):
                changed_over(server, lambda: versions.run(*words("rollback", site)))
                done["rolled back"] += 1
            with workers_killed(server, done):
                changed_over(server, lambda: server.process.send_signal(signal.SIGHUP))
                done["reloaded"] += 1
    report(clients, done)
    assert (clients.failed, clients.wrong, clients.lost) == ([], [], 0)
    assert sum(clients.right.values()) > 1000
    assert min(clients.of("1.2.3"), clients.of("1.3.0")) > 100
    assert {way for way, _ in clients.right} == {"http", "grpc", "grpc, new channel"}
    assert done["upgraded"] >= 2 and done["worker killed"] >= 8


def test_a_killed_installer_leaves_no_process_behind(versions: Project, site: Path, tmp_path: Path) -> None:
    """Its canary, a server that no client uses, ends with it."""
    met = 0
    while met < 3:
        kill_the_installer(versions, site, random.uniform(1.0, 4.0))
        met += bool(running(tmp_path))
        end = time.monotonic() + 10
        while running(tmp_path):
            assert time.monotonic() < end
            time.sleep(0.1)
        if json.loads((site / "current" / "serve.json").read_text())["version"] == "1.3.0":
            versions.run(*words("rollback", site))


def running(place: Path) -> list[int]:
    """The processes whose program lies below a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(bytes(place)):
                found.append(int(path.parent.name))
    return found


def test_killed_process_loses_only_its_connections(versions: Project, site: Path, answers: dict) -> None:
    """The requests that such a process has are lost; all others, and the next ones, are served."""
    done: Counter[str] = Counter()
    with serving(versions, site, "--set", "server.processes=2") as server, load(server, answers) as clients:
        for _ in range(3):
            clients.murder.set()
            replaced(server, signal.SIGKILL)
            time.sleep(0.2)
            clients.murder.clear()
            done["process killed"] += 1
            time.sleep(1.0)
    report(clients, done)
    assert (clients.failed, clients.wrong) == ([], [])
    # Twice: what waited in the queue of the dead process's own gRPC socket goes with it as well.
    assert clients.lost <= 2 * (CLIENTS + CALLERS) * done["process killed"]
    assert sum(clients.right.values()) > 100
