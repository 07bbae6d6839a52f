# SPDX-License-Identifier: Apache-2.0
"""The init process of a confined step: it drops all privileges, starts the program, watches it, and ends with it.

It is started by this Python before anything foreign exists: by bubblewrap as the first process of the new process
space, else by itself after it made the spaces (`namespaces`). The program that it starts may be the Python of another
environment; nothing of that one is read before this process has confined itself. When this process ends, the kernel
ends every process of its space, whatever those have done to themselves.

It sends its parent two things over a socket: a descriptor of itself, through which it can be killed from outside,
and at last how the program ended. It holds its end of that socket alone; when the other end goes, so does the step.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from packager.sandbox import landlock, namespaces, seccomp
from packager.sandbox.watch import Watch

_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _LAST_CAPABILITY = 4, 24, 38, 63
_CAPABILITY_VERSION = 0x20080522
_TICK = 0.25  # seconds between two looks at what the step uses
_COUNTED_PER_SPACE = (5, 14)  # the kernel since which the number of processes is counted per user namespace
FIRST_USER, USERS = 1_900_000_000, 1 << 16  # ids that no distribution assigns


def main() -> None:
    """Read the job from the descriptor named on the command line, and perform it; never returns."""
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        job = json.loads(file.read())
    status = socket.socket(fileno=job["status"])
    try:
        if job["spaces"]:
            namespaces.enter_namespaces(job)
        os.set_inheritable(status.fileno(), False)
        become_first_process(job, status, _replace_program)
    except OSError as error:
        tell_failure(status, error)
    os._exit(1)


def tell_failure(status: socket.socket, error: OSError) -> None:
    """Say why the step cannot be confined."""
    _tell(status, {"error": f"{error.strerror}: {error.filename}" if error.filename else str(error)})


def become_first_process(
    job: Mapping[str, Any], status: socket.socket, program: Callable[[Mapping[str, Any]], None]
) -> None:
    """Give up every power, run `program` in a child that is confined for good, and end with it; never returns.

    The calling process is the first one of its process space. Raises OSError where something of it fails.
    """
    if os.getsid(0) != os.getpid():
        os.setsid()  # a separate group: a signal to a group stays inside
    os.umask(0o022)
    give_up_powers(job["user"])
    load_libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # no process inside reads or writes the memory of this process
    with os.fdopen(os.pidfd_open(os.getpid())) as handle:
        socket.send_fds(status, [b"{}"], [handle.fileno()])
    child = os.fork()
    if child == 0:
        status.close()
        _become_program(job, program)
    for handle in (job["answer"], *job["passed"]):
        os.close(handle)
    _end(status, _wait(child, Watch(job["limits"], job["writable"]), status))


def _replace_program(job: Mapping[str, Any]) -> None:
    os.execve(job["arguments"][0], job["arguments"], job["variables"])


def _become_program(job: Mapping[str, Any], program: Callable[[Mapping[str, Any]], None]) -> None:
    try:
        for handle in (job["answer"], *job["passed"]):
            os.set_inheritable(handle, True)
        home = os.open(job["home"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fchdir(home)
        os.close(home)
        _limit(job["limits"])
        if job["landlock"]:
            landlock.restrict_process(job["readable"], [*job["writable"], "/dev"])
        if code := seccomp.build_program(gpu=job["gpu"]):
            seccomp.install(code)
        program(job)
    except BaseException as error:
        os.write(2, f"cannot start the step: {error}\n".encode())
    os._exit(127)


def _wait(child: int, watch: Watch, status: socket.socket) -> dict[str, Any]:
    """Reap what dies until the program ends, or uses more than it may; return how it ended."""
    ended = select.poll()
    handle = os.pidfd_open(child)
    ended.register(handle, select.POLLIN)
    ended.register(status, 0)  # no event but that the other end has gone
    while True:
        for descriptor, _ in ended.poll(1000 * _TICK):
            if descriptor != handle:
                os._exit(1)
        while (dead := os.waitpid(-1, os.WNOHANG))[0]:
            if dead[0] == child:
                return {"code": os.waitstatus_to_exitcode(dead[1]), "used": watch.peak}
        if (stopped := watch.exceeded()) is not None:
            return {"code": -signal.SIGKILL, "used": watch.peak, "stopped": stopped}


def _end(status: socket.socket, outcome: Mapping[str, Any]) -> None:
    _tell(status, outcome)
    os._exit(0)  # the kernel kills what is left in this space before the end of this process is visible


def _tell(status: socket.socket, outcome: Mapping[str, Any]) -> None:
    status.send(json.dumps(outcome).encode())


def give_up_powers(user: int | None) -> None:
    """Become `user` (None: stay the same) without any capability, for good: no program gets one back.

    Raises OSError where something of it fails.
    """
    _bound_powers(())
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    _set_powers(())


def keep_powers(kept: Sequence[int]) -> None:
    """Give up every capability but those of these numbers, for good. Raises OSError where something of it fails."""
    _bound_powers(kept)
    _set_powers(kept)


def _bound_powers(kept: Sequence[int]) -> None:
    for number in range(_LAST_CAPABILITY + 1):
        if number not in kept:
            load_libc().prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # fails for those that this kernel has not


def _set_powers(kept: Sequence[int]) -> None:
    check(load_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    powers = sum(1 << number for number in kept)
    header, held = struct.pack("=Ii", _CAPABILITY_VERSION, 0), struct.pack("=II", powers, powers)
    check(load_libc().capset(header, held + bytes(4) + bytes(12)))


def _limit(limits: Mapping[str, int]) -> None:
    """Bound each process of the step; what holds for all of them together is watched."""
    if limits["memory"]:
        _bound(resource.RLIMIT_AS, limits["memory"])
    _bound(resource.RLIMIT_CORE, 0)
    _bound(resource.RLIMIT_FSIZE, limits["disk"])
    _bound(resource.RLIMIT_MEMLOCK, min(limits["memory"] or 1 << 26, 1 << 26))
    _bound(resource.RLIMIT_MSGQUEUE, 1 << 20)
    if tuple(map(int, os.uname().release.split(".")[:2])) >= _COUNTED_PER_SPACE:
        _bound(resource.RLIMIT_NPROC, limits["processes"])


def _bound(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(kind, (most, most))


def check(answer: int) -> None:
    """Raise what a call of the C library says went wrong."""
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def load_libc() -> ctypes.CDLL:
    """Return the C library."""
    return ctypes.CDLL(None, use_errno=True)


def user_of(slot: int) -> int | None:
    """Return the user id that a step of root's takes; None for others, and where root is alone in its space.

    A `slot` is any number; steps that run at once are to have different ones.
    """
    if os.getuid() != 0:
        return None
    with open("/proc/self/uid_map", encoding="ascii") as file:  # noqa: PTH123 - this file imports little
        rows = [tuple(map(int, row.split())) for row in file]
    if any(inside <= FIRST_USER and inside + count >= FIRST_USER + USERS for inside, _, count in rows):
        return FIRST_USER + slot % USERS
    inside, _, count = max(rows, key=lambda row: row[2])
    return inside + count - 3 - slot % min(count - 8, 4096) if count > 16 else None


def passwd_rows(user: int | None) -> Sequence[str]:
    """Return the rows of `passwd` and `group` that name the user of the step."""
    uid, gid = (user, user) if user is not None else (os.getuid(), os.getgid())
    return f"worker:x:{uid}:{gid}:worker:/nonexistent:/usr/sbin/nologin\n", f"worker:x:{gid}:\n"
