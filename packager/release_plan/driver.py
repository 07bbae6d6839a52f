# SPDX-License-Identifier: Apache-2.0
"""Release the models of a file: as many processes as jobs, each with one model at a time, until none is left.

A model whose tasks fail, or whose process dies, is one row; the others go on, but for those that wait for it. What this
process holds does not grow with what models are: rows lie in a file, and processes end after some models.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from packager import canonical
from packager.canonical import JSON
from packager.errors import StepError, UsageError
from packager.events import Finished, Note, OnEvent, Started, Warned, ignore
from packager.release_plan.journal import Journal
from packager.release_plan.plan import BAD, TASKS, ModelRow, Problem, Totals, stopped_row, waiting_row
from packager.release_plan.relay import Relay
from packager.release_plan.release_file import Model, ReleaseFile
from packager.store.store import Store

_LIFE = 100  # models that one process releases before a fresh one takes its place
_GRACE = 10.0  # seconds in which an interrupted process ends by itself
_CHUNK = 1 << 16
_STEPS = 4  # steps of one model that a cluster performs at the same time
_LOG = 4000  # bytes of what a dead process printed


@dataclass(frozen=True, slots=True)
class Options:
    """How a release runs: the store's directory, how many models at a time, how registries are reached.

    `environments` is where the conformance suite keeps environments, `secrets` passphrases and tokens by the URI of the
    signer, `again` are tasks that run whatever is remembered. `until` is the last task. With `dry` nothing runs, and
    rows are the plan. `cluster` is where steps run instead of on this machine.
    """

    store: Path
    environments: Path
    jobs: int = 1
    registry_ca: Path | None = None
    plain_http: bool = False
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    again: frozenset[str] = frozenset()
    builder: str | None = None
    dry: bool = False
    until: str = TASKS[-1]
    cluster: Cluster | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray cluster: its address or `auto`, the address of the shared store, the variables that configure Ray here."""

    ray: str
    shared: str
    variables: Mapping[str, str] = field(default_factory=dict)


class Rows:
    """The rows of a release in a temporary file, in the order of its models; only their positions are in memory."""

    def __init__(self, base: Path | None = None) -> None:
        self.base = base  # the directory of the release file
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the rows are read
        self._positions: dict[str, int] = {}
        self.totals = Totals()

    def add(self, row: ModelRow) -> None:
        """Keep a row."""
        self._positions[row.name] = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(row.to_json()).encode() + b"\n")
        self.totals.add(row)

    def __iter__(self) -> Iterator[ModelRow]:
        for name in sorted(self._positions):
            self._file.seek(self._positions[name])
            yield ModelRow.from_json(json.loads(self._file.readline()))

    def __len__(self) -> int:
        return len(self._positions)


def run_release(file: ReleaseFile, options: Options, on_event: OnEvent = ignore, *, exclusive: bool = True) -> Rows:
    """Perform the tasks of all models, or plan them; return a row for each.

    Raises UsageError where another process releases the same file now, StorageError where the journal cannot be used,
    and for a cluster what `packager.cluster.client.Gateway` raises.
    Not `exclusive`, the caller sees to it that no two processes release the same model.
    """
    store = Store(options.store)
    store.sweep()
    folder = store.root / "releases"
    folder.mkdir(exist_ok=True)
    Journal(folder / "journal.sqlite").close()  # its tables exist before the first process opens it
    alone = _alone(folder, file.path) if exclusive else contextlib.nullcontext()
    with alone, store.scratch() as shared:
        run = _Run(file, options, folder / "journal.sqlite", shared, on_event)
        try:
            run.loop()
        finally:
            run.end()
        return run.rows


@contextlib.contextmanager
def _alone(folder: Path, path: Path) -> Iterator[None]:
    name = canonical.sha256(os.fsencode(path.resolve())).removeprefix("sha256:")
    with (folder / f"{name}.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process releases `{path}` now", hint="wait for its end, or end it") from None
        yield


@dataclass(slots=True)
class _Process:
    """One release process, and the model that it has."""

    popen: subprocess.Popen[bytes]
    jobs: BinaryIO
    answers: BinaryIO
    log: BinaryIO
    model: Model | None = None
    label: str = ""
    begun: float | None = None
    task: str = ""
    left: int = _LIFE
    unread: bytearray = field(default_factory=bytearray)


class _Run:
    """The state of one release: what is ready, what runs, what waits."""

    def __init__(self, file: ReleaseFile, options: Options, journal: Path, shared: Path, on_event: OnEvent) -> None:
        self.options, self.on_event, self.rows = options, on_event, Rows(file.path.absolute().parent)
        self.models = {model.name: model for model in file.models}
        self.context = _context(file.path.absolute().parent, options, journal, shared)
        self.waits = {model.name: set(model.after) for model in file.models}
        self.ready = deque(name for name, others in self.waits.items() if not others)
        self.followers: dict[str, list[str]] = {}
        for model in file.models:
            for other in model.after:
                self.followers.setdefault(other, []).append(model.name)
        self.processes: list[_Process] = []
        self.events = selectors.DefaultSelector()
        self.started = 0
        self.relay: Relay | None = None

    def loop(self) -> None:
        if self.options.cluster and not self.options.dry:
            self._connect(self.options.cluster)
        while self.ready or any(process.model for process in self.processes):
            self._assign()
            for key, _ in self.events.select():
                key.data()

    def _connect(self, cluster: Cluster) -> None:
        """Connect to the cluster before any work begins."""
        from packager.cluster.client import Gateway

        gateway = Gateway(cluster.ray, cluster.variables)
        self.relay = Relay(gateway, self.on_event)
        gateway.connect()
        self.events.register(self.relay.answers, selectors.EVENT_READ, self.relay.read)
        self.on_event(Note(f"Ray at `{cluster.ray}`: {len(gateway.nodes)} nodes"))

    def end(self) -> None:
        """End every process: those without work by closing their input, others by a signal; nothing is left running."""
        if self.relay:
            with contextlib.suppress(KeyError):
                self.events.unregister(self.relay.answers)
            self.relay.close()
        for process in self.processes:
            if process.model is not None:
                process.popen.terminate()
            process.jobs.close()
        deadline = time.monotonic() + _GRACE
        for process in self.processes:
            try:
                process.popen.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
            self._close(process)
        self.processes.clear()
        self.events.close()

    # handing out work

    def _assign(self) -> None:
        while self.ready:
            model = self.models[self.ready[0]]
            if model.problem:
                self.ready.popleft()
                self._finish(stopped_row(model, Problem.from_json({"details": (), **model.problem})))
                continue
            process = self._idle()
            if process is None:
                return
            self.ready.popleft()
            self._send(process, model)

    def _idle(self) -> _Process | None:
        """Return a process without work, a new one if there may be one more."""
        for process in [process for process in self.processes if process.model is None]:
            if process.left:
                return process
            self._retire(process)
        return self._start() if len(self.processes) < self.options.jobs else None

    def _start(self) -> _Process:
        log: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        (given, jobs), (answers, answering) = os.pipe(), os.pipe()
        command = [sys.executable, "-P", "-m", "packager.release_plan.process"]
        try:
            popen = subprocess.Popen(command, stdin=given, stdout=answering, stderr=log, start_new_session=True)
        finally:
            os.close(given)
            os.close(answering)
        process = _Process(popen, os.fdopen(jobs, "wb", 0), os.fdopen(answers, "rb", 0), log)
        self.processes.append(process)
        self.events.register(process.answers, selectors.EVENT_READ, lambda: self._read(process))
        self._write(process, self.context)
        return process

    def _send(self, process: _Process, model: Model) -> None:
        self.started += 1
        process.model, process.left, process.task = model, process.left - 1, ""
        process.label, process.begun = f"{model.name}:{model.version} ({self.started} of {len(self.models)})", None
        self._write(process, model.to_json())

    def _write(self, process: _Process, value: JSON) -> None:
        with contextlib.suppress(BrokenPipeError):  # its death is read where answers are
            write_all(process.jobs, canonical.dump(value) + b"\n")

    # reading answers

    def _read(self, process: _Process) -> None:
        data = process.answers.read(_CHUNK)
        if not data:
            self._died(process)
            return
        process.unread += data
        while (end := process.unread.find(b"\n")) >= 0:
            line = bytes(process.unread[:end])
            del process.unread[: end + 1]
            self._hear(process, json.loads(line))

    def _hear(self, process: _Process, answer: Mapping[str, JSON]) -> None:
        if self.relay and ("perform" in answer or "cancelled" in answer):
            self._pass_on(self.relay, process, answer)
            return
        if "task" in answer:
            process.task = answer["task"]
            if process.begun is None:
                process.begun = time.monotonic()
                self.on_event(Started(process.label))
            return
        self._ended(process)
        process.model = None
        self._finish(ModelRow.from_json(answer["row"]))

    def _pass_on(self, relay: Relay, process: _Process, answer: Mapping[str, JSON]) -> None:
        if "cancelled" in answer or process.model is None:
            relay.drop(process)
        else:
            relay.ask(process, answer, process.model.name, lambda value: self._write(process, value))

    def _ended(self, process: _Process) -> None:
        if process.begun is not None:
            self.on_event(Finished(process.label, time.monotonic() - process.begun))

    def _died(self, process: _Process) -> None:
        """Take a process that closed its output out; the model that it had is one that failed."""
        code = process.popen.wait()
        process.log.seek(max(0, process.log.seek(0, os.SEEK_END) - _LOG))
        log = process.log.read().decode("utf-8", "replace").splitlines()
        self.processes.remove(process)
        self._close(process)
        if self.relay:
            self.relay.drop(process)
        if process.model is None:
            if code:  # before it had any work: nothing says that the next one would do better
                raise StepError(f"a release process {_death(code)}", log="\n".join(log), died=True)
            return
        self._ended(process)
        during = f" during `{process.task}`" if process.task else ""
        message = f"the process that released `{process.model.name}` {_death(code)}{during}"
        self._finish(stopped_row(process.model, Problem(StepError.code, message, "release again to go on", tuple(log))))

    def _retire(self, process: _Process) -> None:
        process.jobs.close()
        process.popen.wait()
        self.processes.remove(process)
        self._close(process)

    def _close(self, process: _Process) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self.events.unregister(process.answers)
        for end in (process.jobs, process.answers, process.log):
            end.close()

    def _finish(self, row: ModelRow) -> None:
        """Keep a row; let those go on that waited for the model, or not."""
        ended = [row]
        while ended:
            row = ended.pop()
            self.rows.add(row)
            if row.problem:
                self.on_event(Warned(f"{row.name}: {row.problem.message}"))
            for name in self.followers.get(row.name, ()):
                if row.state in BAD:
                    if self.waits.pop(name, None) is not None:
                        ended.append(waiting_row(self.models[name], row.name))
                elif name in self.waits:
                    self.waits[name].discard(row.name)
                    if not self.waits[name]:
                        self.ready.append(name)


def write_all(sink: BinaryIO, data: bytes) -> None:
    """Write all of `data` to an unbuffered file."""
    while data:
        data = data[sink.write(data) or 0 :]


def _context(base: Path, options: Options, journal: Path, shared: Path) -> JSON:
    cluster = options.cluster if not options.dry else None
    authority = options.registry_ca.read_text() if cluster and options.registry_ca else None
    place = cluster and {"address": cluster.shared, "plain_http": options.plain_http, "registry_ca": authority}
    return {
        "driver": os.getpid(),
        "store": str(options.store.absolute()),
        "base": str(base),
        "journal": str(journal),
        "shared": str(shared),
        "environments": str(options.environments.absolute()),
        "registry_ca": options.registry_ca and str(options.registry_ca.absolute()),
        "plain_http": options.plain_http,
        "secrets": {uri: value.decode("latin-1") for uri, value in options.secrets.items()},
        "again": sorted(options.again),
        "builder": options.builder,
        "dry": options.dry,
        "until": options.until,
        "cluster": place,
        "steps": _STEPS if cluster else 1,
    }


def _death(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"was killed ({name})" if -code == signal.SIGKILL else f"died of {name}"
    return f"ended with status {code}"
