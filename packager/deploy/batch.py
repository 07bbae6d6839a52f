# SPDX-License-Identifier: Apache-2.0
"""Answer a whole file with an installed bundle: in chunks, on every core, and again from where it was interrupted.

    OUT                   the rows in the order of the input, each with its `answer`
    OUT.refused.jsonl     rows without one: their number, the reason, the row
    OUT.run.json          the bundle's digest, the input's, and how many rows
    OUT.parts/            while it runs: what is answered so far (`packager.deploy.batch_parts`)

The workers are processes of the installation: its own interpreter, its own libraries. Tables go to them as columns and
come back as finished lines (`packager.deploy.batch_workers`). Chunks depend on the input and their size alone, so an
interrupted run gives the bytes of an unbroken one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import queue
import shutil
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packager import canonical
from packager.canonical import JSON
from packager.deploy import install, table_chunks, table_files
from packager.deploy.batch_parts import REFUSED, ROWS, Part, Parts
from packager.deploy.batch_tables import TableWriter, find_answer_type, find_schema, make_piece, write_table
from packager.deploy.batch_workers import Worker, encode, start_workers
from packager.deploy.table_chunks import Chunk
from packager.deploy.table_files import ANSWER, Row, Unreadable
from packager.errors import UsageError
from packager.events import Note, OnEvent, ignore
from packager.files import hold_lock, storage_errors, write_atomically

_STATE = "state.json"
_FORMAT = 3
_SECONDS = 5.0  # between two lines about progress
_PIECE = 1 << 20
CHUNK = 1024
TABLE_CHUNK = 8192
_CHUNK_CELLS = 1 << 17


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How to run: rows of a chunk, worker processes, and which column of the input is which of the bundle's."""

    chunk: int | None = None
    processes: int = 1
    columns: Mapping[str, str] = field(default_factory=dict)
    restart: bool = False


@dataclass(frozen=True, slots=True)
class _Job:
    """What every chunk is answered with, and what is kept of it.

    That is `lines` of JSON, `csv` under `names`, or where the output has a `schema` the answer of every row. It comes
    in `arrays` or as lines (`answers`), and is put beside the columns of the chunk.
    """

    source: Path
    chunk: int
    columns: Mapping[str, str]
    form: str
    names: Sequence[str] = ()
    schema: Any = None


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
    settings = replace(settings, chunk=settings.chunk or choose_chunk(known))
    folder = target.with_name(f"{target.name}.parts")
    state = {
        "format": _FORMAT,
        "bundle": known["digest"],
        "target": known["target"],
        "input": _identity(source),
        "output": target.suffix.lower(),
        "chunk": settings.chunk,
        "columns": dict(settings.columns),
    }
    with storage_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(f".{target.name}.lock")
    with storage_errors(target.parent), hold_lock(lock):
        _prepare(folder, state, restart=settings.restart)
        whole = folder / f"whole{target.suffix}"
        with start_workers(release, settings.processes) as wait:
            parts = Parts(folder)
            resumed = parts.done
            free = wait()
            about = free.queue[0].about
            job = _plan(about, source, target, settings, known["digest"])
            writer = TableWriter(whole, job.schema) if job.schema else None
            _answer_all(parts, job, free, writer, on_event)
        parts.close()
        if writer is not None:
            writer.close()
        elif target.suffix.lower() == f".{job.form}" or target.suffix.lower() == ".jsonl":
            whole = folder / ROWS
        elif target.suffix.lower() == ".csv":
            table_files.write_csv(whole, parts.pieces())
        else:
            write_table(whole, parts.pieces, find_answer_type(about), known["digest"])
        done = _assemble(parts, whole, target, state)
        shutil.rmtree(folder)
        lock.unlink()
    return {**done, "resumed": resumed}


def choose_chunk(config: Mapping[str, JSON]) -> int:
    """Return how many rows a chunk has by default: more of a table with few cells, so that memory stays small."""
    ports = [*config["interface"]["inputs"], *config["interface"]["outputs"]]
    sizes = [size for port in ports for size in port["shape"][1:]]
    if config.get("pipeline") or config.get("generation") or not all(isinstance(size, int) for size in sizes):
        return CHUNK
    return max(CHUNK, min(TABLE_CHUNK, _CHUNK_CELLS // sum(math.prod(port["shape"][1:]) or 1 for port in ports)))


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


def _plan(about: Mapping[str, JSON], source: Path, target: Path, settings: BatchSettings, bundle: str) -> _Job:
    """Return how chunks are answered: the columns of a table stay columns where the output has such."""
    suffix, form, schema = target.suffix.lower(), "lines", None
    names: tuple[str, ...] = ()
    if suffix == ".csv" and (names := table_chunks.read_names(source)):
        form = "csv"
    if suffix == ".parquet" and (schema := find_schema(source, answer := find_answer_type(about), bundle)):
        form = "arrays" if about.get("arrays") and answer.num_fields else "answers"  # texts have no fields
    return _Job(source, settings.chunk or CHUNK, settings.columns, form, names, schema)


def _answer_all(
    parts: Parts, job: _Job, free: queue.Queue[Worker], writer: TableWriter | None, on_event: OnEvent
) -> None:
    """Answer the chunks that are not answered yet, and add them in order."""
    about, processes = free.queue[0].about, free.qsize()
    chunks = table_chunks.read_chunks(job.source, job.chunk, about["columns"][0])
    number, resumed, reported = 0, parts.done, time.monotonic()
    running: deque[tuple[Chunk, Future[Part]]] = deque()
    known = parts.pieces()
    with ThreadPoolExecutor(processes) as pool:
        try:
            for number, chunk in enumerate(chunks, 1):
                if number == 1:
                    _check_columns(chunk.first(), about, job.columns, job.source)
                if number <= resumed:
                    if writer is not None:
                        writer.add(chunk, next(known))
                    continue
                running.append((chunk, pool.submit(_answer, job, number - 1, chunk, free)))
                if len(running) > 4 * processes:
                    _add(parts, job, *running.popleft(), writer)
                if time.monotonic() - reported > _SECONDS:
                    reported = time.monotonic()
                    on_event(Note(f"{parts.done * job.chunk} rows"))
            while running:
                _add(parts, job, *running.popleft(), writer)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if not number and job.source.is_dir():
        hint = f"the bundle takes {', '.join(about['columns'])}"
        raise UsageError(f"`{job.source}` holds no {about['columns'][0]} files", hint=hint)


def _add(parts: Parts, job: _Job, chunk: Chunk, answered: Future[Part], writer: TableWriter | None) -> None:
    """Wait for a chunk, keep its part, and write it where the output is a table."""
    part = answered.result()
    if job.form == "csv" and part.rows and not parts.rows:
        names = [*job.names, ANSWER]
        header = table_files.csv_text([dict(zip(names, names, strict=True))], names).encode()
        part = Part(header + part.kept, part.refused, part.rows)
    parts.add(part)
    if writer is not None:
        writer.add(chunk, part.kept)


def _check_columns(row: Row, about: Mapping[str, JSON], columns: Mapping[str, str], source: Path) -> None:
    """Refuse an input whose first row lacks a column, before anything runs. Raises UsageError."""
    known = {*about["columns"], *about["optional"]}
    if other := sorted(set(columns) - known):
        raise UsageError(f"the bundle has no column `{other[0]}`", hint=f"it takes {', '.join(sorted(known))}")
    if isinstance(row, Unreadable) or source.is_dir():
        return
    for name in about["columns"]:
        column = columns.get(name, name)
        if column not in row:
            raise UsageError(
                f"`{source}` has no column `{column}`, only {', '.join(map(str, row))}",
                hint=f"name the one to take with `--column {name}=…`",
            )


def _answer(job: _Job, number: int, chunk: Chunk, free: queue.Queue[Worker]) -> Part:
    """Answer one chunk: as columns where the worker takes them, else row by row."""
    worker = free.get()
    try:
        columns = None
        if worker.about.get("chunks") and not job.source.is_dir():
            take = {name: job.columns.get(name, name) for name in worker.about["columns"]}
            numbers = {take[name]: kind for name, kind in worker.about["numbers"].items()}
            only = None if job.schema is None else set(take.values())  # the others stay here
            columns = chunk.columns(numbers, only)
            if columns is not None and not set(take.values()) <= set(columns.names):
                columns = None
        part = None
        if columns is not None:
            part = worker.answer_columns(columns, form=job.form, take=take, first=number * job.chunk)
            if part is not None and part.places and only is not None:  # a refused row is shown whole
                whole, asked = chunk.columns(numbers), {"form": job.form, "take": take, "first": number * job.chunk}
                part = None if whole is None else worker.answer_columns(whole, **asked)
        if part is None:
            part = _answer_rows(job, number, chunk.rows(), worker)
    finally:
        free.put(worker)
    if job.schema is None:
        return part
    return replace(part, kept=make_piece(part, chunk.count, job.schema))


def _answer_rows(job: _Job, number: int, chunk: Sequence[Row], worker: Worker) -> Part:
    requests = _list_requests(chunk, worker.about, job.columns, job.source)
    sent = [row for row in requests if not isinstance(row, Unreadable)]
    found = iter(worker.answer_rows(sent) if sent else [])
    kept, refused, places, first = [], [], [], number * job.chunk
    for index, (row, request) in enumerate(zip(chunk, requests, strict=True)):
        answer = {"error": request.reason} if isinstance(request, Unreadable) else next(found)
        shown = {"text": row.text} if isinstance(row, Unreadable) else dict(row)
        if "error" in answer:
            places.append(index)
            refused.append({"row": first + index, "reason": answer["error"], "input": shown})
        else:
            kept.append({**shown, ANSWER: answer["answer"]})
    return Part(_LINES[job.form](kept, job.names), _dumped(refused), len(kept), places)


def _csv_lines(rows: Sequence[Mapping[str, JSON]], names: Sequence[str]) -> bytes:
    return table_files.csv_text(rows, [*names, ANSWER]).encode()


def _answer_lines(rows: Sequence[Mapping[str, JSON]], names: Sequence[str]) -> bytes:
    return "".join([f"{json.dumps(row[ANSWER], ensure_ascii=False)}\n" for row in rows]).encode()


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


def _dumped(rows: Sequence[JSON], names: Sequence[str] = ()) -> bytes:
    return "".join([f"{encode(row)}\n" for row in rows]).encode()


_LINES = {"lines": _dumped, "csv": _csv_lines, "answers": _answer_lines, "arrays": _answer_lines}


def _assemble(parts: Parts, whole: Path, target: Path, state: Mapping[str, JSON]) -> dict[str, JSON]:
    """Put all three files in place, the target last."""
    side = whole.with_name(REFUSED)
    refused = _count(side)
    record = {**state, "rows": parts.rows, "refused": refused}
    write_atomically(target.with_name(f"{target.name}.run.json"), canonical.dump(record))
    side.replace(target.with_name(f"{target.name}.refused.jsonl"))
    with whole.open("rb") as file:
        os.fsync(file.fileno())
    whole.replace(target)
    about = {"output": str(target), "bundle": state["bundle"], "rows": parts.rows, "refused": refused}
    return {**about, "chunks": parts.done}


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)
