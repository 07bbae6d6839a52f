# SPDX-License-Identifier: Apache-2.0
"""Start steps as forks of a process that has imported their libraries already (`fork_server`), one per list of those.

A fork is confined as a process that starts afresh is: the same view, user, limits, filter. Where that cannot be, or a
server has died, steps start afresh. A server ends with the process that started it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from packager.sandbox import launch, process, sandbox
from packager.sandbox.pinning import pin_numerics
from packager.sandbox.process import Handles, Outcome, Running
from packager.sandbox.sandbox import Confinement, Limits, Step

SWITCH = "PACKAGER_WARM_WORKERS"  # 0: every step starts a process of its own
_PATIENCE = 120.0  # seconds for the imports of a server
_SHARE = 3  # times as much as the libraries take must be left to a step
_GRACE = 2.0  # seconds in which a server ends
_ONE_THREAD = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}  # pyarrow's allocator starts one otherwise
_AS_A_MODULE = ("-s", "-P", "-B", "-m", "packager.sandbox.fork_server")  # the flags of a worker that starts afresh
_servers: dict[tuple[int, str, str], ForkServer] = {}
_gate = threading.Lock()


def begin_server(preload: str, shared: Path, by: Confinement) -> ForkServer | None:
    """Start a process that imports the list `preload`, unless there is one, and wait for nothing.

    None where none can be; `shared` and `by` as in `find_server`.
    """
    switch = os.environ.get(SWITCH)  # noqa: TID251 - it changes how workers start, nothing that they make
    if switch == "0" or by.level == "none" or by.limits != "step":
        return None  # the kernel counts memory where it was first touched: in the group of a server, not of a step
    key = (os.getpid(), preload, str(shared))
    with _gate:
        if key not in _servers:
            _servers[key] = ForkServer(preload, shared)
        return _servers[key]


def find_server(preload: str, shared: Path, by: Confinement) -> ForkServer | None:
    """Return the server that has imported the list `preload`, started if there is none; None where none can be.

    `shared` is the directory below which steps have their scratch, `by` how steps that start afresh are confined.
    """
    found = begin_server(preload, shared, by)
    return found if found and found.can_confine(by) else None


def find_running(shared: Path) -> ForkServer | None:
    """Return a server that has forked already, whatever it has imported."""
    with _gate:
        mine = (server for (pid, _, path), server in _servers.items() if (pid, path) == (os.getpid(), str(shared)))
        return next((server for server in mine if server.has_forked), None)


def stop_servers() -> None:
    """End the servers of this process."""
    with _gate:
        for (pid, *_), server in _servers.items():
            if pid == os.getpid():
                server.stop()
        _servers.clear()


atexit.register(stop_servers)


class _Forked:
    """A fork of a server: it holds the other end of `status`, and ends when this one goes."""

    pid = None
    returncode = None

    def __init__(self) -> None:
        self.status: socket.socket | None = None
        self.killed = False

    def kill(self) -> None:
        self.killed = True
        self.wait()

    def wait(self) -> int:
        """Show it that its caller has stopped waiting."""
        if self.status:
            with contextlib.suppress(OSError):  # it is dead
                self.status.shutdown(socket.SHUT_RDWR)
        return 0


class ForkServer:
    """A process that forks workers. Only what this program says reaches it, and nothing that a worker says."""

    def __init__(self, preload: str, shared: Path) -> None:
        self.shared = shared
        self._scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._first = threading.RLock()  # of what is done once: waiting for the imports, and a step that does nothing
        self._size: int | None = None  # bytes of the addresses that its libraries take; 0 where it could not import
        self._confines: bool | None = None  # whether a step was confined
        self._ended = False
        with theirs:
            self._process = self._started(preload, shared, theirs)

    @property
    def is_alive(self) -> bool:
        """Whether it has imported its libraries, which is waited for, and forks."""
        with self._first:
            if self._size is None:
                try:
                    self._control.settimeout(_PATIENCE)
                    self._size = int(self._control.recv(32))
                except (OSError, ValueError):  # it ended, or took too long
                    self._size = 0
        return self._size > 0 and not self._ended

    @property
    def has_forked(self) -> bool:
        """Whether a step was confined in it, and nothing has failed since; waits for nothing."""
        return bool(self._confines) and not self._ended

    def can_confine(self, by: Confinement) -> bool:
        """Return whether it forks steps that are confined; one that cannot is stopped."""
        with self._first:
            if self._confines is None:
                self._confines = self.is_alive and self.probe(by).code == 0
                if not self._confines:
                    self.stop()
        return self.has_forked

    def _started(self, preload: str, shared: Path, control: socket.socket) -> subprocess.Popen[bytes]:
        scratch = Path(self._scratch.name).resolve()
        python = sandbox.host_interpreter()
        step = Step(scratch, python, (), Limits(0, 0), {})
        user = launch.user_of(0)
        sandbox.prepare(scratch, user)
        view = sandbox.view(step)
        job = {**view, "own": [str(scratch / "home"), str(shared.resolve())], "user": user, "maps": user is None}
        about = os.memfd_create("job")
        try:
            os.write(about, json.dumps({**job, "preload": preload, "control": control.fileno()}).encode())
            os.lseek(about, 0, os.SEEK_SET)
            return subprocess.Popen(
                [python.program, *_AS_A_MODULE, str(about), str(shared)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**sandbox.build_environment(scratch, pin_numerics()), **_ONE_THREAD},
                cwd="/",
                start_new_session=True,
                pass_fds=(about, control.fileno()),
            )
        finally:
            os.close(about)

    def stop(self) -> None:
        """End the server, and with it what it forked."""
        self._ended = True
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)  # which it sees, and ends, and so does who waits for it
        self._control.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._scratch.cleanup()

    def fits(self, limits: Limits) -> bool:
        """Say whether its libraries leave most of what a step may use to that; a step imports no more than it needs."""
        return not limits.memory or _SHARE * (self._size or 0) <= limits.memory

    def probe(self, by: Confinement) -> Outcome:
        """Return how a step that does nothing ends: with 0, if steps can be confined."""
        with tempfile.TemporaryDirectory(dir=Path(self._scratch.name) / "home") as scratch:
            step = Step(Path(scratch), sandbox.host_interpreter(), (), Limits(0, 60, 1 << 20, 64))
            return self.run(step, by, set()) or Outcome(1, b"", b"")

    def run(
        self, step: Step, by: Confinement, living: set[Running], answer: Callable[[int], None] | None = None
    ) -> Outcome | None:
        """Run a step as `sandbox.run_confined` does; None where nothing was begun, and the server is of no more use.

        Only of a step that was begun are the sockets closed that it inherits.
        """
        if not self.is_alive:  # what it reads while it imports ends it
            return None
        job = {**sandbox.job_of(step, by), "spaces": True}

        def complete(handles: Handles) -> Mapping[str, object]:
            if answer:
                answer(handles.answer)
            return {**job, "answer": handles.answer, "status": handles.status}

        forked = _Forked()

        def start(handles: Handles, log: int, status: socket.socket) -> Running:
            forked.status = status
            self._ask([handles.job, handles.status, handles.answer, log, *(end.fileno() for end in step.passed)])
            return forked

        outcome = process.run_started(start, complete, step.limits.seconds, living)
        if outcome.error is not None and not (forked.killed or outcome.stopped):
            self._ended = True
            return None
        for end in step.passed:
            end.close()
        return outcome

    def _ask(self, descriptors: list[int]) -> None:
        """Request a fork; of a dead server the other end of the status shows that there is none."""
        with contextlib.suppress(OSError), self._lock:
            socket.send_fds(self._control, [b"f"], descriptors)
