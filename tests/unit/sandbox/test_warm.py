# SPDX-License-Identifier: Apache-2.0
"""Workers that are forks of a server: fresh for every step, started afresh where that cannot be, gone with the server."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from packager import exporters, plugins
from packager.actions import runner
from packager.actions.runner import Runner
from packager.exporters import _toys
from packager.sandbox import preloads, sandbox, warm
from packager.sandbox.sandbox import Confinement, Limits, Step
from packager.sandbox.warm import ForkServer
from packager.store.store import Store
from packager.types import Action, Tree

BY = Confinement("namespaces", seccomp=True, landlock=True, limits="step")
MEMORY = 4 << 30
pytestmark = pytest.mark.skipif(sandbox.find_confinement().limits != "step", reason="a control group bounds steps here")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("shared")
    for above in (found, found.parent):
        above.chmod(0o755)
    return found


@pytest.fixture(scope="module")
def server(shared: Path) -> Iterator[ForkServer]:
    made = ForkServer("tables", shared)
    yield made
    made.stop()


def said(server: ForkServer, code: str, *words: str) -> Any:
    """Return what code prints in a fork."""
    with tempfile.TemporaryDirectory(dir=server.shared) as name:
        scratch = Path(name)
        arguments, variables = ("-c", textwrap.dedent(code), *words), sandbox.build_environment(scratch, {"X": "y"})
        done = server.run(
            Step(scratch, sandbox.host_interpreter(), arguments, Limits(MEMORY, 60), variables), BY, set()
        )
    assert done is not None and done.code == 0, done
    return json.loads(done.log)


def test_forks_begin_alike_and_share_nothing_that_they_do(server: ForkServer) -> None:
    code = """
        import json, os, random, sys, numpy
        import sklearn.base
        first, variables = getattr(sklearn.base, "marked", None), sorted(os.environ)
        sklearn.base.marked = True
        os.environ["Y"] = "z"
        print(json.dumps({"marked": first, "drawn": [random.random(), float(numpy.random.rand())], "hash": hash("a word"),
            "environment": variables, "home": os.environ["HOME"] == os.getcwd(), "words": sys.argv,
            "imported": [name for name in sys.modules if name.partition(".")[0] in ("torch", "transformers", "keras")],
            "threads": len(os.listdir("/proc/self/task"))}))
    """
    one, other = said(server, code, "a"), said(server, code, "a")
    drawn = [*one.pop("drawn"), *other.pop("drawn")]
    assert len({*drawn}) == 4, "what nobody seeds differs in each process, as where it starts afresh"
    assert one == other
    assert (one["marked"], one["home"], one["words"], one["imported"], one["threads"]) == (
        None,
        True,
        ["-c", "a"],
        [],
        1,
    )
    assert one["environment"] == sorted({*sandbox.build_environment(Path("/"), {"X": "y"})})


def test_hash_seed_is_that_of_a_worker_that_starts_afresh(server: ForkServer) -> None:
    words = [sys.executable, "-c", "print(hash('a word'))"]
    fresh = subprocess.run(words, env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True).stdout
    assert said(server, "print(hash('a word'))") == int(fresh)


def server_process(server: ForkServer) -> Path:
    """Return where the kernel shows the process that forks, the one child of the one that was started."""
    assert server.is_alive
    (child,) = Path(f"/proc/{server._process.pid}/task/{server._process.pid}/children").read_text().split()
    return Path("/proc") / child


def test_the_server_itself_is_confined(server: ForkServer) -> None:
    place = server_process(server)
    rows = dict(row.split(":", 1) for row in (place / "status").read_text().splitlines())
    kept = sum(1 << number for number in (6, 7, 8, 12, 21))  # set ids, drop powers, make spaces
    assert int(rows["CapEff"], 16) == int(rows["CapBnd"], 16) & int(rows["CapEff"], 16) == kept
    assert rows["NoNewPrivs"].strip() == "1" and rows["Threads"].strip() == "1"
    for space in ("net", "mnt", "pid", "ipc", "uts"):
        assert (place / "ns" / space).readlink() != Path(f"/proc/self/ns/{space}").readlink(), space
    mounts = [row.split() for row in (place / "mountinfo").read_text().splitlines()]
    writable = {row[4] for row in mounts if "rw" in row[5].split(",")}
    own = {str(server.shared.resolve()), str(Path(server._scratch.name).resolve() / "home"), "/tmp"}
    devices = {point for point in writable if point.startswith("/dev/")} - own
    assert writable - devices - ({"/proc"} if os.getuid() else set()) == own


def test_no_fork_sees_the_scratch_of_another_step(server: ForkServer) -> None:
    (server.shared / "other").mkdir(exist_ok=True)
    (server.shared / "other" / "model").write_text("the model of another step")
    code = "import json, os, sys; print(json.dumps([os.path.lexists(word) for word in sys.argv[1:]]))"
    assert said(server, code, str(server.shared / "other"), str(server._scratch.name)) == [False, False]


SLEEPER = """
import sys, tempfile
from pathlib import Path
from packager.sandbox import sandbox, warm
from tests.unit.sandbox.test_warm import BY, MEMORY
server = warm.ForkServer("tables", Path(sys.argv[1]))
with tempfile.TemporaryDirectory(dir=sys.argv[1]) as scratch:
    words = ("-c", "import os, time; os.fork(); open('../out/begun', 'w').close(); time.sleep(300)")
    server.run(sandbox.Step(Path(scratch), sandbox.host_interpreter(), words, sandbox.Limits(MEMORY, 300), {}), BY, set())
"""


def mentioned(mark: str) -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [place.parent.name] if mark in place.read_text(errors="replace") else []
        except OSError:
            continue
    return found


def test_server_and_forks_end_with_the_program_that_started_them(tmp_path: Path) -> None:
    for above in (tmp_path, tmp_path.parent):
        above.chmod(0o755)
    program = subprocess.Popen([sys.executable, "-c", SLEEPER, tmp_path], cwd=Path(__file__).parents[3])
    try:
        deadline = time.monotonic() + 120
        while not [*tmp_path.glob("*/out/begun")]:
            assert time.monotonic() < deadline and program.poll() is None
            time.sleep(0.1)
        assert len(mentioned(str(tmp_path))) >= 5, "the program, the server, the first process, the step and its child"
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait()
    while (left := mentioned(str(tmp_path))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def test_a_server_that_still_imports_ends_with_its_program(tmp_path: Path) -> None:
    """Importing takes seconds, in which nothing is read from the program."""
    for above in (tmp_path, tmp_path.parent):
        above.chmod(0o755)
    code = "import sys; from pathlib import Path; from packager.sandbox import warm; warm.ForkServer('torch', Path(sys.argv[1])).is_alive"
    program = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=Path(__file__).parents[3])
    try:
        while len(mentioned(str(tmp_path))) < 2:
            assert program.poll() is None
        time.sleep(0.3)  # it enters its spaces first
        assert len(mentioned(str(tmp_path))) >= 2 and program.poll() is None
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait()
    time.sleep(0.5)
    assert mentioned(str(tmp_path)) == []


def test_a_killed_step_ends(server: ForkServer) -> None:
    class Killing(set[Any]):
        def add(self, process: Any) -> None:
            super().add(process)
            process.kill()

    started, living = time.monotonic(), Killing()
    with tempfile.TemporaryDirectory(dir=server.shared) as name:
        words = ("-c", "import time; time.sleep(100)")
        step = Step(Path(name), sandbox.host_interpreter(), words, Limits(MEMORY, 90), {})
        done = server.run(step, BY, living)
    assert done is not None and done.code != 0
    assert time.monotonic() - started < 60 and not living


def test_a_library_that_starts_a_thread_is_never_forked(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "_ONE_THREAD", {"OPENBLAS_NUM_THREADS": "2"})
    assert not ForkServer("tables", shared).is_alive, "numpy's library starts a thread where it may have two"


# what a build does


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    for above in (tmp_path, tmp_path.parent):
        above.chmod(0o755)
    yield Store(tmp_path / "store")
    warm.stop_servers()


def export(store: Store, kind: str = "sklearn") -> tuple[Runner, Action]:
    """Return a runner and the export of a small model."""
    toy = _toys.toy_writer(kind)
    assert toy is not None
    folder = store.root.parents[1] / f"toy-{kind}"  # one for all stores of a test: torch draws weights
    if not folder.exists():
        folder.mkdir()
        toy[0](folder)
    names = [path.name for path in folder.iterdir()]
    payload = exporters.exporter(kind).detect(names, lambda name: (folder / name).read_bytes())
    source = Tree.of({name: store.put((folder / name).read_bytes()) for name in names})
    store.put_tree(source)
    params = {"kind": kind, "payload": payload, "opset": 18, "ir": 8, **toy[1]}
    action = Action("export", plugins.load("steps", "export").VERSION, {"source": source.digest}, params)
    return Runner(store, Limits(MEMORY, 600)), action


def performed(store: Store, monkeypatch: pytest.MonkeyPatch, kind: str = "sklearn", *, forked: bool) -> Any:
    made, action = export(store, kind)
    if not forked:
        monkeypatch.setenv(warm.SWITCH, "0")
    found = made(action, "export")
    monkeypatch.delenv(warm.SWITCH, raising=False)
    return found


SLOW = (
    pytest.mark.slow
)  # up to 20 s of processor for what `sklearn` shows; bench_forks.py compares whole bundles besides
KINDS = [
    pytest.param(kind, marks=[] if kind == "sklearn" else SLOW)
    for kind, name in preloads.OF_KIND.items()
    if _toys.toy_writer(kind)
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_build_forks_and_makes_the_same_bytes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    forked = performed(store, monkeypatch, kind, forked=True)
    assert warm.find_running(store.root / "tmp") is not None
    assert forked.confinement["level"] == "namespaces", "what is said of it is how it was"
    other = Store(tmp_path / "other")
    fresh = performed(other, monkeypatch, kind, forked=False)
    assert warm.find_running(other.root / "tmp") is None
    assert (forked.tree, forked.facts) == (fresh.tree, fresh.facts)


def test_libraries_are_imported_beside_the_scan_that_comes_before(store: Store) -> None:
    """The scan waits for nothing: it starts afresh, and what opens the source next finds a server that imports already."""
    by = sandbox.find_confinement()
    scan = Action("scan", 1, {}, {"scanner": "picklescan", "files": []})
    job = runner.Job(scan, "scan", Limits(MEMORY, 60))
    assert runner.find_fork_server(job, store, by) is None and not warm._servers, "no source is opened next"
    assert runner.find_fork_server(dataclasses.replace(job, next_kind="onnx"), store, by) is None and not warm._servers
    assert runner.find_fork_server(dataclasses.replace(job, next_kind="sklearn"), store, by) is None
    (begun,) = warm._servers.values()
    assert begun._size is None, "it was not waited for"
    _, action = export(store)
    assert runner.find_fork_server(runner.Job(action, "export", Limits(MEMORY, 60)), store, by) is begun
    assert runner.find_fork_server(job, store, by) is begun, "a later scan is a fork"


def test_a_server_that_imports_yet_can_be_stopped(store: Store) -> None:
    begun = warm.begin_server("torch", store.root / "tmp", BY)
    assert begun is not None and not begun.has_forked
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(begun.is_alive))
    waiting.start()
    warm.stop_servers()
    waiting.join()
    assert answers == [False] and begun._process.returncode is not None


def test_where_a_server_has_died_steps_start_afresh(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = warm.find_server("tables", store.root / "tmp", BY)
    assert made is not None
    made._process.kill()
    made._process.wait()
    assert performed(store, monkeypatch, forked=True).facts["graph"], "nobody had noticed yet that it is dead"
    assert not made.is_alive


def test_no_server_for_little_memory_other_environments_or_no_confinement(store: Store) -> None:
    _, action = export(store)
    by, wide = sandbox.find_confinement(), Limits(MEMORY, 60)
    job = runner.Job(action, "export", wide)
    assert runner.find_fork_server(job, store, by) is not None
    assert runner.find_fork_server(runner.Job(action, "export", Limits(1 << 28, 60)), store, by) is None
    assert runner.find_fork_server(runner.Job(action, "export", wide, virtualenv=Path), store, by) is None
    assert runner.find_fork_server(job, store, sandbox.NONE) is None
    group = Confinement("bubblewrap", seccomp=True, limits="cgroup")
    assert runner.find_fork_server(job, store, group) is None


def test_every_kind_and_step_of_the_lists_exists() -> None:
    assert {*preloads.OF_KIND} <= {*plugins.list_names("exporters")}
    assert {*preloads.OF_KIND.values()} == {*preloads.LISTS}
    assert {*preloads.WARM_STEPS} <= {*plugins.list_names("steps")}
