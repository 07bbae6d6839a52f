# SPDX-License-Identifier: Apache-2.0
"""Run a step in a process and collect its output: by pipes, up to a cap, until every process of it is dead.

The process gets no file to write its answer or its log to, so there is nothing to follow, to fill or to wait for. What
is confined reports by a socket which process is the first of its space; through that one the whole step is ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from packager.errors import StepError

MAX_ANSWER = 64 << 20  # bytes
LOG_TAIL = 16_384  # bytes of a log that are kept: its end
_CHUNK = 1 << 16
_GRACE = 10.0  # seconds in which the kernel ends a killed space


@dataclass(frozen=True, slots=True)
class Handles:
    """Descriptors that a step inherits: where it answers, where it says how it ended, where it reads its job."""

    answer: int
    status: int
    job: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended: its exit status (below zero: a signal), its answer, the end of its log.

    `stopped` is the limit that it exceeded (`time`, `answer`, `memory`, `processes`, `disk`, `files`), `used` the most
    memory of all its processes together in bytes, 0 where it was not measured. `error` says why it was never started.
    """

    code: int
    answer: bytes
    log: bytes
    stopped: str | None = None
    used: int = 0
    error: str | None = None


class Running(Protocol):
    """What performs a step, until it is dead: a child of ours, or a process of another one, which has no `pid` here."""

    @property
    def pid(self) -> int | None: ...
    @property
    def returncode(self) -> int | None: ...
    def kill(self) -> None: ...
    def wait(self) -> int: ...


@dataclass(slots=True)
class _Heard:
    answer: bytearray = field(default_factory=bytearray)
    log: bytearray = field(default_factory=bytearray)
    first: int | None = None  # descriptor of the first process of the space
    outcome: Mapping[str, object] | None = None


def run(
    command: Callable[[Handles], Sequence[str]],
    job: Callable[[Handles], Mapping[str, object]],
    variables: Mapping[str, str],
    cwd: str,
    seconds: float,
    living: set[Running],
    passed: Sequence[socket.socket] = (),
) -> Outcome:
    """Start what `command` gives for the descriptors, hand it the job, and wait until all of it is dead.

    `passed` are sockets that it inherits, and that are closed here. `living` lists the process while it lives; killing
    that one ends the step. Raises StepError when a process of the step outlives it, which no step can bring about.
    """

    def start(handles: Handles, log: int, status: socket.socket) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command(handles),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(variables),
            cwd=cwd,
            start_new_session=True,
            pass_fds=(handles.answer, handles.status, handles.job, *(end.fileno() for end in passed)),
        )

    return run_started(start, job, seconds, living, passed)


def run_started(
    start: Callable[[Handles, int, socket.socket], Running],
    job: Callable[[Handles], Mapping[str, object]],
    seconds: float,
    living: set[Running],
    passed: Sequence[socket.socket] = (),
) -> Outcome:
    """Run a step as `run` does; `start` gets the descriptors, that of the log, and this end of the status."""
    with contextlib.ExitStack() as stack:
        (log, log_end), (answer, answer_end) = os.pipe(), os.pipe()
        status, status_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        handles = Handles(answer_end, status_end.fileno(), os.memfd_create("job"))
        ends = {log, answer, log_end, answer_end, handles.job}
        stack.callback(_close, ends, ends)
        for end in passed:
            stack.enter_context(end)
        stack.enter_context(status)
        stack.enter_context(status_end)
        os.write(handles.job, json.dumps(job(handles)).encode())
        os.lseek(handles.job, 0, os.SEEK_SET)
        process = start(handles, log_end, status)
        living.add(process)
        _close(ends, {log_end, answer_end})
        for end in passed:
            end.close()
        status_end.close()
        heard = _Heard()
        stopped = None
        try:
            stopped = _listen(process, log, answer, status, heard, time.monotonic() + seconds)
        finally:
            _end(process, status, heard)
            living.discard(process)
        _drain(log, answer, heard)
    if process.pid is None and heard.first is None and heard.outcome is None:
        heard.outcome = {"error": "what was to fork it is dead"}
    code = process.returncode
    return _outcome(-signal.SIGKILL if code is None else code, heard, stopped)


def _close(held: set[int], which: set[int]) -> None:
    """Close descriptors once: a number that was closed may be another thread's by then."""
    for handle in list(which & held):
        held.discard(handle)
        os.close(handle)


def _listen(
    process: Running, log: int, answer: int, status: socket.socket, heard: _Heard, deadline: float
) -> str | None:
    """Read until the process ends; return why it is to be ended before.

    One that is not our child has ended when the other end of its status is closed.
    """
    with _watched(process) as ended:
        waited = select.poll()
        for source in (log, answer, status.fileno(), *ended):
            waited.register(source, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return "time"
            for source, _ in waited.poll(1000 * left):
                if source in ended:
                    return None
                if source == status.fileno():
                    more = _hear_status(status, heard)
                else:
                    more = _hear(source, heard.log if source == log else heard.answer, keep_end=source == log)
                if not more:
                    waited.unregister(source)
                if not more and not ended and source == status.fileno():
                    return None
            if len(heard.answer) > MAX_ANSWER:
                return "answer"


@contextlib.contextmanager
def _watched(process: Running) -> Iterator[Sequence[int]]:
    """Yield the descriptor that shows the end of a child; none of what is not ours."""
    if process.pid is None:
        yield ()
        return
    ended = os.pidfd_open(process.pid)
    try:
        yield (ended,)
    finally:
        os.close(ended)


def _hear(source: int, into: bytearray, *, keep_end: bool) -> bool:
    data = os.read(source, _CHUNK)
    into += data
    if keep_end:
        del into[:-LOG_TAIL]
    return bool(data)


def _hear_status(status: socket.socket, heard: _Heard) -> bool:
    try:
        data, descriptors, _, _ = socket.recv_fds(status, _CHUNK, 1)
    except ConnectionError:
        return False
    if descriptors:
        heard.first = descriptors[0]
    elif data:
        heard.outcome = json.loads(data)
    return bool(data)


def _end(process: Running, status: socket.socket, heard: _Heard) -> None:
    """Kill whatever of the step lives, and see that it is dead."""
    while heard.outcome is None and select.select([status], [], [], 0)[0] and _hear_status(status, heard):
        pass  # what was said last
    if heard.first is None and process.pid is None:
        process.wait()  # what was not heard yet cannot begin any more
        while heard.first is None and _hear_status(status, heard):
            pass
    if heard.first is None:
        if process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(heard.first, signal.SIGKILL)
        dead = select.poll()
        dead.register(heard.first, select.POLLIN)
        gone = bool(dead.poll(1000 * _GRACE))
    finally:
        os.close(heard.first)
        process.kill()
        process.wait()
    if not gone:
        raise StepError("a process of the step outlived it", hint="end it by hand; nothing of its output was used")


def _drain(log: int, answer: int, heard: _Heard) -> None:
    """Read what is left in the pipes; with everybody dead, their ends come at once."""
    for source, into in ((log, heard.log), (answer, heard.answer)):
        os.set_blocking(source, False)
        with contextlib.suppress(BlockingIOError):
            while len(into) <= MAX_ANSWER and _hear(source, into, keep_end=source == log):
                pass


def _outcome(code: int, heard: _Heard, stopped: str | None) -> Outcome:
    said = heard.outcome or {}
    if len(heard.answer) > MAX_ANSWER:
        stopped = "answer"
    found = {name: said.get(name) for name in ("code", "stopped", "used", "error")}
    if isinstance(found["code"], int):
        code = found["code"]
    return Outcome(
        code,
        bytes(heard.answer),
        bytes(heard.log),
        stopped or _text(found["stopped"]),
        found["used"] if isinstance(found["used"], int) else 0,
        _text(found["error"]),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
