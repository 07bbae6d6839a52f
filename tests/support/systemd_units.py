# SPDX-License-Identifier: Apache-2.0
"""A rendered unit in a bubblewrap root: what its hardening asks of systemd, asked of the kernel; the test is its manager.

The listener is opened outside, readiness and signs of life arrive at a socket of ours. Directives that bubblewrap has
no word for (system call filter, resource limits) are checked by `systemd-analyze` only; writable and executable
memory is denied by prctl(2).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.conftest import tool

UID = "61234"
# prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN): what MemoryDenyWriteExecute= means, since Linux 6.3.
DENY = (
    "import ctypes, os, sys; assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0; os.execv(sys.argv[1], sys.argv[1:])"
)
REQUIRED = {
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "PrivateNetwork": "yes",
    "PrivateUsers": "yes",
    "DynamicUser": "yes",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "MemoryDenyWriteExecute": "yes",
    "ProtectProc": "invisible",
    "RestrictAddressFamilies": "AF_UNIX",
}


def read(unit: Path) -> dict[str, str]:
    """Return the directives of a unit; of those that stand twice the last."""
    rows = (row.partition("=") for row in unit.read_text().splitlines() if "=" in row and not row.startswith("#"))
    return {name: value for name, _, value in rows}


class Manager:
    """What the service told, and its process."""

    def __init__(self, address: str, process: subprocess.Popen[bytes], notices: socket.socket, log: Path) -> None:
        self.address, self.process, self.log = address, process, log
        self._notices = notices

    def notices(self, seconds: float, until: str | None = None) -> list[str]:
        """Return what arrives within a time, or until a line of it is `until`."""
        found: list[str] = []
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and until not in found:
            self._notices.settimeout(left)
            with contextlib.suppress(TimeoutError):
                found += self._notices.recv(4096).decode().splitlines()
            if self.process.poll() is not None:
                break
        return found


@contextlib.contextmanager
def service(
    folder: Path, name: str, root: Path, binds: dict[Path, str], work: Path, watchdog: float
) -> Iterator[Manager]:
    """Start the service of the units in `folder` in the root file system `root`; `binds` are shown read-only."""
    unit = read(folder / f"{name}.service")
    assert {key: unit[key] for key in REQUIRED} == REQUIRED
    host, _, port = read(folder / f"{name}.socket")["ListenStream"].rpartition(":")
    listener = socket.create_server((host, int(port)), backlog=1024)
    notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notices.bind(str(work / "notify"))
    variables = {
        "LISTEN_PID": "1",
        "LISTEN_FDS": "1",
        "NOTIFY_SOCKET": "/run/notify",
        "PATH": "/usr/bin:/bin",
        "WATCHDOG_USEC": str(int(watchdog * 1e6)),
    }
    shown = [word for place, inside in binds.items() for word in ("--ro-bind", str(place), inside)]
    command = [
        tool("bwrap"),
        "--unshare-all",
        "--as-pid-1",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--uid",
        UID,
        "--gid",
        UID,
        "--clearenv",
        *(word for pair in variables.items() for word in ("--setenv", *pair)),
        "--ro-bind",
        str(root),
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
        "--tmpfs",
        "/var/tmp",
        "--tmpfs",
        "/home",
        "--tmpfs",
        "/root",
        "--tmpfs",
        "/run",
        "--tmpfs",
        "/opt",
        "--tmpfs",
        "/srv",
        *shown,
        "--ro-bind",
        str(work / "notify"),
        "/run/notify",
        "/usr/bin/python3",
        "-c",
        DENY,
        *unit["ExecStart"].split(),
    ]
    log = work / f"{name}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=sink, pass_fds=(3,), preexec_fn=lambda: os.dup2(listener.fileno(), 3)
        )
    try:
        yield Manager(f"{host}:{port}", process, notices, log)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        listener.close()
        notices.close()
        (work / "notify").unlink()
