# SPDX-License-Identifier: Apache-2.0
"""Runs in worker processes: every type and size has the same results, and a dead worker costs no answer."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from packager.runtimes.onnxruntime.session import open_session

from packager.server import config
from packager.server.errors import RequestError, StartError
from packager.server.execution import shared_memory
from packager.server.execution.worker_pool import RunFailedError, WorkerPool, WorkerSettings
from tests.e2e.test_server import ONNX_TYPES, every_type, mlp, picky, slow, value, write
from tests.support.breadth import ALL

ENVIRONMENT = {"PATH": os.environ["PATH"], "SECRET": "of-the-site"}


@contextmanager
def workers(path: Path, count: int = 2) -> Iterator[WorkerPool]:
    pool = WorkerPool(config.read(path), WorkerSettings(count, 1, ENVIRONMENT))
    try:
        yield pool
    finally:
        pool.close()


def pids() -> list[int]:
    """The children of this process that run a model."""
    found = []
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            found += [int(pid) for pid in path.read_text().split()]
    return [pid for pid in found if b"packager.server.execution.worker" in words(pid)]


@pytest.fixture(autouse=True)
def _alone() -> None:
    """Begin without workers of a test before, which may still be starting when their pool closes."""
    if pids():
        gc.collect()
    until(lambda: not pids())


def loaded(pool: WorkerPool) -> list[int]:
    """The workers of `pool` that have their model."""
    return [worker.pid for worker in pool._living.copy()]


def kill(pid: int) -> None:
    """Kill a worker, which may have died and been reaped since its number was read."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def until(what: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def here(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return open_session(path.parent / "model.onnx", threads=1).run(feeds)


def same(got: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for one, other in zip(got, wanted, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tolist() == other.tolist() if one.dtype == object else one.tobytes() == other.tobytes()


# --- what goes over ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An input and an equal output of every type and of any three sizes, and a scalar."""
    names = list(ONNX_TYPES)
    sizes: list[object] = ["batch", "wide", "deep"]
    nodes = [helper.make_node("Identity", [f"{name}_in"], [f"{name}_out"]) for name in names]
    nodes.append(helper.make_node("Identity", ["scalar_in"], ["scalar_out"]))
    ports = [
        [value(f"{name}_{way}", name, sizes) for name in names] + [value(f"scalar_{way}", "float64", [])]
        for way in ("in", "out")
    ]
    return write(tmp_path_factory.mktemp("echo") / "echo", nodes, *ports)


def feeds_of(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    feeds: dict[str, np.ndarray] = {"scalar_in": np.array(random.random())}
    for name, array in every_type().items():
        feeds[f"{name}_in"] = random.choice(array.reshape(-1), shape).astype(array.dtype)
    return feeds


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (0, 2, 2), (2, 0, 3), (64, 100, 16)])
def test_every_type_and_size_comes_back_bit_for_bit(echo: Path, shape: tuple[int, ...]) -> None:
    with workers(echo, 1) as pool:
        feeds = feeds_of(shape)
        for _ in range(2):
            got = pool.run(feeds)
            same(got, [feeds[port.name.replace("_out", "_in")] for port in pool.outputs])
        assert all(array.flags.owndata or array.base is None or array.dtype == object for array in got)


def test_strided_arrays_and_unusual_strings(echo: Path) -> None:
    with workers(echo, 1) as pool:
        feeds = feeds_of((4, 6, 8))
        feeds["float32_in"] = np.arange(192, dtype=np.float32).reshape(8, 6, 4).T
        feeds["int64_in"] = np.arange(384, dtype=np.int64).reshape(4, 6, 16)[:, :, ::2]
        feeds["string_in"] = np.array(["", "\0", "ä€𝄞", "x" * 70_000] * 48, dtype=object).reshape(4, 6, 8)
        for name, array in zip([port.name for port in pool.outputs], pool.run(feeds), strict=True):
            wanted = feeds[name.replace("_out", "_in")]
            assert array.tolist() == wanted.tolist() and array.dtype == wanted.dtype, name


def test_a_large_message_does_not_stay_in_memory(tmp_path: Path) -> None:
    path = write(
        tmp_path / "relu",
        [helper.make_node("Relu", ["x"], ["y"])],
        [value("x", "float32", ["batch", 1024])],
        [value("y", "float32", ["batch", 1024])],
    )
    with workers(path, 1) as pool:
        small, large = (np.full((rows, 1024), -1.5, np.float32) for rows in (1, 50_000))
        pool.run({"x": small})
        before = shared()
        assert before > 0
        (answer,) = pool.run({"x": large})
        assert answer.shape == large.shape and not answer.any()
        pool.run({"x": small})
        assert shared() - before < 20 << 20 < large.nbytes


def shared() -> int:
    """Bytes of memory behind the lanes of this process."""
    held: dict[int, int] = {}  # by file: a mapping has a separate descriptor
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own is gone by now
            if os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:"):
                about = os.stat(f"/proc/self/fd/{name}")
                held[about.st_ino] = 512 * about.st_blocks
    return sum(held.values())


def test_runtime_error_is_reported_and_the_worker_continues(tmp_path: Path) -> None:
    path = picky(tmp_path)
    with workers(path, 1) as pool:
        (pid,) = pids()
        with pytest.raises(RunFailedError, match=r"InvalidArgument.*out of"):
            pool.run({"index": np.array([9])})
        same(pool.run({"index": np.array([2])}), here(path, {"index": np.array([2])}))
        assert pids() == [pid]


@pytest.mark.parametrize("message", [(10**9, 10), (0, 0), (0, 5)])
def test_malformed_frame_is_refused(message: tuple[int, int]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, shared_memory.create_memory() as file:
        receiver = shared_memory.Receiver(ours, file)
        theirs.send(shared_memory._FRAME.pack(*message))
        with pytest.raises(shared_memory.MalformedMessageError):
            receiver.receive()


@pytest.mark.parametrize(
    "row",
    [
        '["float32",[9],0,4]',
        '["object",[1],0,8]',
        '["float32",[99999999],0,399999996]',
        '["float32",[-1],0,4]',
        '["string",[1],0,8]',
        '["float32",[1],-4,4]',
        "7",
    ],
)
def test_header_with_wrong_sizes_is_refused(row: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, shared_memory.create_memory() as file:
        receiver = shared_memory.Receiver(ours, file)
        header = f'{{"tensors":[{row}]}}'.encode()
        file.seek(0)
        file.write(b"\xff\xff\xff\xff1234" + header)
        theirs.send(shared_memory._FRAME.pack(8, len(header)))
        with pytest.raises(shared_memory.MalformedMessageError):
            receiver.receive()


def test_shared_memory_cannot_shrink() -> None:
    with shared_memory.create_memory() as file, pytest.raises(PermissionError):
        file.truncate(1)


# --- deaths --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A model and a question it thinks about for two seconds of processor time or so."""
    path = slow(tmp_path_factory.mktemp("long"))
    session, rounds = open_session(path.parent / "model.onnx", threads=1), 100
    while True:
        began = time.thread_time()
        session.run({"rounds": np.array([rounds])})
        if (spent := time.thread_time() - began) > 0.2:
            return path, np.array([int(2 * rounds / spent)])
        rounds *= 2


def busy(pid: int) -> float:
    """Processor seconds that a process has used, or 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # a killed worker is reaped before its pool forgets its number
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def kill_the_busy(living: Callable[[], list[int]], seen: dict[int, float]) -> int:
    """Kill the worker that is in the middle of a run. `seen`: what each had used when it was first looked at."""

    killed: list[int] = []

    def kill_one() -> bool:
        for pid in living():
            if busy(pid) > seen.setdefault(pid, busy(pid)) + 0.15:
                kill(pid)
                seen[pid] = float("inf")  # once is enough
                killed.append(pid)
                return True
        return False

    until(kill_one, 60)
    return killed[0]


@pytest.mark.parametrize("count", [1, 2])
def test_run_of_a_dead_worker_is_repeated_on_another(long: tuple[Path, np.ndarray], count: int) -> None:
    path, rounds = long
    with workers(path, count) as pool, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(pool.run, {"rounds": rounds})
        victim = kill_the_busy(lambda: loaded(pool), {})
        assert answer.result(60)[0] == 256.0
        until(lambda: len(pids()) == count and victim not in pids())
        until(lambda: len(pool._living) == count)


def test_run_that_kills_two_workers_is_given_up(long: tuple[Path, np.ndarray]) -> None:
    path, rounds = long
    with workers(path, 2) as pool, ThreadPoolExecutor(4) as threads:
        seen: dict[int, float] = {}
        answer = threads.submit(pool.run, {"rounds": rounds})
        first, second = (kill_the_busy(lambda: loaded(pool), seen) for _ in range(2))
        with pytest.raises(RequestError, match="2 processes died while they ran this request") as caught:
            answer.result(60)
        assert caught.value.status == 500
        others = [threads.submit(pool.run, {"rounds": np.array([number])}) for number in range(8)]
        assert [float(other.result(60)[0]) for other in others] == [256.0] * 8
        assert not {first, second} & set(pids())


def test_workers_killed_while_idle_cost_nothing(tmp_path: Path) -> None:
    path = mlp(tmp_path)
    x = np.ones((2, 8), np.float32)
    wanted = here(path, {"x": x})
    with workers(path, 2) as pool:
        for _ in range(3):
            for pid in pids():
                kill(pid)
            same(pool.run({"x": x}), wanted)


def test_constant_kills_under_constant_runs_lose_nothing(tmp_path: Path) -> None:
    path = mlp(tmp_path)
    random, stop = np.random.default_rng(3), threading.Event()
    questions = [random.random((1 + number % 5, 8)).astype(np.float32) for number in range(40)]
    session = open_session(path.parent / "model.onnx", threads=1)
    wanted = [session.run({"x": x}) for x in questions]

    def run_one(number: int) -> tuple[int, int]:
        """Return how many runs were answered, and how many were given up after two kills that hit this very run."""
        done = lost = 0
        while not stop.is_set():
            index = (number + 7 * done) % len(questions)
            try:
                same(pool.run({"x": questions[index]}), wanted[index])
                done += 1
            except RequestError as error:
                assert "2 processes died" in error.message
                lost += 1
        return done, lost

    with workers(path, 3) as pool, ThreadPoolExecutor(6) as threads:
        answers = [threads.submit(run_one, number) for number in range(6)]
        kills = 6 if ALL else 3
        for _ in range(kills):
            time.sleep(0.3)
            kill(loaded(pool)[0])
            until(lambda: len(pool._living) == 3, 60)
        stop.set()
        found = [answer.result(60) for answer in answers]
        assert sum(done for done, _ in found) > 250
        assert 2 * sum(lost for _, lost in found) <= kills, "a busy machine may have one run twice in a killed worker"


def test_pool_without_workers_refuses_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mlp(tmp_path)
    monkeypatch.setattr("packager.server.execution.worker_pool._NO_WORKER_SECONDS", 0.3)
    with workers(path, 1) as pool:
        weights = path.with_name("model.onnx")
        weights.rename(path.with_name("away"))
        kill(loaded(pool)[0])
        until(lambda: not pool.alive)
        with pytest.raises(RequestError, match="no process that runs the model is alive") as caught:
            pool.run({"x": np.ones((1, 8), np.float32)})
        assert caught.value.status == 503
        path.with_name("away").rename(weights)
        until(lambda: pool.alive)
        assert len(pool.run({"x": np.ones((1, 8), np.float32)})) == 2


def test_unloadable_artefact_fails_the_start_with_its_message(tmp_path: Path) -> None:
    path = mlp(tmp_path)
    path.with_name("model.onnx").write_bytes(b"no model")
    with pytest.raises(StartError, match="onnxruntime cannot load") as caught:
        WorkerPool(config.read(path), WorkerSettings(2, 1, ENVIRONMENT))
    assert caught.value.code == 4
    gc.collect()
    until(lambda: not pids())


@pytest.mark.parametrize(("deaths", "starts"), [(2, True), (3, False)])
def test_workers_killed_while_loading_are_restarted(deaths: int, starts: bool, tmp_path: Path) -> None:
    path, killed, lost = mlp(tmp_path), set[int](), list[None]()

    def kill_each() -> None:
        while len(killed) < deaths:
            for pid in {*pids()} - killed:
                kill(pid)
                killed.add(pid)
            time.sleep(0.001)

    with ThreadPoolExecutor(1) as threads:
        killer = threads.submit(kill_each)
        if starts:
            pool = WorkerPool(config.read(path), WorkerSettings(1, 1, ENVIRONMENT), lambda: lost.append(None))
            assert len(pool.run({"x": np.ones((1, 8), np.float32)})) == 2
            pool.close()
        else:
            with pytest.raises(StartError, match="was ended by SIGKILL"):
                WorkerPool(config.read(path), WorkerSettings(1, 1, ENVIRONMENT), lambda: lost.append(None))
        killer.result(20)
    assert (len(killed), len(lost)) == (deaths, 2)


PARENT = """
import sys, threading, time
import numpy as np
from pathlib import Path
from packager.server import config
from packager.server.execution.worker_pool import WorkerPool, WorkerSettings
pool = WorkerPool(config.read(Path(sys.argv[1])), WorkerSettings(2, 1, {}))
for _ in range(2):
    threading.Thread(target=pool.run, args=({"rounds": np.array([10**9])},), daemon=True).start()
time.sleep(0.3)
print(*(worker.pid for worker in pool._living), flush=True)
time.sleep(60)
"""


def test_workers_end_with_their_parent_during_a_run(long: tuple[Path, np.ndarray]) -> None:
    command = [sys.executable, "-c", PARENT, str(long[0])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2 and all(words(pid) for pid in children)
        parent.kill()
        until(lambda: not any(words(pid) for pid in children), 2)


# --- what it costs and shows ---------------------------------------------------------------------------------------


def test_worker_environment_is_filtered(tmp_path: Path) -> None:
    with workers(mlp(tmp_path), 1):
        (pid,) = pids()
        shown = dict(row.split(b"=", 1) for row in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if row)
        assert shown == {b"PATH": os.environ["PATH"].encode()}
        files = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
        assert sum(name.startswith("socket:") for name in files) == 1, files
        adjusted = int(Path(f"/proc/{pid}/oom_score_adj").read_text())
        assert adjusted == min(1000, int(Path("/proc/self/oom_score_adj").read_text()) + 100)


def test_ten_thousand_runs_leave_memory_as_it_was(tmp_path: Path) -> None:
    def resident(pid: object) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()

    with workers(mlp(tmp_path), 1) as pool:
        x = np.ones((16, 8), np.float32)
        for _ in range(2000):
            pool.run({"x": x})
        (pid,) = pids()
        before = {process: resident(process) for process in ("self", pid)}
        files = len(os.listdir("/proc/self/fd"))
        for _ in range(10_000):
            pool.run({"x": x})
        assert len(os.listdir("/proc/self/fd")) == files
        for process, size in before.items():
            assert resident(process) - size < 2 << 20, process


def test_workers_map_one_file_of_weights(tmp_path: Path) -> None:
    """Weights beside the model are pages of their file, which all workers share."""
    weight = np.random.default_rng(0).random((4096, 4096)).astype(np.float32)
    path = write(
        tmp_path / "wide",
        [helper.make_node("Gather", ["w", "x"], ["y"])],
        [value("x", "int64", ["batch"])],
        [value("y", "float32", ["batch", 4096])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = onnx.load(path.with_name("model.onnx"))
    onnx.save(model, path.with_name("model.onnx"), save_as_external_data=True, location="weights", size_threshold=0)
    with workers(path, 2) as pool:
        (rows,) = pool.run({"x": np.arange(4096)})
        assert rows.tobytes() == weight.tobytes()
        for pid in pids():
            assert b"weights" in Path(f"/proc/{pid}/maps").read_bytes(), pid
