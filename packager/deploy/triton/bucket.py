# SPDX-License-Identifier: Apache-2.0
"""A model repository in a bucket, for a Triton server that reads `s3://…` itself.

There is no rename, so a version is there when its own `config.pbtxt` is, which is written last. Its `deployment.json`
is written first and only if none is there (`If-None-Match`): its writer owns the number. A writer that
was killed is carried on by the next one with the same record; to everybody else the number is taken.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from packager.deploy.triton.repository import CONFIG, RECORD, WARMUP, Content, not_signed
from packager.errors import IntegrityError, SourceError, UsageError
from packager.files import ignore_count
from packager.transport.bucket.folder import FOLDERS, Folder
from packager.transport.bucket.reference import folder_address, hide_credentials

_LIMIT = 16 << 20  # bytes of a record or a configuration


@dataclass(frozen=True, slots=True)
class Bucket:
    """A repository in an object store."""

    root: Folder

    @property
    def label(self) -> str:
        return self.root.label

    def names(self, folder: str = "") -> list[str]:
        return self.root.names(folder)

    def versions(self, model: str) -> list[int]:
        found = [name.split("/") for name in self.root.below(model).sizes()]
        return sorted(int(parts[0]) for parts in found if parts[0].isdecimal() and parts[1:] == [CONFIG])

    def read(self, path: str) -> bytes | None:
        return self.root.small(path, _LIMIT)

    def current(self, path: str) -> tuple[bytes | None, str | None]:
        return self.root.current(path, _LIMIT)

    def add(self, model: str, number: int, files: Mapping[str, Content]) -> bool:
        version = self.root.below(f"{model}/{number}")
        record, config = files[RECORD], files[CONFIG]
        if not isinstance(record, bytes) or not isinstance(config, bytes):
            raise TypeError("a record and a configuration are bytes")
        if not _claimed(version, record):
            return False
        present = version.sizes()
        for name, content in files.items():
            if name not in (RECORD, CONFIG):
                _send(version, name, content, present.get(name))
        version.put(CONFIG, config)
        return True

    def write(self, path: str, data: bytes) -> None:
        self.root.put(path, data)

    def replace(self, path: str, data: bytes, state: str | None) -> bool:
        stamp = self.root.modified(path)
        self.root.swap(path, data, state)
        found, state = self.current(path)
        while found == data and stamp is not None and self.root.modified(path) == stamp:
            time.sleep(1)  # Triton loads anew only what has another time, and that counts seconds
            self.root.swap(path, data, state)
            found, state = self.current(path)
        return found == data

    def lend(self, model: str, number: int, name: str, config: bytes) -> None:
        """Let the store copy the version: a server in a bucket follows no links."""
        origin, target = self.root.below(model), self.root.below(name)
        for path, size in origin.sizes().items():
            if path.startswith((f"{number}/", f"{WARMUP}/{number}-")) and not target.adopt(path, origin, size):
                raise SourceError(f"`{self.label}` does not copy `{model}/{path}`", hint="check the rights and repeat")
        target.put(CONFIG, config)

    def remove(self, path: str) -> None:
        self.root.remove(path)


def open_repository(address: str) -> Bucket:
    """Return the repository at `s3://bucket/folder` or in another object store. Raises UsageError."""
    if address.partition("://")[0] in FOLDERS:
        raise UsageError(f"`{hide_credentials(address):.300}` is no bucket", hint="mount it, and name the directory")
    return Bucket(Folder(folder_address(address)))


def _claimed(version: Folder, record: bytes) -> bool:
    found = version.small(RECORD, _LIMIT)
    if found is None:
        version.swap(RECORD, record, None)
        found = version.small(RECORD, _LIMIT)
    return found == record


def _send(version: Folder, name: str, content: Content, present: int | None) -> None:
    """Write one file; a signed one that is there was complete, because only a right one appears (ADR 020)."""
    if isinstance(content, bytes):
        version.put(name, content)
    elif present != content.blob.size:
        try:
            version.send(name, content.blob, content.open, ignore_count)
        except IntegrityError:
            raise not_signed(content) from None
