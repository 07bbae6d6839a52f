# SPDX-License-Identifier: Apache-2.0
"""Find the suite and run its programs in a separate session, up to a time limit, leaving no process running."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from packager.errors import MissingToolError

_TAIL = 3000


def find_suite() -> Path:
    """Return the directory that has to be on the path of suite and adapters. Raises MissingToolError without pytest."""
    for tool in ("pytest", "numpy"):
        if importlib.util.find_spec(tool) is None:
            raise MissingToolError(tool, "conform")
    return Path(importlib.import_module("packager.conformance").__path__[0])


def run(
    command: Sequence[str], scratch: Path, suite: Path, environment: Mapping[str, str], seconds: float
) -> tuple[int | None, str]:
    """Return the status and the end of the output; None as status when it had to be killed at the limit of time."""
    own = {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "",
        "PYTEST_PLUGINS": "",
    }  # the caller's are for others
    variables = {**environment, "PYTHONPATH": str(suite), **own}
    log = scratch / "suite.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=variables,
            cwd=scratch,
            start_new_session=True,
        )
        code: int | None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _kill(process)
    return code, log.read_bytes()[-_TAIL:].decode("utf-8", "replace").strip()


def list_variables(scratch: Path, python: Path, suite: Path) -> dict[str, str]:
    """Return everything an adapter gets to see: none of the caller's secrets."""
    home = scratch / "home"
    home.mkdir(exist_ok=True)
    return {
        "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONPATH": str(suite),
        "LANG": "C.UTF-8",
        "NO_PROXY": "127.0.0.1",
        "ORT_DISABLE_TELEMETRY": "1",
    }


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the suite and what it started: adapters have separate sessions, and a hanging one reads no input."""
    family = list(_descendants(process.pid))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _descendants(pid: int) -> Iterator[int]:
    """Yield the processes below `pid`, by Linux's list of each thread's children."""
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, file.read_text().split()):
                yield child
                yield from _descendants(child)
