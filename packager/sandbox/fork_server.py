# SPDX-License-Identifier: Apache-2.0
"""A process that has imported the libraries of workers, and forks one confined worker for every step.

It is confined itself before it imports anything: its own spaces without a network, a read-only view, no powers but
those that make the spaces of a worker. It never opens a model, reads no job, and has no secrets and one thread. A child
reads its job and confines itself as `launch` does, for good, before the worker in it opens anything; it holds no
descriptor of this process. `warm` is the other end, which alone can ask for a fork; when it goes, so does this process
and with it all of its children.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import pathlib
import select
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from packager.sandbox import launch, namespaces, preloads

_MOST = 16  # descriptors of a request: job, status, answer, log, and those that are passed on
_PR_SET_DUMPABLE = 4
_SET_ID, _SET_PCAP, _NET_ADMIN, _SYS_ADMIN = (6, 7), 8, 12, 21
_KEPT = (*_SET_ID, _SET_PCAP, _NET_ADMIN, _SYS_ADMIN)  # capabilities that make the spaces of a worker


def main() -> None:
    """Read what to import from the descriptor named on the command line, then fork on request; never returns."""
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        job = json.loads(file.read())
    control = socket.socket(fileno=job["control"])
    os.set_inheritable(control.fileno(), False)
    _end_with(control, True)
    os.umask(0o022)
    namespaces.enter_namespaces(job)
    launch.keep_powers(_KEPT)
    _let_be_read(False)
    importlib.import_module("packager.sandbox.worker")
    preloads.load(job["preload"])
    if (threads := len([*pathlib.Path("/proc/self/task").iterdir()])) != 1:
        sys.exit(f"{threads} threads run after importing what `{job['preload']}` needs: nothing can be forked")
    _end_with(control, False)
    gc.collect()
    gc.freeze()  # else the first collection of each child copies every page
    size = int(pathlib.Path("/proc/self/statm").read_bytes().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    control.send(b"%d" % size)
    _serve(control)


def _end_with(control: socket.socket, wanted: bool) -> None:
    """Have the kernel end this process when the other end of `control` closes, or not; importing takes seconds."""
    flags = fcntl.fcntl(control, fcntl.F_GETFL) & ~os.O_ASYNC
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(control, fcntl.F_SETFL, flags | os.O_ASYNC if wanted else flags)
    if wanted and select.select([control], [], [], 0)[0]:
        os._exit(0)  # it closed before


def _let_be_read(wanted: bool) -> None:
    """Let files of this process below `/proc`, and its memory, be read by others of its user, or not."""
    launch.check(launch.load_libc().prctl(_PR_SET_DUMPABLE, int(wanted), 0, 0, 0))


def _serve(control: socket.socket) -> None:
    waited = select.poll()
    waited.register(control, select.POLLIN)
    living = 0
    while True:
        arrived = waited.poll(1000 if living else None)
        while living and os.waitpid(-1, os.WNOHANG)[0]:
            living -= 1
        if not arrived:
            continue
        _, descriptors, _, _ = socket.recv_fds(control, 1, _MOST)
        if not descriptors:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            _become_step(descriptors)
        living += 1
        for descriptor in descriptors:
            os.close(descriptor)


def _become_step(descriptors: Sequence[int]) -> None:
    """Confine this process, a fork, as its job says, and perform that; never returns."""
    try:
        with os.fdopen(descriptors[0], "rb") as file:
            job = json.loads(file.read())
        status, answer, log, *passed = descriptors[1:]
        nothing = os.open(os.devnull, os.O_RDONLY)
        wanted = {0: nothing, 1: log, 2: log, job["status"]: status, job["answer"]: answer}
        _place({**wanted, **dict(zip(job["passed"], passed, strict=True))})
        end = socket.socket(fileno=job["status"])
        _let_be_read(True)  # else it may not say which users its spaces have; the first process of them withdraws it
        try:
            namespaces.enter_namespaces(job)
            launch.become_first_process(job, end, _perform)
        except OSError as error:
            launch.tell_failure(end, error)
    finally:
        os._exit(1)


def _place(wanted: Mapping[int, int]) -> None:
    """Give descriptors the numbers that the job calls them by, and close all others."""
    beyond = max(*wanted, *wanted.values()) + 1
    moved = {number: fcntl.fcntl(held, fcntl.F_DUPFD_CLOEXEC, beyond) for number, held in wanted.items()}
    for entry in [*pathlib.Path("/proc/self/fd").iterdir()]:
        if int(entry.name) not in moved.values():
            with contextlib.suppress(OSError):  # the descriptor that listed them
                os.close(int(entry.name))
    for number, held in moved.items():
        os.dup2(held, number, inheritable=number < 3)
        os.close(held)


def _perform(job: Mapping[str, Any]) -> None:
    """Run the worker in this process, confined by now, as if it had been started afresh."""
    _let_be_read(True)  # as a program that was started can be
    if not job["arguments"]:
        os._exit(0)  # whether a step can be confined here was the question
    os.environ.clear()  # noqa: TID251 - this is a separate process
    os.environ.update(job["variables"])  # noqa: TID251 - as a program that is started gets them
    if "numpy" in sys.modules:
        importlib.import_module("numpy").random.seed()  # each process draws its own numbers where none are seeded
    code = 1
    try:
        code = _run(job["arguments"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        ctypes.CDLL(None).fflush(None)
        os._exit(code)


def _run(arguments: Sequence[str]) -> int:
    """Do what Python does with these words of a command line: `-c CODE …`, or else the worker's."""
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - a job is our own
        return 0
    sys.argv = ["worker", arguments[-1]]
    return int(importlib.import_module("packager.sandbox.worker").main(arguments[-1]))


if __name__ == "__main__":
    main()
