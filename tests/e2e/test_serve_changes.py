# SPDX-License-Identifier: Apache-2.0
"""`packager serve` under constant load while everything below it changes: releases, processes, the installer, knobs.

Every answer is held against the output that the release it names gives in this process. A request fails when it is not
answered with 200 and the right numbers. Clients ask once; only where a process is killed with SIGKILL, which takes
the requests in its hands with it, is a lost connection counted apart and asked again.
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

import numpy as np
import onnxruntime
import pytest

from tests.e2e.conftest import HERE, Project

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cnn")]

X = np.random.default_rng(0).random((3, 1, 8, 8)).astype(np.float32)
HEAD = json.dumps({
    "inputs": [{"name": "image", "datatype": "FP32", "shape": list(X.shape),
                "parameters": {"binary_data_size": X.nbytes}}],
    "parameters": {"binary_data_output": True},
}).encode()  # fmt: skip
BODY = HEAD + X.tobytes()
CLIENTS = 6


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
    """A running `packager serve` and what it said."""

    process: subprocess.Popen[str]
    port: int
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

    def workers(self) -> list[int]:
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return [int(line) for line in found.stdout.split()]

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
    port = free_port()
    command = [sys.executable, "-m", "packager", "serve", str(site), "--port", str(port), *options]
    environment = {"PATH": os.environ["PATH"], "HOME": str(site.parent), "PACKAGER_STORE": str(versions.store), **extra}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=versions.folder, env=environment)
    started = Serving(process, port, site)
    reader = threading.Thread(target=lambda: started.lines.extend(process.stderr))
    reader.start()
    try:
        started.until(lambda: started.events("ready"))
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
    """Clients that ask without a pause, each on its own connection, until told to stop."""

    port: int
    answers: dict[str, np.ndarray]
    stopped: threading.Event = field(default_factory=threading.Event)
    murder: threading.Event = field(default_factory=threading.Event)
    right: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    lost: int = 0
    slowest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self) -> None:
        connection, again = None, False
        while not self.stopped.is_set():
            connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            murder, began = self.murder.is_set(), time.monotonic()
            try:
                status, version, close, output = ask(connection)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                connection = None
                with self.lock:
                    if (murder or self.murder.is_set()) and not again:
                        self.lost += 1
                        again = True
                    else:
                        self.failed.append(repr(error))
                continue
            again = False
            with self.lock:
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.judge(status, version, output)
            if close:
                connection.close()
                connection = None

    def judge(self, status: int, version: str, output: bytes) -> None:
        if status != 200:
            self.failed.append(f"{status}: {output[:200]!r}")
        elif np.allclose(np.frombuffer(output, np.float32).reshape(3, 10), self.answers[version], rtol=1e-4, atol=1e-5):
            self.right[version] += 1
        else:
            self.wrong.append(version)


def ask(connection: http.client.HTTPConnection) -> tuple[int, str, bool, bytes]:
    headers = {"Inference-Header-Content-Length": str(len(HEAD)), "Content-Type": "application/octet-stream"}
    connection.request("POST", "/v2/models/cnn/infer", BODY, headers)
    answer = connection.getresponse()
    data = answer.read()
    if answer.status != 200:
        return answer.status, "", answer.will_close, data
    length = int(answer.getheader("inference-header-content-length"))
    return 200, json.loads(data[:length])["model_version"], answer.will_close, data[length:]


@contextlib.contextmanager
def load(server: Serving, answers: dict[str, np.ndarray]) -> Iterator[Load]:
    made = Load(server.port, answers)
    threads = [threading.Thread(target=made.client) for _ in range(CLIENTS)]
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
    before, processes = len(server.events("changed over")), set(server.workers())
    act()
    server.until(lambda: len(server.events("changed over")) > before)
    server.until(lambda: not processes & set(server.workers()))


def connections(pid: int) -> int:
    found = (os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir())
    return sum(name.startswith("socket:") for name in found)


def replaced(server: Serving, number: int) -> None:
    """Send a signal to the busiest process, and wait until another has taken its place."""
    victim = max(server.workers(), key=connections)
    ready = len(server.events("ready"))
    os.kill(victim, number)
    server.until(lambda: victim not in server.workers())
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


def test_a_running_server_follows_the_installation(versions: Project, site: Path) -> None:
    shutil.copytree(site, site.with_name("both"), symlinks=True)
    versions.run(*words("upgrade", site.with_name("both")))
    answers = expected(site.with_name("both"))
    assert not np.allclose(answers["1.2.3"], answers["1.3.0"])
    with serving(versions, site, "--set", "server.processes=2") as server, load(server, answers) as asked:
        changed_over(server, lambda: versions.run(*words("upgrade", site)))
        replaced(server, signal.SIGTERM)
        changed_over(server, lambda: versions.run(*words("rollback", site)))
        time.sleep(0.5)
    assert (asked.failed, asked.wrong, asked.lost) == ([], [], 0)
    assert min(asked.right["1.2.3"], asked.right["1.3.0"]) > 10


def test_two_minutes_of_load_while_everything_changes(versions: Project, site: Path) -> None:
    shutil.copytree(site, site.with_name("both"), symlinks=True)
    versions.run(*words("upgrade", site.with_name("both")))
    answers = expected(site.with_name("both"))
    done: Counter[str] = Counter()
    with serving(versions, site, "--set", "server.processes=2") as server, load(server, answers) as asked:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            kill_the_installer(versions, site, random.uniform(0.2, 4.0))
            done["installer killed"] += 1
            current = json.loads((site / "current" / "serve.json").read_text())["version"]
            if current == "1.2.3":
                versions.run(*words("upgrade", site))
            server.until(lambda: (time.sleep(1.0), server.get("/v2/models/cnn/versions/1.3.0/ready")[0] == 200)[1])
            done["upgraded"] += 1
            replaced(server, signal.SIGTERM)
            done["process ended"] += 1
            asked.murder.set()
            replaced(server, signal.SIGKILL)
            time.sleep(0.2)
            asked.murder.clear()
            done["process killed"] += 1
            changed_over(server, lambda: versions.run(*words("rollback", site)))
            done["rolled back"] += 1
            changed_over(server, lambda: server.process.send_signal(signal.SIGHUP))
            done["reloaded"] += 1
    total = sum(asked.right.values())
    print(f"\n{total} right answers {dict(asked.right)}, {len(asked.wrong)} wrong, {len(asked.failed)} failed; "
          f"{asked.lost} asked again after SIGKILL; slowest {asked.slowest * 1000:.0f} ms; {dict(done)}")  # fmt: skip
    assert (asked.failed, asked.wrong) == ([], [])
    assert asked.lost <= CLIENTS * done["process killed"]
    assert total > 1000
    assert done["upgraded"] >= 2
