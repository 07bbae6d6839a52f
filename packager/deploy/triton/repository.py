# SPDX-License-Identifier: Apache-2.0
"""Where the models of a Triton server lie: a directory here, a bucket in `packager.deploy.triton.bucket`.

    <model>/config.pbtxt     which version is served; replaced as one step, and only if it still is what was read
    <model>/<number>/        a version: complete or not among `versions`, and never changed

No writer locks a whole repository: two that add a version at the same time get two numbers, and of two that switch at
the same time one fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from packager import canonical
from packager.errors import WrongContentError
from packager.files import copy, make_staging, read_own, remove_tree, storage_errors, sync_directory, write_atomically
from packager.transport.writers import Source
from packager.types import Blob

RECORD = "deployment.json"
CONFIG = "config.pbtxt"
SITES = "configs"
WARMUP = "warmup"
_MAX_FILE = 64 << 20  # bytes of a record or configuration


@dataclass(frozen=True, slots=True)
class Signed:
    """A file of a bundle: where it is there, what it must be, and how to read it."""

    origin: str
    blob: Blob
    open: Source


Content: TypeAlias = bytes | Signed


class Repository(Protocol):
    """A model repository. Paths are relative to it, with `/`."""

    @property
    def label(self) -> str:
        """What messages call it."""

    def names(self, folder: str = "") -> list[str]:
        """Return the names directly below a folder, sorted; none if there is no such folder."""

    def versions(self, model: str) -> list[int]:
        """Return the numbers of the complete versions, oldest first."""

    def read(self, path: str) -> bytes | None:
        """Return a small file, or None."""

    def current(self, path: str) -> tuple[bytes | None, str | None]:
        """Return a small file and the state for `replace`, which is never younger than it."""

    def add(self, model: str, number: int, files: Mapping[str, Content]) -> bool:
        """Write a version with RECORD and CONFIG; False if another version has the number.

        Raises WrongContentError for bytes that are not the promised ones; the version is not there then.
        """

    def write(self, path: str, data: bytes) -> None:
        """Replace a small file as one step."""

    def replace(self, path: str, data: bytes, state: str | None) -> bool:
        """Replace a small file if it still is in `state`; False if another writer was first."""

    def lend(self, model: str, number: int, name: str, config: bytes) -> None:
        """Make one version the model `name` as well, without another upload."""

    def remove(self, path: str) -> None:
        """Delete a file or a folder; being gone already is fine."""


@dataclass(frozen=True, slots=True)
class Directory:
    """A repository on a disk or a mounted share: versions are made beside their place and renamed."""

    root: Path

    @property
    def label(self) -> str:
        return str(self.root)

    def names(self, folder: str = "") -> list[str]:
        place = self.root / folder
        return sorted(path.name for path in place.iterdir() if path.name[0] != ".") if place.is_dir() else []

    def versions(self, model: str) -> list[int]:
        return sorted(int(name) for name in self.names(model) if name.isdecimal())

    def read(self, path: str) -> bytes | None:
        try:
            return read_own(self.root / path, _MAX_FILE)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def current(self, path: str) -> tuple[bytes | None, str | None]:
        data = self.read(path)
        return data, None if data is None else canonical.sha256(data)

    def add(self, model: str, number: int, files: Mapping[str, Content]) -> bool:
        place = self.root / model / str(number)
        with storage_errors(self.root), make_staging(place) as fresh:
            if place.exists():
                return False
            for name, content in files.items():
                write_content(fresh / name, content)
            fresh.rename(place)
            sync_directory(place.parent)
        return True

    def write(self, path: str, data: bytes) -> None:
        place = self.root / path
        with storage_errors(self.root):
            place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, data)

    def replace(self, path: str, data: bytes, state: str | None) -> bool:
        with self._alone(path):
            if self.current(path)[1] != state:
                return False
            write_atomically(self.root / path, data)
        return True

    @contextmanager
    def _alone(self, path: str) -> Iterator[None]:
        """Keep others who replace the same file out; staging's lock works on shares too and leaves nothing."""
        with make_staging(self.root / path):
            yield

    def lend(self, model: str, number: int, name: str, config: bytes) -> None:
        folder = self.root / name
        with storage_errors(self.root):
            folder.mkdir()
            for part in (str(number), WARMUP):
                if (self.root / model / part).exists():
                    (folder / part).symlink_to(Path("..", model, part))
        write_atomically(folder / CONFIG, config)

    def remove(self, path: str) -> None:
        place = self.root / path
        if place.is_dir():
            remove_tree(place)
        else:
            place.unlink(missing_ok=True)


def write_content(place: Path, content: Content) -> None:
    """Write one file and refuse bytes that are not the promised ones."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        write_atomically(place, content)
        return
    with content.open() as source, place.open("xb", buffering=0) as file:
        got = copy(source, file, limit=content.blob.size)
    if got != content.blob:
        raise not_signed(content)
    place.chmod(0o444)


def not_signed(content: Signed) -> WrongContentError:
    """Return the error to raise about a file that is not the one of the bundle."""
    return WrongContentError(
        f"`{content.origin}` is not what was signed: expected {content.blob.digest}", subject=content.origin
    )
