# SPDX-License-Identifier: Apache-2.0
"""The processes of an installation that answer chunks of rows: `packager.server.batch` is the other end."""

from __future__ import annotations

import json
import queue
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packager.canonical import JSON
from packager.deploy import install
from packager.deploy.batch_parts import Part
from packager.deploy.server_files import CONFIG
from packager.deploy.table_chunks import Columns
from packager.errors import StepError

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # `json.dumps` makes one for each call


@dataclass(frozen=True, slots=True)
class Worker:
    """One process of the installation, and what it says of rows."""

    process: subprocess.Popen[bytes]
    about: Mapping[str, JSON]

    def answer_rows(self, rows: Sequence[JSON]) -> list[Mapping[str, JSON]]:
        """Return the answers to rows. Raises StepError when the process is gone."""
        found, _ = self._ask([encode(rows).encode(), b"\n"])
        return list(found)

    def answer_columns(self, columns: Columns, **more: JSON) -> Part | None:
        """Return the finished lines of a chunk; None for one that has to go as rows. Raises StepError as above."""
        head = encode({**columns.header, **more}).encode()
        about, data = self._ask([head, b"\n", *columns.data])
        return None if "unfit" in about else _part(about, data)

    def _ask(self, pieces: Sequence[bytes]) -> tuple[JSON, bytes]:
        """Send bytes and return the line that comes back, with the bytes that it announces."""
        sink, source = self.process.stdin, self.process.stdout
        try:
            if sink is None or source is None:
                raise BrokenPipeError
            for piece in pieces:
                sink.write(piece)
            sink.flush()
            found = json.loads(source.readline())
            size = found.get("kept", 0) + found.get("refused", 0) if isinstance(found, dict) else 0
            data = source.read(size)
            if len(data) < size:
                raise BrokenPipeError
        except (OSError, ValueError):
            raise StepError(
                "a worker process ended before it answered",
                hint="its words above may say why; run the same command again: finished chunks are kept",
            ) from None
        return found, data


def _part(about: JSON, data: bytes) -> Part:
    return Part(data[: about["kept"]], data[about["kept"] :], about["rows"], about["places"], about.get("arrays", ()))


@contextmanager
def start_workers(release: Path, count: int) -> Iterator[Callable[[], queue.Queue[Worker]]]:
    """Start workers of an installation; yield what waits for them and returns a queue of those that are free.

    It raises StepError where one does not start.
    """
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            process = subprocess.Popen(
                [*install.server_command(release, ())[:-1], "--batch", str(release / CONFIG), "1"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            started.append(process)
        yield lambda: _list_ready(started)
    finally:
        for process in started:
            process.kill()
            process.wait()


def _list_ready(started: Sequence[subprocess.Popen[bytes]]) -> queue.Queue[Worker]:
    free: queue.Queue[Worker] = queue.Queue()
    for process in started:
        free.put(Worker(process, _read_about(process)))
    return free


def _read_about(process: subprocess.Popen[bytes]) -> Mapping[str, JSON]:
    """Return what a worker says first. Raises StepError where it does not start."""
    line = process.stdout.readline() if process.stdout else b""
    try:
        about: Mapping[str, JSON] = json.loads(line)
    except ValueError:
        hint = "it may be of an older packager: install the bundle again"
        raise StepError("the installation does not answer rows", hint=hint) from None
    if "error" in about:
        raise StepError(f"the installation does not start: {about['error']}", hint="install the bundle again")
    return about
