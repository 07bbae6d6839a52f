# SPDX-License-Identifier: Apache-2.0
"""Supervise processes that serve one socket, and switch to another release without losing a request.

The supervisor opens the socket and accepts nothing; the processes do. To switch it starts a new *generation* beside
the old one, waits until each of its processes has loaded its model, and only then ends the old ones: they get the
message that others serve, stop accepting, and answer open connections until these are idle. A new generation that does
not become ready is given up and the old one stays, also when the plan itself fails. When all processes end, they get no
such message, and each accepts until no request comes any more (`ending`).

At the start one process listens while it loads, to answer that it is not ready; the others listen after it is ready, so
that clients never get "ready" from one and "still loading" from another.

A process that ends unexpectedly is replaced at once, and with growing pauses if that repeats; only the first start is
ever given up. A process that gets a signal from elsewhere serves until another has taken its place. If the served
directory is missing for a while, nothing changes. When the supervisor is killed, the channels to its processes close
and they drain.

Standard library only: `packager serve` runs this in its own interpreter, which has no server packages.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from packager.server.process import listeners
from packager.server.process.inherited_sockets import ENDING, LISTEN, LOADED, OLD_READY, OTHERS, READY, WAITS
from packager.server.process.systemd import Systemd

_POLL_SECONDS = 0.2
_LONG_LIFE = 10.0  # seconds: a process that lived this long did not fail to start
_MAX_PAUSE = 30.0
_START_FAILED_CODE = 4  # exit code of a start that ended by a signal or with code 0
_GRACE = 5.0  # seconds beyond `drain` before a process is killed
_METRICS = "PROMETHEUS_MULTIPROC_DIR"
_SECRET = re.compile(r"/proc/self/fd/([0-9]+)")

LogEvent = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. Plans with the same `identity` are the same release. `drain` is in seconds."""

    command: tuple[str, ...]
    identity: str
    processes: int
    host: str
    port: int
    grpc_port: int | None
    drain: float
    environment: Mapping[str, str]

    @property
    def secrets(self) -> tuple[int, ...]:
        """Descriptors that the command names."""
        return tuple(int(number) for word in self.command for number in _SECRET.findall(word))


@dataclass(slots=True, eq=False)
class _Process:
    popen: subprocess.Popen[bytes]
    channel: socket.socket
    plan: Plan
    started: float = field(default_factory=time.monotonic)
    loaded: bool = False  # and waits for LISTEN
    ready: bool = False
    reads_messages: bool = False  # servers of older releases do not
    ending: bool = False  # after a signal from elsewhere
    closed: bool = False  # its end of the channel is closed
    end_requested: float | None = None  # when

    def receive(self) -> None:
        """Receive its messages."""
        with suppress(OSError):
            messages = self.channel.recv(16)
            self.closed = not messages
            self.loaded = self.loaded or LOADED in messages
            self.reads_messages = self.reads_messages or READY in messages or LOADED in messages
            self.ready = self.ready or READY in messages or OLD_READY in messages
            self.ending = self.ending or ENDING in messages

    def send(self, message: bytes) -> None:
        """Send it a message, if it reads any."""
        if self.reads_messages:
            with suppress(OSError):  # it has ended
                self.channel.send(message)

    def end(self) -> None:
        if self.end_requested is None:
            self.end_requested = time.monotonic()
            self.popen.terminate()

    def retire(self) -> None:
        """End it, as others serve."""
        self.send(OTHERS)
        self.end()


class Supervisor:
    """`plan` returns what to run; it is called again when `changed` returns another value, or on SIGHUP.

    `log` gets events by name and fields. Both functions are called from threads other than the main one.
    """

    def __init__(
        self, plan: Callable[[], Plan], changed: Callable[[], object], log: LogEvent, systemd: Systemd | None = None
    ) -> None:
        self._systemd, self._notified = systemd or Systemd(), False
        self._make_plan, self._changed, self._log = plan, changed, log
        self._plan: Plan | None = None
        self._serving: list[_Process] = []  # the current generation
        self._next: list[_Process] = []  # the generation that loads
        self._draining: list[_Process] = []
        self._identity: object = None
        self._signals = {"stop": 0, "reload": 0}
        self._planning: threading.Thread | None = None
        self._planned: Plan | None = None
        self._pause, self._not_before, self._alive = 0.0, 0.0, 0.0
        self._failed: int | None = None
        self._first: _Process | None = None  # of the first generation
        self._was_ready = False  # once a process was ready, every process that ends is replaced
        self._directory_missing = False

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the exit code.

        Raises StartError if the address is not available, and what the first plan raises.
        """
        self._identity = self._changed()
        plan = self._plan = self._make_plan()
        with self._listening(plan), self._wakeup_socket() as wake:
            # Answers "not ready" while it loads; before the others listen, clients wait in the accept queue.
            self._first = self._start(plan, standby=False)
            self._serving = [self._first]
            self._serving += [self._start(plan, standby=True, waits=True) for _ in range(1, plan.processes)]
            while not self._is_finished():
                self._wait(wake)
                self._step()
                self._notify_systemd()
        return self._failed or 0

    @contextmanager
    def _listening(self, plan: Plan) -> Iterator[None]:
        with closing(self._open(plan)) as self._listener:
            reserved = listeners.reserve_port(plan.host, plan.grpc_port) if plan.grpc_port else None
            self._address = self._listener.getsockname()[0]
            self._metrics = tempfile.mkdtemp(prefix="packager-metrics-")
            try:
                yield
            finally:
                for process in (*self._serving, *self._next, *self._draining):
                    process.popen.kill()
                    process.popen.wait()
                shutil.rmtree(self._metrics, ignore_errors=True)
                if reserved is not None:
                    reserved.close()

    def _open(self, plan: Plan) -> socket.socket:
        """Return the socket that systemd passed, or open one. Raises StartError."""
        if self._systemd.listener is None:
            return listeners.open_listener(plan.host, plan.port)
        self._systemd.listener_address()
        return socket.socket(fileno=os.dup(self._systemd.listener))

    @contextmanager
    def _wakeup_socket(self) -> Iterator[socket.socket]:
        """Count signals, and yield a socket that is readable after one."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        names = {signal.SIGTERM: "stop", signal.SIGINT: "stop", signal.SIGHUP: "reload", signal.SIGCHLD: ""}

        def count(number: int, _: object) -> None:
            if name := names[signal.Signals(number)]:
                self._signals[name] += 1

        before = {number: signal.signal(number, count) for number in names}
        woken = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(woken)
            for number, handler in before.items():
                signal.signal(number, handler)
            reader.close()
            writer.close()

    def _start(self, plan: Plan, *, standby: bool, waits: bool = False) -> _Process:
        own_end, their_end = socket.socketpair()
        own_end.setblocking(False)
        with closing(their_end):
            inherited = (f"--inherited={self._listener.fileno()},{their_end.fileno()}", f"--host={self._address}")
            popen = subprocess.Popen(
                [*plan.command, *inherited, *(["--standby"] if standby else [])],
                stdin=subprocess.DEVNULL,
                env={**plan.environment, _METRICS: self._metrics, **({WAITS: "1"} if waits else {})},
                pass_fds=(self._listener.fileno(), their_end.fileno(), *plan.secrets),
            )
        return _Process(popen, own_end, plan)

    def _wait(self, wake: socket.socket) -> None:
        lines = [process.channel for process in (*self._serving, *self._next) if not process.closed]
        readable, _, _ = select.select([wake, *lines], [], [], _POLL_SECONDS)
        if wake in readable:
            wake.recv(4096)
        for process in (*self._serving, *self._next):
            if process.channel in readable:
                process.receive()
                self._was_ready = self._was_ready or process.ready
        if self._first is None or self._first.ready or self._first not in self._serving:
            for process in self._serving:
                if process.loaded:
                    process.loaded = False
                    process.send(LISTEN)

    def _is_finished(self) -> bool:
        """Return whether the end was requested and all processes have ended; having none for a moment is no end."""
        requested = self._signals["stop"] or self._failed is not None
        return bool(requested) and not (self._serving or self._next or self._draining)

    def _step(self) -> None:
        if self._signals["stop"] or self._failed is not None:
            self._stop()
        else:
            self._replace_dead()
            self._replace_ending()
            self._switch_generation()
        self._reap()

    def _notify_systemd(self) -> None:
        """Notify systemd once when a process is ready, and feed its watchdog."""
        if not self._notified and any(process.ready for process in self._serving):
            self._notified = True
            self._systemd.notify("READY=1", f"STATUS=serving {self._serving[0].plan.identity}")
        if self._systemd.interval is not None and time.monotonic() >= self._alive + self._systemd.interval:
            self._alive = time.monotonic()
            self._systemd.notify("WATCHDOG=1")

    def _stop(self) -> None:
        """End all processes; a second signal is passed on, and ends their drain."""
        self._systemd.notify("STOPPING=1")
        self._listener.close()  # it lives as long as one of them accepts
        self._draining += [*self._serving, *self._next]
        self._serving, self._next = [], []
        for process in self._draining:
            process.end()
            if self._signals["stop"] > 1:
                process.popen.terminate()
        self._signals["stop"] = min(self._signals["stop"], 1)

    def _replace_dead(self) -> None:
        dead = [process for process in self._serving if process.popen.poll() is not None]
        if not dead:
            return
        for process in dead:
            self._clean_up(process)
            self._serving.remove(process)
            lifetime = time.monotonic() - process.started
            code = process.popen.returncode
            self._log("process ended unasked", level=30, pid=process.popen.pid, code=code)
            if not self._was_ready:
                self._failed = code if code > 0 else _START_FAILED_CODE  # its message is on stderr
                self._log("given up", level=40, reason="the first process ended before it was ready", code=code)
                return
            self._pause = 0.0 if lifetime > _LONG_LIFE else min(max(1.0, 2 * self._pause), _MAX_PAUSE)
            self._not_before = time.monotonic() + self._pause
            if self._pause and not any(other.ready for other in self._serving):
                self._log("no process serves", level=40, again_in_s=self._pause)

    def _replace_ending(self) -> None:
        """Replace processes that got a signal from elsewhere; they are retired when another process is ready."""
        for process in [process for process in self._serving if process.ending]:
            self._serving.remove(process)
            self._draining.append(process)
            process.end_requested = time.monotonic()
            self._log("process ends, replaced", pid=process.popen.pid)
        if any(process.ready for process in self._serving):
            for process in self._draining:
                if process.ending:
                    process.ending = False
                    process.send(OTHERS)

    def _fill(self) -> None:
        plan = self._plan
        if plan is None or len(self._serving) >= plan.processes or time.monotonic() < self._not_before:
            return
        while len(self._serving) < plan.processes:
            self._serving.append(self._start(plan, standby=True))

    def _switch_generation(self) -> None:
        self._fill()
        self._update_plan()
        if any(process.popen.poll() is not None for process in self._next):
            self._log(
                "change refused", level=40, reason="the new release does not start", **self._event_fields(self._next)
            )
            self._draining += self._next
            self._next = []
            for process in self._draining:
                process.retire()
        elif self._next and all(process.ready for process in self._next):
            for process in self._serving:
                process.retire()
            self._draining += self._serving
            self._serving, self._next = self._next, []
            self._plan, self._pause = self._serving[0].plan, 0.0
            self._log("changed over", **self._event_fields(self._serving))

    def _event_fields(self, processes: list[_Process]) -> dict[str, object]:
        return {"release": processes[0].plan.identity, "pids": [process.popen.pid for process in processes]}

    def _update_plan(self) -> None:
        """Make a plan on a thread when something changed; start its generation when the plan is there."""
        if self._planning is None:
            identity_now = self._current_identity()
            if (identity_now != self._identity or self._signals["reload"]) and not self._next:
                self._identity, self._signals["reload"] = identity_now, 0
                self._planning = threading.Thread(target=self._make_next_plan, daemon=True)
                self._planning.start()
        elif not self._planning.is_alive():
            self._planning, plan, self._planned = None, self._planned, None
            if plan is not None:
                self._log("changing over", release=plan.identity)
                self._next = [self._start(plan, standby=True) for _ in range(plan.processes)]

    def _current_identity(self) -> object:
        """Return the identity of what is to be served; unchanged while its directory is missing."""
        try:
            identity_now = self._changed()
        except OSError as error:
            if not self._directory_missing:
                self._log(
                    "the served directory is away", level=40, reason=str(error.strerror), serving="what is loaded"
                )
            self._directory_missing = True
            return self._identity
        if self._directory_missing:
            self._log("the served directory is back")
        self._directory_missing = False
        return identity_now

    def _make_next_plan(self) -> None:
        try:
            self._planned = self._make_plan()
        except Exception as error:  # any failure of the new release leaves the old one in place
            self._log("change refused", level=40, reason=str(getattr(error, "message", error))[:500])

    def _reap(self) -> None:
        now = time.monotonic()
        for process in list(self._draining):
            if process.popen.poll() is not None:
                self._clean_up(process)
                self._draining.remove(process)
            elif process.end_requested is not None and now > process.end_requested + process.plan.drain + _GRACE:
                process.popen.kill()

    def _clean_up(self, process: _Process) -> None:
        process.channel.close()
        for path in Path(self._metrics).glob(f"gauge_live*_{process.popen.pid}.db"):
            path.unlink()
