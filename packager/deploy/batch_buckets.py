# SPDX-License-Identifier: Apache-2.0
"""Rows in a bucket: what `packager run` fetches before it answers them, and sends when all are answered.

    OUT.work/             beside a local output, or in the current directory
        input/            the objects of the input
        input.json        which objects, as the store describes them; others are fetched anew
        OUT, OUT.…        an output that goes to a bucket, and what `packager.deploy.batch` keeps beside it
        done.json         what was answered, until it is sent

The folder is there while the command runs and after an interruption, when the same command goes on with it: no object
that is whole is fetched again, no chunk that is done answered again. It needs room for input and output. The output
appears last in its bucket, whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path

from packager import canonical
from packager.canonical import JSON
from packager.deploy import install, table_files
from packager.deploy.batch import BatchSettings, run_batch
from packager.errors import SourceError, UsageError
from packager.events import Note, OnEvent, ignore
from packager.files import hold_lock, ignore_count, storage_errors, write_atomically
from packager.transport.bucket.folder import Folder
from packager.transport.bucket.reference import folder_address, hide_credentials
from packager.types import Blob

_PIECE = 1 << 20
_SECONDS = 5.0  # between two lines about progress
_BESIDE = (".refused.jsonl", ".run.json", "")  # what is sent beside the output, and it last


def is_address(place: str | Path) -> bool:
    """Say whether a place is one in a bucket, such as `s3://bucket/rows.parquet`."""
    return "://" in str(place)


def run_in_buckets(
    release: Path, source: str | Path, target: str | Path, settings: BatchSettings, on_event: OnEvent = ignore
) -> dict[str, JSON]:
    """Answer as `packager.deploy.batch.run_batch` does where source or target is in a bucket.

    Raises UsageError, SourceError for what the store refuses, StepError, and StorageError where there is no room.
    """
    folder, name = _part(str(target)) if is_address(target) else ("", "")
    table_files.check_target(Path(name or target))
    sink = Folder(folder) if name else None
    if sink is not None:
        sink.size(name)  # what cannot be reached is said before hours of answering, not behind them
    work = Path(f"{name or target}.work").absolute()
    with storage_errors(work.parent):
        work.mkdir(parents=True, exist_ok=True)
    with storage_errors(work), hold_lock(work / ".lock"):
        if is_address(source):
            here, described = _fetch(str(source), work, on_event)
        else:
            here = Path(source).absolute()
            described = _describe(here)
        if sink is not None:
            answered = {
                "source": described,
                "bundle": install.read_config(release)["digest"],
                "settings": _key(settings),
            }
            done = _answer_once(work / "done.json", answered, release, here, work / name, settings, on_event)
            _send(work, name, sink, on_event)
        else:
            done = run_batch(release, here, Path(target), settings, on_event)
    shutil.rmtree(work)
    return {**done, "output": hide_credentials(str(target))}


def _part(address: str) -> tuple[str, str]:
    """Return the address of a folder, and the name of an object in it. Raises UsageError."""
    folder, _, name = folder_address(address).rpartition("/")
    if folder.endswith(":/"):
        raise UsageError(f"`{hide_credentials(address)}` is a bucket", hint="name an object in it")
    return folder, name


def _key(settings: BatchSettings) -> JSON:
    """Return the settings that answers depend on."""
    return {"chunk": settings.chunk, "columns": dict(settings.columns)}


def _describe(source: Path) -> JSON:
    """Return what changes when a local input does. Raises UsageError."""
    if not source.exists():
        raise UsageError(f"`{source}` does not exist")
    found = [(path, path.stat()) for path in (_files(source) if source.is_dir() else [source])]
    return sorted([str(path), state.st_size, str(state.st_mtime_ns)] for path, state in found)


def _answer_once(
    record: Path,
    answered: JSON,
    release: Path,
    source: Path,
    target: Path,
    settings: BatchSettings,
    on_event: OnEvent,
) -> dict[str, JSON]:
    """Answer the rows, unless that was done and only the sending was interrupted."""
    if not settings.restart and record.is_file() and target.is_file():
        found = json.loads(record.read_bytes())
        if canonical.dump(found["answered"]) == canonical.dump(answered):
            return {**found["done"]}
    done = run_batch(release, source, target, settings, on_event)
    write_atomically(record, canonical.dump({"answered": answered, "done": done}))
    return done


def _fetch(address: str, work: Path, on_event: OnEvent) -> tuple[Path, JSON]:
    """Bring an object, or all objects below a prefix, into `work`; return where, and how the store describes them.

    Raises SourceError, and UsageError for a name that no file has.
    """
    folder, name = _find(address)
    objects = folder.states(name)
    if not objects:
        raise SourceError(f"there is no object `{hide_credentials(address)}`", hint="check the address")
    for key in objects:
        if not key or key.startswith("/") or {"", ".", ".."} & {*key.split("/")} or "\0" in key:
            raise UsageError(f"the object {key!r} has a name that no file has", hint="leave it out of the prefix")
    described = {key: [size, state] for key, (size, state) in objects.items()}
    record, place = work / "input.json", work / "input"
    wanted = canonical.dump({"address": folder_address(address), "objects": described})
    if not record.is_file() or record.read_bytes() != wanted:
        shutil.rmtree(place, ignore_errors=True)
        write_atomically(record, wanted)
    total, reported = sum(size for size, _ in objects.values()), time.monotonic()
    for key, (size, _) in objects.items():
        _fetch_one(folder, key, size, place / key)
        if time.monotonic() - reported > _SECONDS:
            reported = time.monotonic()
            on_event(Note(f"fetched {sum(path.stat().st_size for path in _files(place))} of {total} bytes"))
    again = folder.states(name)
    if changed := [key for key in objects if again.get(key) != objects[key]]:
        raise SourceError(f"`{changed[0]}` changed while it was read", hint="repeat the command: it is fetched anew")
    return place / name if name else place, described


def _files(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.is_file()]


def _find(address: str) -> tuple[Folder, str]:
    """Return the folder of an object and its name; of a prefix itself and no name."""
    whole = folder_address(address)
    parent, _, name = whole.rpartition("/")
    if not address.endswith("/") and not parent.endswith(":/"):
        folder = Folder(parent)
        if folder.size(name) is not None:
            return folder, name
    return Folder(whole), ""


def _fetch_one(folder: Folder, key: str, size: int, path: Path) -> None:
    """Bring one object, from where an interrupted command ended."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("ab") as sink, folder.open(key, size) as source:
        source.seek(sink.tell())
        while piece := source.read(_PIECE):
            sink.write(piece)
    partial.rename(path)


def _send(work: Path, name: str, folder: Folder, on_event: OnEvent) -> None:
    for ending in _BESIDE:
        path = work / f"{name}{ending}"
        blob = Blob(_digest(path), path.stat().st_size)
        on_event(Note(f"sending {blob.size} bytes to {folder.label}/{path.name}"))
        folder.send(path.name, blob, lambda path=path: path.open("rb"), ignore_count)  # type: ignore[misc]


def _digest(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            state.update(piece)
    return f"sha256:{state.hexdigest()}"
