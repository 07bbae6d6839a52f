# SPDX-License-Identifier: Apache-2.0
"""Answer a whole file with an installed bundle: in chunks, on every core, and again from where it was interrupted.

    OUT                   the rows in the order of the input, each with its `answer`
    OUT.refused.jsonl     rows without one: their number, the reason, the row
    OUT.run.json          the bundle's digest, the input's, and how many rows
    OUT.parts/            while it runs: two files per chunk, and `done` with a line of digests for each

Parts are not forced to the disk one by one: a chunk counts as done if its files have the digests of its line, so that
what a power cut took is answered again. The workers are processes of the installation: its own interpreter, its own
libraries. Chunks depend on the input and `chunk` alone, so an interrupted run gives the bytes of an unbroken one.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from packager import canonical
from packager.canonical import JSON
from packager.deploy import install, table_files
from packager.deploy.server_files import CONFIG
from packager.deploy.table_files import ANSWER, Row, Unreadable
from packager.errors import StepError, UsageError
from packager.events import Note, OnEvent, ignore
from packager.files import hold_lock, storage_errors, write_atomically

_STATE, _DONE = "state.json", "done"
_FORMAT = 1
_SECONDS = 5.0  # between two lines about progress
_PIECE = 1 << 20
CHUNK = 1024


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How to run: rows of a chunk, worker processes, and which column of the input is which of the bundle's."""

    chunk: int = CHUNK
    processes: int = 1
    columns: Mapping[str, str] = field(default_factory=dict)
    restart: bool = False


@dataclass(frozen=True, slots=True)
class _Worker:
    """One process of the installation, and what it says of rows."""

    process: subprocess.Popen[bytes]
    about: Mapping[str, JSON]

    def ask(self, rows: Sequence[JSON]) -> list[Mapping[str, JSON]]:
        """Return the answers to rows. Raises StepError when the process is gone."""
        sink, source = self.process.stdin, self.process.stdout
        try:
            if sink is None or source is None:
                raise BrokenPipeError
            sink.write(_encode(rows).encode() + b"\n")
            sink.flush()
            line = source.readline()
            return list(json.loads(line))
        except (OSError, ValueError):
            raise StepError(
                "a worker process ended before it answered",
                hint="its words above may say why; run the same command again: finished chunks are kept",
            ) from None


def run_batch(
    release: Path, source: Path, target: Path, settings: BatchSettings, on_event: OnEvent = ignore
) -> dict[str, JSON]:
    """Answer every row of `source` into `target`; return what was done. Raises UsageError, StepError."""
    table_files.check_target(target)
    if not source.exists():
        raise UsageError(f"`{source}` does not exist")
    if target.is_dir():
        raise UsageError(f"`{target}` is a directory", hint="give -o the name of a file")
    if target.exists() and target.samefile(source):
        raise UsageError(f"`{target}` is the input itself", hint="give -o another name: refused rows are in no answer")
    known = install.read_config(release)
    folder = target.with_name(f"{target.name}.parts")
    state = {
        "format": _FORMAT,
        "bundle": known["digest"],
        "target": known["target"],
        "input": _identity(source),
        "chunk": settings.chunk,
        "columns": dict(settings.columns),
    }
    with storage_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(f".{target.name}.lock")
    with storage_errors(target.parent), hold_lock(lock):
        _prepare(folder, state, restart=settings.restart)
        with _workers(release, settings.processes) as free:
            resumed = _answer_all(source, _Parts(folder), settings, free, on_event)
        done = _assemble(folder, target, state)
        shutil.rmtree(folder)
        lock.unlink()
    return {**done, "resumed": resumed}


def _identity(source: Path) -> str:
    """Return the digest of a file, or of the names and sizes in a folder."""
    digest = hashlib.sha256()
    if source.is_dir():
        for row in table_files.read_rows(source):
            name = "" if isinstance(row, Unreadable) else str(row["file"])
            digest.update(f"{(source / name).stat().st_size} {name}\n".encode())
    else:
        with source.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def _prepare(folder: Path, state: Mapping[str, JSON], *, restart: bool) -> None:
    """Make the folder of parts, or take it over from an interrupted run of the same. Raises UsageError."""
    if restart:
        shutil.rmtree(folder, ignore_errors=True)
    path = folder / _STATE
    if path.is_file() and path.read_bytes() != canonical.dump(state):
        raise UsageError(
            f"`{folder}` is of another run: its input, bundle, columns or chunks are others",
            hint="repeat that run, or add --restart to drop what it did",
        )
    folder.mkdir(exist_ok=True)
    write_atomically(path, canonical.dump(state))


@contextmanager
def _workers(release: Path, count: int) -> Iterator[queue.Queue[_Worker]]:
    free: queue.Queue[_Worker] = queue.Queue()
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            process = subprocess.Popen(
                [*install.server_command(release, ())[:-1], "--batch", str(release / CONFIG), "1"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            started.append(process)
        for process in started:
            free.put(_Worker(process, _about(process)))
        yield free
    finally:
        for process in started:
            process.kill()
            process.wait()


def _about(process: subprocess.Popen[bytes]) -> Mapping[str, JSON]:
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


class _Parts:
    """The answered chunks in a folder; a chunk is done if its files have the digests that its line in `done` says."""

    def __init__(self, folder: Path) -> None:
        """Read the folder of an interrupted run, or an empty one."""
        self._folder, self._lock = folder, threading.Lock()
        journal = folder / _DONE
        lines = journal.read_text("ascii", "replace").split("\n") if journal.is_file() else []
        self.done = {number for line in lines if (number := self._checked(line.split())) is not None}

    def _checked(self, words: Sequence[str]) -> int | None:
        """Return the number of a chunk whose files are as its line says; None for any other line."""
        if len(words) != 3 or not words[0].isdecimal():
            return None
        files = self._files(int(words[0]))
        try:
            found = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
        except OSError:
            return None
        return int(words[0]) if found == words[1:] else None

    def _files(self, number: int) -> tuple[Path, Path]:
        return self._folder / f"{number:08d}.jsonl", self._folder / f"{number:08d}.refused"

    def write(self, number: int, kept: bytes, refused: bytes) -> None:
        """Write the answers of a chunk and its refused rows. Raises StorageError."""
        with storage_errors(self._folder):
            for path, data in zip(self._files(number), (kept, refused), strict=True):
                fresh = path.with_name(f".{path.name}")
                fresh.write_bytes(data)
                fresh.replace(path)
            line = " ".join([str(number), *(hashlib.sha256(data).hexdigest() for data in (kept, refused))])
            with self._lock, (self._folder / _DONE).open("ab") as journal:
                journal.write(f"\n{line}\n".encode())  # a line that a kill cut off ends here


def _answer_all(
    source: Path, parts: _Parts, settings: BatchSettings, free: queue.Queue[_Worker], on_event: OnEvent
) -> int:
    """Answer the chunks that have no part yet; return how many had one."""
    about = free.queue[0].about
    rows, number, resumed, done = table_files.read_rows(source, about["columns"][0]), 0, 0, 0
    reported = time.monotonic()
    running: set[Future[int]] = set()
    with ThreadPoolExecutor(settings.processes) as pool:
        try:
            while chunk := list(islice(rows, settings.chunk)):
                if not number:
                    _check_columns(chunk, about, settings.columns, source)
                number += 1
                if number - 1 in parts.done:
                    resumed += 1
                    continue
                running.add(pool.submit(_answer, parts, number - 1, chunk, source, settings, free))
                if len(running) >= 2 * settings.processes:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    done += sum(item.result() for item in finished)
                if time.monotonic() - reported > _SECONDS:
                    reported = time.monotonic()
                    on_event(Note(f"{done + resumed * settings.chunk} rows"))
            for item in running:
                item.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if not number and source.is_dir():
        kind = about["columns"][0]
        raise UsageError(f"`{source}` holds no {kind} files", hint=f"the bundle takes {', '.join(about['columns'])}")
    return resumed


def _check_columns(chunk: Sequence[Row], about: Mapping[str, JSON], columns: Mapping[str, str], source: Path) -> None:
    """Refuse an input whose first row lacks a column, before anything runs. Raises UsageError."""
    known = {*about["columns"], *about["optional"]}
    if other := sorted(set(columns) - known):
        raise UsageError(f"the bundle has no column `{other[0]}`", hint=f"it takes {', '.join(sorted(known))}")
    row = chunk[0]
    if isinstance(row, Unreadable):
        return
    if source.is_dir():
        return
    for name in about["columns"]:
        column = columns.get(name, name)
        if column not in row:
            raise UsageError(
                f"`{source}` has no column `{column}`, only {', '.join(map(str, row))}",
                hint=f"name the one to take with `--column {name}=…`",
            )


def _answer(
    parts: _Parts,
    number: int,
    chunk: Sequence[Row],
    source: Path,
    settings: BatchSettings,
    free: queue.Queue[_Worker],
) -> int:
    """Answer one chunk, and return how many rows it has."""
    worker = free.get()
    try:
        requests = _list_requests(chunk, worker.about, settings.columns, source)
        sent = [row for row in requests if not isinstance(row, Unreadable)]
        found = iter(worker.ask(sent) if sent else [])
    finally:
        free.put(worker)
    kept, refused, first = [], [], number * settings.chunk
    for index, (row, request) in enumerate(zip(chunk, requests, strict=True)):
        answer = {"error": request.reason} if isinstance(request, Unreadable) else next(found)
        shown = {"text": row.text} if isinstance(row, Unreadable) else dict(row)
        if "error" in answer:
            refused.append({"row": first + index, "reason": answer["error"], "input": shown})
        else:
            kept.append({**shown, ANSWER: answer["answer"]})
    parts.write(number, _dumped(kept), _dumped(refused))
    return len(chunk)


def _list_requests(
    chunk: Sequence[Row], about: Mapping[str, JSON], columns: Mapping[str, str], source: Path
) -> list[JSON | Unreadable]:
    """Return what the worker is sent of every row: the columns that the bundle takes."""
    if source.is_dir():
        return [_read_file(row, about, source) for row in chunk]
    pairs = [(name, columns.get(name, name)) for name in (*about["columns"], *about["optional"])]
    return [
        row if isinstance(row, Unreadable) else {name: row[column] for name, column in pairs if column in row}
        for row in chunk
    ]


def _read_file(row: Row, about: Mapping[str, JSON], source: Path) -> JSON | Unreadable:
    if isinstance(row, Unreadable):
        return row
    try:
        kind = next(iter(about["columns"]))
        return {kind: table_files.read_file(source, str(row["file"]), kind)}
    except OSError as error:
        return Unreadable(f"cannot be read: {error.strerror}", str(row["file"]))
    except ValueError as error:
        return Unreadable(str(error), str(row["file"]))


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # `json.dumps` makes one for each call


def _dumped(rows: Sequence[JSON]) -> bytes:
    return "".join([f"{_encode(row)}\n" for row in rows]).encode()


def _assemble(folder: Path, target: Path, state: Mapping[str, JSON]) -> dict[str, JSON]:
    """Put the parts together beside the target, then put all three files in place, the target last."""
    parts = sorted(folder.glob("*.jsonl"))
    whole = folder / f"whole{target.suffix}"
    table_files.write_rows(whole, parts, str(state["bundle"]))
    refused, side = 0, folder / "refused"
    with side.open("wb") as sink:
        for part in parts:
            data = part.with_suffix(".refused").read_bytes()
            refused += data.count(b"\n")
            sink.write(data)
    rows = sum(_count(part) for part in parts)
    record = {**state, "rows": rows, "refused": refused}
    write_atomically(target.with_name(f"{target.name}.run.json"), canonical.dump(record))
    side.replace(target.with_name(f"{target.name}.refused.jsonl"))
    with whole.open("rb") as file:
        os.fsync(file.fileno())
    whole.replace(target)
    return {"output": str(target), "bundle": state["bundle"], "rows": rows, "refused": refused, "chunks": len(parts)}


def _count(part: Path) -> int:
    with part.open("rb") as file:
        return sum(1 for _ in file)
