# SPDX-License-Identifier: Apache-2.0
"""Sources: where a registered model comes from. One file each; the file name is the registration.

A source turns a reference that people write (`models:/digits@champion`) into a `Pin` exactly once, and a pin into
files as often as needed. Everything that can move is resolved by `resolve`; nothing that can move is left in a pin.

Laws every source holds:

* `resolve` reads no clock and no environment; the same registry state gives the same pin on every machine.
* A pin holds no path of this machine and no credential, so that a lock can be published.
* `fetch` writes only regular files with safe, non-colliding paths below `out`, or raises; it follows no link.
* What cannot be reached or is not there is a `SourceError` (exit code 3) within seconds, not minutes.
* A local source is pinned by content: resolving it again and comparing pins is the check for drift. It costs one
  read, or nothing for files that the caller's `blob_of` remembers.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import unquote, urlsplit

from packager import plugins
from packager.canonical import JSON
from packager.errors import SourceError, UsageError
from packager.events import OnEvent, Progress
from packager.files import clone_or_copy, copy, digest_of, open_regular, storage_errors
from packager.types import Blob, Tree, check_path, check_paths

if TYPE_CHECKING:
    from packager.transport.registry import wire

_ANY = 1 << 62  # bytes; local files are as long as they are
_LONGEST, _DEEPEST = 1024, 128  # bytes and folders of a path below a source; bundles know no longer ones
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
IGNORED = frozenset({".git", "registered_model_meta"})
"""Never part of a source: history, and the note MLflow drops into a download."""


@dataclass(frozen=True, slots=True)
class Pin:
    """An immutable id of a source.

    `kind` is the source's name, `uri` says what it is in a form that can never come to mean something else,
    `details` is what a person, a lock or an SBOM wants to know besides: name, version, run, digests.
    """

    kind: str
    uri: str
    details: Mapping[str, JSON] = field(default_factory=dict)

    def to_json(self) -> JSON:
        return {"kind": self.kind, "uri": self.uri, "details": dict(self.details)}

    @staticmethod
    def from_json(value: JSON) -> Pin:
        return Pin(value["kind"], value["uri"], dict(value["details"]))


def blob_of(path: Path) -> Blob:
    """Hash one regular file; a link or device is an IntegrityError."""
    with open_regular(path) as file:
        return digest_of(file, limit=_ANY)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a source may know about its surroundings; the caller decides, sources read no environment.

    `base` is the directory of the recipe: relative paths start there. `ref` is what the recipe calls the source;
    `fetch` finds a local one there, because a pin says what it is and not where. `tracking` is the registry's address
    (the recipe's `registry`, else what the environment says, else None: `mlflow.db` in `base`). `timeout` bounds one
    network request, in seconds. `blob_of` hashes one local file; a caller may pass one that remembers. `bentoml` is the
    BentoML store that the environment names, `registries` how OCI registries are reached (None: they are not).
    """

    base: Path
    ref: str = ""
    tracking: str | None = None
    timeout: int = 10
    blob_of: Callable[[Path], Blob] = blob_of
    bentoml: Path | None = None
    registries: Callable[[], wire.Settings] | None = None


class SourceModule(Protocol):
    """What a file in this folder provides."""

    @property
    def EXTRA(self) -> str | None:  # noqa: N802 - a module constant
        """The extra that installs what it needs, or None."""

    def matches(self, ref: str) -> bool:
        """Say whether `ref` is written in this source's form: decided by the text alone, and by one source only."""

    def resolve(self, ref: str, settings: Settings) -> Pin:
        """Return the pin of what `ref` names now. Raises SourceError."""

    def fetch(self, pin: Pin, settings: Settings, out: Path, on_event: OnEvent) -> Mapping[str, Blob] | None:
        """Write the pinned files below `out`, an empty directory. Raises SourceError, IntegrityError.

        May return what it hashed while it wrote, by path, so that the store need not read those files again.
        """


SINGLE_FILES = (
    ".onnx",
    ".pt2",
    ".skops",
    ".ubj",
    ".json",
    ".lgb",
    ".txt",
    ".pkl",
    ".joblib",
    ".pth",
    ".pt",
    ".ts",
    ".torchscript",
    ".keras",
    ".h5",
    ".hdf5",
    ".tflite",
    ".gguf",
)
"""Endings of the files that are a whole source; any other path is a directory."""
LOOSE_FILES = (
    ".sav",
    ".model",
    ".bin",
    ".dat",
    ".lgbm",
    ".cbm",
    ".pickle",
    ".dill",
    ".gz",
    ".z",
    ".bz2",
    ".xz",
    ".lzma",
    ".lz4",
)
"""Endings of files that may be anything, a model as well: where an address gives no list, these decide."""
BUNDLE = ".bundle.tar"
"""Ending of the files that are a bundle, and so an artifact of the source `oci`."""


def load(kind: str) -> SourceModule:
    """Return the source of that name, for a pin that is already there."""
    return cast(SourceModule, plugins.load("sources", kind))


def load_for(ref: str) -> SourceModule:
    """Return the one source that reads `ref`. Raises UsageError."""
    found = {kind: module for kind in plugins.list_names("sources") if (module := load(kind)).matches(ref)}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise UsageError(
            f"source `{redact_address(ref)}` is claimed by {' and '.join(found)}", hint="uninstall one of them"
        )
    raise UsageError(
        f"source `{redact_address(ref)}` has an unknown form",
        hint="write `models:/name@alias`, `models:/name/3`, `runs:/id/path`, `bentoml:name:version`, "
        "`oci://host/name:tag`, `hf://org/name@revision`, `modelscope://org/name@revision`, "
        "`s3://bucket/path`, a directory, or one file of a model",
    )


def redact_address(address: str) -> str:
    """Return an address fit for a message or a pin: without user, password, query and fragment."""
    bare = re.sub(r"//[^/@]*@", "//", address)
    return (re.split(r"[?#]", bare)[0] if _SCHEME.match(bare) else bare)[:200]


# Local files: what the sources have in common.


def local_path(ref: str, base: Path) -> Path | None:
    """Return the file or directory that `ref` names, or None if it is the address of something else.

    A path starts at `base` unless it is absolute; a `file:` URL is absolute.
    """
    if not ref.startswith("file:"):
        return None if _SCHEME.match(ref) else base / ref
    url = urlsplit(ref)
    return Path(unquote(url.path)) if url.netloc in ("", "localhost") and url.path.startswith("/") else None


def regular_files(root: Path) -> dict[str, Path]:
    """Return (path below `root`: file) of everything worth taking; `IGNORED` names are left out at every level.

    Raises SourceError about a link, a device, or when nothing is there.
    """
    found = dict(_walk(root, ""))
    if not found:
        raise SourceError(f"`{root.name}` holds no files")
    return found


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise SourceError(f"directory `{prefix or folder.name}` cannot be read: {error.strerror}") from error
    for path in entries:
        name, mode = prefix + path.name, path.lstat().st_mode
        if len(os.fsencode(name)) > _LONGEST or name.count("/") > _DEEPEST:
            raise SourceError(f"`{name[:80]}…` is nested too deeply", hint="put the files of the model at its top")
        if path.name in IGNORED:
            continue
        if stat.S_ISDIR(mode):
            yield from _walk(path, name + "/")
        elif stat.S_ISREG(mode):
            yield name, path
        else:
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
            raise SourceError(f"source file `{name}` is {kind}", hint="put the file itself there")


def pin_files(kind: str, files: Mapping[str, Path], settings: Settings, details: Mapping[str, JSON]) -> Pin:
    """Pin local files by their content. The pin lists them, so that a change can be named.

    Raises IntegrityError about names that are not portable or collide.
    """
    check_paths(files)
    with _unreadable():
        tree = Tree.of({name: settings.blob_of(path) for name, path in files.items()})
    return Pin(kind, f"{kind}:{tree.digest}", {**details, "files": tree.to_json()})


def copy_pinned(pin: Pin, files: Mapping[str, Path], out: Path, on_event: OnEvent) -> Mapping[str, Blob]:
    """Copy the files of a pin, one read each, and return them. Raises SourceError naming what is not as pinned."""
    promised = Tree.from_json(pin.details["files"])
    for name in sorted({name for name, _ in promised} ^ files.keys()):
        raise _changed(name)
    for name, blob in promised:
        if copy_file(files[name], out, name, on_event, limit=blob.size) != blob:
            raise _changed(name)
    return dict(promised.files)


def _changed(name: str) -> SourceError:
    return SourceError(f"`{name}` is not what the lock pinned", hint="run `packager lock` if the change is meant")


def copy_file(source: Path, out: Path, name: str, on_event: OnEvent, *, limit: int) -> Blob:
    """Copy one regular file to `out`/`name`, hashing on the way; stops one byte after `limit`."""
    target = out / check_path(name)
    with _unreadable(), open_regular(source) as reader, storage_errors(out):
        target.parent.mkdir(parents=True, exist_ok=True)
        total = os.fstat(reader.fileno()).st_size
        with target.open("xb", buffering=0) as writer:
            return copy(reader, writer, limit=limit, moved=byte_counter(name, total, on_event))


def clone_file(source: Path, out: Path, name: str, on_event: OnEvent) -> None:
    """Copy one regular file to `out`/`name` without reading it here: by sharing extents, or inside the kernel."""
    target = out / check_path(name)
    with _unreadable(), storage_errors(out):
        target.parent.mkdir(parents=True, exist_ok=True)
        clone_or_copy(source, target)
        size = target.stat().st_size
    on_event(Progress(name, size, size))


def byte_counter(label: str, total: int, on_event: OnEvent) -> Callable[[int], None]:
    """Return the callback that counts transferred bytes; it may be called from any thread."""
    done, lock = 0, threading.Lock()

    def moved(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            on_event(Progress(label, done, total))

    return moved


@contextlib.contextmanager
def _unreadable() -> Iterator[None]:
    """Say of a local file that cannot be read that the source is at fault."""
    try:
        yield
    except OSError as error:
        name = Path(str(error.filename or "file")).name
        raise SourceError(f"`{name}` cannot be read: {error.strerror or error}") from error
