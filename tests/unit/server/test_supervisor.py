# SPDX-License-Identifier: Apache-2.0
"""The supervisor with a program of a few lines in the place of the server: what it does when processes end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

import pytest

SERVER = """
import os, select, socket, sys
listener, line = (int(word) for word in sys.argv[1].partition("=")[2].split(","))
if os.environ.get("BROKEN"):
    sys.exit(int(os.environ["BROKEN"]))
if os.environ.get("KILLED"):
    os.kill(os.getpid(), 9)
accepting = socket.socket(fileno=listener)
os.write(line, b"r")
while True:
    if line in select.select([accepting, line], [], [])[0]:
        sys.exit(0)
    there, _ = accepting.accept()
    there.sendall(str(os.getpid()).encode())
    there.close()
"""
MAIN = """
import json, os, sys
from pathlib import Path
from packager.server.process.supervisor import Plan, Supervisor
program, port, link, *more = sys.argv[1:]
environment = dict(word.split("=") for word in more)
plan = Plan((sys.executable, program), "r1", 1, "127.0.0.1", int(port), None, 1.0, environment)
log = lambda name, level=20, **fields: print(json.dumps({"event": name, **fields}), flush=True)
sys.exit(Supervisor(lambda: plan, Path(link).readlink, log).run())
"""


@dataclass
class Running:
    process: subprocess.Popen[str]
    port: int
    logged: list[dict[str, object]] = field(default_factory=list)

    def request(self, seconds: float = 10) -> int:
        """Return the process id of the process that answers."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            return int(connection.recv(64))

    def events(self, name: str) -> list[dict[str, object]]:
        return [row for row in self.logged if row["event"] == name]


def until(what: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextlib.contextmanager
def running(folder: Path, *more: str) -> Iterator[Running]:
    (folder / "server.py").write_text(SERVER)
    (folder / "current").symlink_to("somewhere")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", MAIN, str(folder / "server.py"), str(port), str(folder / "current"), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    found = Running(process, port)
    assert process.stdout
    reader = Thread(target=lambda: found.logged.extend(map(json.loads, process.stdout or ())))
    reader.start()
    try:
        yield found
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


def test_process_that_dies_early_repeatedly_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        until(lambda: server.process.poll() is not None or _answers(server))
        seen = []
        for _ in range(3):
            seen.append(server.request())
            os.kill(seen[-1], signal.SIGKILL)
            until(lambda: len(server.events("process ended unasked")) == len(seen))
        seen.append(server.request(seconds=15))
        assert len(set(seen)) == 4 and server.process.poll() is None
        assert [row["again_in_s"] for row in server.events("no process serves")] == [1.0, 2.0, 4.0]
        server.process.terminate()
        assert server.process.wait(20) == 0


def test_missing_directory_changes_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        until(lambda: _answers(server))
        pid = server.request()
        (tmp_path / "current").rename(tmp_path / "elsewhere")
        until(lambda: server.events("the served directory is away"))
        time.sleep(1)
        assert server.request() == pid and len(server.events("the served directory is away")) == 1
        (tmp_path / "elsewhere").rename(tmp_path / "current")
        until(lambda: server.events("the served directory is back"))
        assert server.request() == pid and not server.events("changing over")


@pytest.mark.parametrize(("how", "code"), [("BROKEN=3", 3), ("BROKEN=0", 4), ("KILLED=1", 4)])
def test_failed_first_start_is_given_up_with_a_message(tmp_path: Path, how: str, code: int) -> None:
    with running(tmp_path, how) as server:
        assert server.process.wait(20) == code
        until(lambda: server.events("given up"))


def _answers(server: Running) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return server.request(1) > 0
    return False
