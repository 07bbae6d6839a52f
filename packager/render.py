# SPDX-License-Identifier: Apache-2.0
"""Write deployment files: a directory of its own, or into a model repository; visible as one step.

A directory is written beside its place, complete, and exchanged with what was there, which must be an earlier
rendering of the same kind and bundle. In a repository the new version lies beside what is served:
A version of a model is a numbered directory that never changes once it is there; `config.pbtxt` says which one is
served and is replaced last. A kill leaves the version before in service and, at most, a directory nobody refers to,
which the next rendering replaces.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packager import canonical, plugins, wheelfiles
from packager.bundle import Bundle
from packager.canonical import JSON
from packager.errors import UsageError, WrongContent
from packager.events import Note, OnEvent, ignore
from packager.files import (
    copy,
    exchange_directories,
    staging,
    storage_errors,
    sync_directory,
    sync_file_system,
    write_atomically,
)
from packager.knobs import Resolved
from packager.renderers import _deployment, triton
from packager.renderers.triton import Backend, Rendered

_EPOCH = 315532800  # 1980-01-01, the first day that zip archives know


@dataclass(frozen=True, slots=True)
class Model:
    """A rendered version in a repository. `before` is the version that config.pbtxt named until then, or None."""

    repository: Path
    name: str
    number: int
    before: int | None
    created: bool
    target: str


def kinds() -> tuple[str, ...]:
    """Return what can be rendered; `triton` is a repository, all others are directories."""
    return plugins.names("renderers")


def options(kind: str) -> tuple[_deployment.Option, ...]:
    """Return the options of a kind of directory."""
    found: tuple[_deployment.Option, ...] = getattr(plugins.load("renderers", kind), "OPTIONS", ())
    return found


def render_directory(
    kind: str, bundle: Bundle, values: Resolved, out: Path, given: Mapping[str, str | None]
) -> tuple[str, ...]:
    """Write the files of `bundle`, which the caller has verified, to `out` and return what to do with them.

    The same bundle, knobs and options give the same bytes. `given` are options by name. Raises UsageError,
    IntegrityError, StorageError; whatever was in `out` is still there then.
    """
    renderer = plugins.load("renderers", kind)
    rendered: _deployment.Rendered = renderer.render(bundle, values, _deployment.choices(renderer.OPTIONS, given))
    _check_place(out, kind, bundle.name)
    with storage_errors(out.parent), staging(out) as fresh:
        for path, (origin, _) in rendered.copied.items():
            _copy(bundle, origin, fresh / path)
        for path, data in rendered.made.items():
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            (fresh / path).write_bytes(data)
        for path, origin in rendered.wheels.items():
            wheel = fresh / path
            _copy(bundle, origin, wheel)
            wheelfiles.unpack(wheel, wheel.parent)
            wheel.unlink()
        for written in (fresh, *fresh.rglob("*")):  # whatever umask and clock: both become bytes of images
            written.chmod(0o755 if written.is_dir() else 0o644)
            os.utime(written, (_EPOCH, _EPOCH))
        sync_file_system(fresh)
        exchange_directories(fresh, out)
    return tuple(step.replace("OUT", str(out)) for step in rendered.steps)


def _check_place(out: Path, kind: str, name: str) -> None:
    """Raise UsageError if `out` holds something that is not ours to replace."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        found = canonical.load((out / _deployment.RECORD).read_bytes(), limit=1 << 20)
        ours = (found["kind"], found["name"]) == (kind, name)
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise UsageError(f"`{out}` holds something else", hint="name a new directory, or an earlier rendering of it")


def render_triton(
    bundle: Bundle, values: Resolved, repository: Path, backend: Backend, sites: Mapping[str, Resolved],
    on_event: OnEvent = ignore, *, switch: bool = True,
) -> Model:  # fmt: skip
    """Add `bundle`, which the caller has verified, to a model repository and return the version it became.

    `values` are the knobs of config.pbtxt, `sites` those of configs/<site>.pbtxt. The same bundle with the same knobs
    and backend is the version it was before. Without `switch` config.pbtxt stays what it was, and `activate`
    switches. Raises UsageError, IntegrityError, StorageError.
    """
    folder = repository / bundle.name
    before = active(folder)
    number = _known(folder, triton.record(bundle, values, backend))
    created = number is None
    number = number or max([0, *versions(folder)]) + 1
    rendered = triton.render(bundle, values, number, backend, sites)
    for path, data in rendered.made.items():
        if path.endswith(".pbtxt"):
            _check_config(data, path, on_event)
    with storage_errors(repository):
        folder.mkdir(parents=True, exist_ok=True)
        _write(bundle, rendered, folder, number, created)
    model = Model(repository, bundle.name, number, before, created, rendered.record["targets"][0])
    if switch:
        _publish(rendered, folder)
    return model


def versions(folder: Path) -> list[int]:
    """Return the numbers of the versions of a model, oldest first."""
    numbers = (int(path.name) for path in folder.iterdir() if path.name.isdecimal()) if folder.is_dir() else ()
    return sorted(numbers)


def active(folder: Path) -> int | None:
    """Return the version whose configuration is in force, or None."""
    try:
        config = (folder / triton.CONFIG).read_bytes()
    except FileNotFoundError:
        return None
    same = [n for n in versions(folder) if (folder / str(n) / triton.CONFIG).read_bytes() == config]
    return same[0] if same else None


def activate(folder: Path, number: int) -> None:
    """Make version `number` the one that is served after the next load."""
    try:
        config = (folder / str(number) / triton.CONFIG).read_bytes()
    except FileNotFoundError:
        raise UsageError(f"`{folder}` has no version {number}") from None
    write_atomically(folder / triton.CONFIG, config)


def _known(folder: Path, record: JSON) -> int | None:
    for number in reversed(versions(folder)):
        file = folder / str(number) / triton.RECORD
        found = canonical.load(file.read_bytes(), limit=1 << 20) if file.is_file() else {}
        if {key: found.get(key) for key in record} == record:
            return number
    return None


def _write(bundle: Bundle, rendered: Rendered, folder: Path, number: int, created: bool) -> None:
    """Write the version, complete before it gets its name, after the inputs that its configuration refers to."""
    own = f"{number}/"
    for path, data in rendered.made.items():
        if path.startswith("warmup/"):
            (folder / "warmup").mkdir(exist_ok=True)
            write_atomically(folder / path, data)
    if not created:
        return
    with staging(folder / str(number)) as fresh:
        for path, data in rendered.made.items():
            if path.startswith(own):
                write_atomically(fresh / path.removeprefix(own), data)
        for path, (origin, _) in rendered.copied.items():
            _copy(bundle, origin, fresh / path.removeprefix(own))
        fresh.rename(folder / str(number))
    sync_directory(folder)


def _copy(bundle: Bundle, origin: str, place: Path) -> None:
    """Copy one file of the bundle and refuse bytes that are not the promised ones."""
    blob = bundle.tree.get(origin)
    assert blob is not None  # noqa: S101 - the renderer took the path from the tree
    place.parent.mkdir(parents=True, exist_ok=True)
    with bundle.medium.open_file(origin, blob) as source, place.open("xb", buffering=0) as file:
        got = copy(source, file, limit=blob.size)
    if got != blob:
        raise WrongContent(f"`{origin}` is not what was signed: expected {blob.digest}", subject=origin)
    place.chmod(0o444)


def _publish(rendered: Rendered, folder: Path) -> None:
    """Replace the configurations, each in one step."""
    for path, data in rendered.made.items():
        if path == triton.CONFIG or path.startswith("configs/"):
            (folder / path).parent.mkdir(exist_ok=True)
            write_atomically(folder / path, data)


def _check_config(data: bytes, path: str, on_event: OnEvent) -> None:
    """Hold a configuration against Triton's own protobuf, where its client is installed."""
    try:
        schema = importlib.import_module("tritonclient.grpc.model_config_pb2")
        text_format = importlib.import_module("google.protobuf.text_format")
    except ImportError:
        on_event(Note(f'{path} was not held against Triton\'s protobuf: pip install "packager[triton]" for that'))
        return
    text_format.Parse(data.decode(), schema.ModelConfig())
