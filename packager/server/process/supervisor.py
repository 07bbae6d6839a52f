# SPDX-License-Identifier: Apache-2.0
"""Processes that serve one socket together, and change over to another release without losing a request.

The supervisor opens the socket and accepts nothing; the processes do. To change over it starts a new *generation*
beside the old one, waits until each of its processes has loaded its model, and only then asks the old ones to drain:
told that others serve, they stop accepting first, then answer what their clients send until those are quiet. A new
generation that does not become ready is given up and the old one stays, as it does when the plan itself fails. Where
all end, nobody is told so and each goes on accepting until nobody comes any more (`ending`).

At the start one process listens while it loads, to say that it is not ready; the others listen after it is, so that
nobody is ever told "ready" by one and "still loading" by another.

A process that ends unasked is replaced at once, and with growing pauses if that happens again and again; nothing but
the first start is ever given up. One that somebody else asked to end serves until another has taken its place. A served
directory that is away for a while changes nothing. When the supervisor is killed, the line to its processes ends and
they drain.

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
from packager.server.process.inherited import ENDING, LISTEN, LOADED, OLD_READY, OTHERS, READY, WAITS
from packager.server.process.systemd import Supervisor as Systemd

_LOOK_SECONDS = 0.2
_LONG_LIFE = 10.0  # seconds: a process that lived so long did not fail to start
_MOST_PAUSE = 30.0
_NOT_STARTED = 4  # exit code of a start that a signal or nothing at all ended
_GRACE = 5.0  # seconds beyond `drain` before a process is killed
_METRICS = "PROMETHEUS_MULTIPROC_DIR"
_SECRET = re.compile(r"/proc/self/fd/([0-9]+)")

Say = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: `identity` tells one plan from another. `drain` is in seconds."""

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
    line: socket.socket
    plan: Plan
    started: float = field(default_factory=time.monotonic)
    loaded: bool = False  # and waits until it may listen
    ready: bool = False
    understands: bool = False  # words; servers of older releases do not
    ending: bool = False  # because somebody else asked it to
    silent: bool = False  # its end of the line is closed
    told: float | None = None  # when it was asked to end

    def heard(self) -> None:
        """Take in what it said."""
        with suppress(OSError):
            words = self.line.recv(16)
            self.silent = not words
            self.loaded = self.loaded or LOADED in words
            self.understands = self.understands or READY in words or LOADED in words
            self.ready = self.ready or READY in words or OLD_READY in words
            self.ending = self.ending or ENDING in words

    def say(self, word: bytes) -> None:
        """Tell it a word, if it understands any."""
        if self.understands:
            with suppress(OSError):  # it has ended
                self.line.send(word)

    def end(self) -> None:
        if self.told is None:
            self.told = time.monotonic()
            self.popen.terminate()

    def replaced(self) -> None:
        """Ask it to end, as others serve."""
        self.say(OTHERS)
        self.end()


class Supervisor:
    """`plan` says what to run, and is asked again when `changed` gives another value, or on SIGHUP.

    `say` is told events by name and fields. Both functions are called from threads other than the main one.
    """

    def __init__(
        self, plan: Callable[[], Plan], changed: Callable[[], object], say: Say, systemd: Systemd | None = None
    ) -> None:
        self._systemd, self._told = systemd or Systemd(), False
        self._make, self._changed, self._say = plan, changed, say
        self._plan: Plan | None = None
        self._serving: list[_Process] = []  # the generation that serves
        self._coming: list[_Process] = []  # the one that shall
        self._leaving: list[_Process] = []
        self._seen: object = None
        self._signals = {"stop": 0, "reload": 0}
        self._planning: threading.Thread | None = None
        self._planned: Plan | None = None
        self._pause, self._not_before, self._alive = 0.0, 0.0, 0.0
        self._failed: int | None = None
        self._first: _Process | None = None  # of the first generation
        self._begun = False  # once a process was ready, whatever ends is replaced, for ever
        self._lost = False

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the exit code.

        Raises StartError when the address cannot be had, and whatever the first plan raises.
        """
        self._seen = self._changed()
        plan = self._plan = self._make()
        with self._listening(plan), self._awake() as wake:
            # One answers while it loads that it is not ready; whoever comes later lets callers wait in the queue.
            self._first = self._start(plan, standby=False)
            self._serving = [self._first]
            self._serving += [self._start(plan, standby=True, waits=True) for _ in range(1, plan.processes)]
            while not self._over():
                self._wait(wake)
                self._step()
                self._tell()
        return self._failed or 0

    @contextmanager
    def _listening(self, plan: Plan) -> Iterator[None]:
        with closing(self._open(plan)) as self._listener:
            kept = listeners.reserve(plan.host, plan.grpc_port) if plan.grpc_port else None
            self._address = self._listener.getsockname()[0]
            self._metrics = tempfile.mkdtemp(prefix="packager-metrics-")
            try:
                yield
            finally:
                for process in (*self._serving, *self._coming, *self._leaving):
                    process.popen.kill()
                    process.popen.wait()
                shutil.rmtree(self._metrics, ignore_errors=True)
                if kept is not None:
                    kept.close()

    def _open(self, plan: Plan) -> socket.socket:
        """Return the socket that systemd holds for us, or one of our own. Raises StartError."""
        if self._systemd.listener is None:
            return listeners.listen(plan.host, plan.port)
        self._systemd.local()
        return socket.socket(fileno=os.dup(self._systemd.listener))

    @contextmanager
    def _awake(self) -> Iterator[socket.socket]:
        """Count signals, and have them end a wait."""
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
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with closing(theirs):
            own = (f"--inherited={self._listener.fileno()},{theirs.fileno()}", f"--host={self._address}")
            popen = subprocess.Popen(
                [*plan.command, *own, *(["--standby"] if standby else [])],
                stdin=subprocess.DEVNULL,
                env={**plan.environment, _METRICS: self._metrics, **({WAITS: "1"} if waits else {})},
                pass_fds=(self._listener.fileno(), theirs.fileno(), *plan.secrets),
            )
        return _Process(popen, ours, plan)

    def _wait(self, wake: socket.socket) -> None:
        lines = [process.line for process in (*self._serving, *self._coming) if not process.silent]
        readable, _, _ = select.select([wake, *lines], [], [], _LOOK_SECONDS)
        if wake in readable:
            wake.recv(4096)
        for process in (*self._serving, *self._coming):
            if process.line in readable:
                process.heard()
                self._begun = self._begun or process.ready
        if self._first is None or self._first.ready or self._first not in self._serving:
            for process in self._serving:
                if process.loaded:
                    process.loaded = False
                    process.say(LISTEN)

    def _over(self) -> bool:
        """Say whether the end was asked for and everybody has gone; that nobody serves just now is no end."""
        asked = self._signals["stop"] or self._failed is not None
        return bool(asked) and not (self._serving or self._coming or self._leaving)

    def _step(self) -> None:
        if self._signals["stop"] or self._failed is not None:
            self._stop()
        else:
            self._replace_the_dead()
            self._replace_the_ending()
            self._change_over()
        self._let_go()

    def _tell(self) -> None:
        """Say to systemd that somebody serves, once, and that this loop turns, always."""
        if not self._told and any(process.ready for process in self._serving):
            self._told = True
            self._systemd.tell("READY=1", f"STATUS=serving {self._serving[0].plan.identity}")
        if self._systemd.interval is not None and time.monotonic() >= self._alive + self._systemd.interval:
            self._alive = time.monotonic()
            self._systemd.tell("WATCHDOG=1")

    def _stop(self) -> None:
        """Ask all to end; a second signal is passed on, and ends their drain."""
        self._systemd.tell("STOPPING=1")
        self._listener.close()  # it lives as long as one of them accepts
        self._leaving += [*self._serving, *self._coming]
        self._serving, self._coming = [], []
        for process in self._leaving:
            process.end()
            if self._signals["stop"] > 1:
                process.popen.terminate()
        self._signals["stop"] = min(self._signals["stop"], 1)

    def _replace_the_dead(self) -> None:
        dead = [process for process in self._serving if process.popen.poll() is not None]
        if not dead:
            return
        for process in dead:
            self._bury(process)
            self._serving.remove(process)
            lived = time.monotonic() - process.started
            code = process.popen.returncode
            self._say("process ended unasked", level=30, pid=process.popen.pid, code=code)
            if not self._begun:
                self._failed = code if code > 0 else _NOT_STARTED  # its own words are on stderr
                self._say("given up", level=40, reason="the first process ended before it was ready", code=code)
                return
            self._pause = 0.0 if lived > _LONG_LIFE else min(max(1.0, 2 * self._pause), _MOST_PAUSE)
            self._not_before = time.monotonic() + self._pause
            if self._pause and not any(other.ready for other in self._serving):
                self._say("nobody serves", level=40, again_in_s=self._pause)

    def _replace_the_ending(self) -> None:
        """Start another for each that was asked to end, but not by us; it may leave when somebody else serves."""
        for process in [process for process in self._serving if process.ending]:
            self._serving.remove(process)
            self._leaving.append(process)
            process.told = time.monotonic()
            self._say("process ends, replaced", pid=process.popen.pid)
        if any(process.ready for process in self._serving):
            for process in self._leaving:
                if process.ending:
                    process.ending = False
                    process.say(OTHERS)

    def _fill(self) -> None:
        plan = self._plan
        if plan is None or len(self._serving) >= plan.processes or time.monotonic() < self._not_before:
            return
        while len(self._serving) < plan.processes:
            self._serving.append(self._start(plan, standby=True))

    def _change_over(self) -> None:
        self._fill()
        self._ask_for_a_plan()
        if any(process.popen.poll() is not None for process in self._coming):
            self._say("change refused", level=40, reason="the new release does not start", **self._about(self._coming))
            self._leaving += self._coming
            self._coming = []
            for process in self._leaving:
                process.replaced()
        elif self._coming and all(process.ready for process in self._coming):
            for process in self._serving:
                process.replaced()
            self._leaving += self._serving
            self._serving, self._coming = self._coming, []
            self._plan, self._pause = self._serving[0].plan, 0.0
            self._say("changed over", **self._about(self._serving))

    def _about(self, processes: list[_Process]) -> dict[str, object]:
        return {"release": processes[0].plan.identity, "pids": [process.popen.pid for process in processes]}

    def _ask_for_a_plan(self) -> None:
        """Have a plan made on a thread when something changed; start its generation when it is there."""
        if self._planning is None:
            seen = self._look()
            if (seen != self._seen or self._signals["reload"]) and not self._coming:
                self._seen, self._signals["reload"] = seen, 0
                self._planning = threading.Thread(target=self._think, daemon=True)
                self._planning.start()
        elif not self._planning.is_alive():
            self._planning, plan, self._planned = None, self._planned, None
            if plan is not None:
                self._say("changing over", release=plan.identity)
                self._coming = [self._start(plan, standby=True) for _ in range(plan.processes)]

    def _look(self) -> object:
        """Return what is to be served; while its directory is away (renamed, unmounted) that is what it was."""
        try:
            seen = self._changed()
        except OSError as error:
            if not self._lost:
                self._say(
                    "the served directory is away", level=40, reason=str(error.strerror), serving="what is loaded"
                )
            self._lost = True
            return self._seen
        if self._lost:
            self._say("the served directory is back")
        self._lost = False
        return seen

    def _think(self) -> None:
        try:
            self._planned = self._make()
        except Exception as error:  # whatever is wrong with the new release, the old one stays
            self._say("change refused", level=40, reason=str(getattr(error, "message", error))[:500])

    def _let_go(self) -> None:
        now = time.monotonic()
        for process in list(self._leaving):
            if process.popen.poll() is not None:
                self._bury(process)
                self._leaving.remove(process)
            elif process.told is not None and now > process.told + process.plan.drain + _GRACE:
                process.popen.kill()

    def _bury(self, process: _Process) -> None:
        process.line.close()
        for path in Path(self._metrics).glob(f"gauge_live*_{process.popen.pid}.db"):
            path.unlink()
