# SPDX-License-Identifier: Apache-2.0
"""Upload one blob: asked for first, mounted where possible, sent in pieces, resumed where it broke off.

A session is a URL of the registry. It is remembered on disk while the upload runs, so that a killed process goes on
too. After a break the registry is asked how much it has (GET); a registry that dropped the session gets the blob from
its beginning in a new one. Docker's registry (2.8) drops a session whenever a piece breaks in the middle, so there
only whole pieces and whole blobs survive.

Source: OCI distribution-spec v1.1, "Pushing blobs".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urljoin, urlsplit

from packager import canonical
from packager.destination import Source
from packager.errors import IntegrityError, SourceError
from packager.files import CHUNK, Moved, write_atomically
from packager.registry.repository import Repository
from packager.registry.wire import AGAIN, Answer, Body, Interrupted
from packager.types import Blob

PIECE = 32 << 20  # bytes of one PATCH: what a broken connection costs at most on registries that keep sessions
_OCTETS = {"Content-Type": "application/octet-stream"}


def upload(repository: Repository, blob: Blob, source: Source, moved: Moved, mount: str | None = None) -> None:
    """Make the repository hold `blob`. Raises IntegrityError if `source` is not it, before the registry keeps it."""
    if mount and _mounted(repository, blob, mount):
        return
    _Upload(repository, blob, source, moved).run()


def _mounted(repository: Repository, blob: Blob, mount: str) -> bool:
    """Ask for the blob of another repository of the same registry; no bytes move."""
    url = repository.url(f"blobs/uploads/?mount={quote(blob.digest)}&from={quote(mount, safe='')}")
    answer = repository.wire.request("POST", url, ok=(201, 202), push=True, also=(mount,))
    if answer.status == 202:  # not mounted: the registry opened a session instead, which is not used
        with suppress(SourceError):
            repository.wire.once("DELETE", answer.headers.get("Location", ""), push=True)
    return answer.status == 201


class _Upload:
    """One blob on its way."""

    def __init__(self, repository: Repository, blob: Blob, source: Source, moved: Moved) -> None:
        self._repository, self._wire, self._blob, self._source = repository, repository.wire, blob, source
        self._session = _Session(repository, blob)
        self._moved, self._reported, self._best, self._fruitless = moved, 0, 0, 0

    def run(self) -> None:
        """Send what is missing until the registry has confirmed the blob."""
        location, position = self._begin()
        while True:
            try:
                location, position = self._send_from(location, position)
                return self._session.forget()
            except Interrupted as error:
                self._fruitless += 1
                if self._fruitless >= self._repository.settings.patience.attempts:
                    raise
                self._wire.pause(self._fruitless, self._blob.digest, error.asked)
            if self._repository.has(self._blob, push=True):  # the answer was lost, not the blob
                return self._session.forget()
            location, position = self._status(location) or self._open()

    def _begin(self) -> tuple[str, int]:
        known = self._session.recall()
        return (known and self._status(known)) or self._open()

    def _open(self) -> tuple[str, int]:
        answer = self._wire.request("POST", self._repository.url("blobs/uploads/"), ok=(202,), push=True)
        location = _next(answer, self._wire.origin)
        if location is None:
            raise SourceError(f"registry `{self._repository.reference.host}` opened no upload")
        if self._blob.size > PIECE:
            self._session.remember(location)
        return location, 0

    def _status(self, location: str) -> tuple[str, int] | None:
        """Ask how much of the session the registry has; None if it has forgotten it."""
        answer = self._wire.once("GET", location, push=True)
        if answer.status not in (202, 204):
            return None
        position = _end(answer)
        return (_next(answer, location) or location, position) if position <= self._blob.size else None

    def _send_from(self, location: str, position: int) -> tuple[str, int]:
        """Send the rest of the blob, hashing all of it, and close the session."""
        with self._source() as file:
            reader = _Hashing(file, self._blob)
            reader.skip(position)
            self._report(position)
            while self._blob.size - position > PIECE:
                location = self._patch(location, reader, position, PIECE)
                position += PIECE
                self._session.remember(location)
                if position > self._best:
                    self._best, self._fruitless = position, 0
            self._close(location, reader, position)
        return location, self._blob.size

    def _patch(self, location: str, reader: _Hashing, position: int, size: int) -> str:
        headers = {**_OCTETS, "Content-Range": f"{position}-{position + size - 1}"}
        body = Body(size, lambda: self._watched(reader.read(size)), repeatable=False)
        answer = self._settled(self._wire.once("PATCH", location, push=True, headers=headers, body=body))
        return _next(answer, location) or location

    def _close(self, location: str, reader: _Hashing, position: int) -> None:
        """Send the last piece with the digest; the registry checks it over the whole and keeps the blob."""
        rest = self._blob.size - position
        url = f"{location}{'&' if urlsplit(location).query else '?'}digest={quote(self._blob.digest)}"
        headers = {**_OCTETS, "Content-Range": f"{position}-{self._blob.size - 1}"} if position and rest else _OCTETS
        body = Body(rest, lambda: self._watched(reader.read(rest, last=True)), repeatable=False)
        self._settled(self._wire.once("PUT", url, push=True, headers=headers, body=body))

    def _settled(self, answer: Answer) -> Answer:
        """Sort the registry's answer: accepted, worth another attempt, or final."""
        host, name = self._repository.reference.host, self._repository.reference.name
        if answer.status in (200, 201, 202, 204):
            return answer
        if answer.status in AGAIN or answer.status in (400, 404, 416):  # it lost the session, or is busy
            raise Interrupted(f"registry `{host}` answered {answer.status} to an upload",
                              hint="repeat the command: what is complete is kept",
                              asked=answer.headers.get("Retry-After"))  # fmt: skip
        raise SourceError(f"registry `{host}` refuses an upload to `{name}`: {answer.status}",
                          hint="check that the account may push there, and the registry's size limit")  # fmt: skip

    def _watched(self, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
        for piece in pieces:
            yield piece
            self._report(len(piece))

    def _report(self, count: int) -> None:
        """Count progress, but never beyond the blob when pieces are sent twice."""
        count = min(count, self._blob.size - self._reported)
        self._reported += count
        self._moved(count)


class _Hashing:
    """Reads a blob once, in order, and checks it at its end, before the last bytes are handed on."""

    def __init__(self, file: BinaryIO, blob: Blob) -> None:
        self._file, self._blob, self._state, self._left = file, blob, hashlib.sha256(), blob.size
        self._view = memoryview(bytearray(CHUNK))

    def skip(self, count: int) -> None:
        for _ in self.read(count):
            pass

    def read(self, size: int, *, last: bool = False) -> Iterator[memoryview]:
        """Yield the next `size` bytes. Raises IntegrityError for a blob that is shorter or other than promised."""
        while size:
            count = self._file.readinto(self._view[: min(size, CHUNK)])  # type: ignore[attr-defined]
            if not count:
                raise IntegrityError(f"expected {self._blob.size} bytes, got fewer", subject=self._blob.digest)
            self._state.update(self._view[:count])
            size -= count
            if last and not size:
                self._check()
            yield self._view[:count]
        if last and not self._blob.size:
            self._check()

    def _check(self) -> None:
        got = f"sha256:{self._state.hexdigest()}"
        if got != self._blob.digest:
            raise IntegrityError(f"expected {self._blob.digest}, got {got}", subject=self._blob.digest)


class _Session:
    """Where the URL of an unfinished upload is kept between processes; it opens nothing without a login."""

    def __init__(self, repository: Repository, blob: Blob) -> None:
        reference, folder = repository.reference, repository.settings.sessions
        name = canonical.sha256(f"{reference.host}/{reference.name}@{blob.digest}".encode()).removeprefix("sha256:")
        self._file: Path | None = folder / name if folder else None
        self._origin = repository.wire

    def recall(self) -> str | None:
        if self._file is None:
            return None
        with suppress(FileNotFoundError, UnicodeDecodeError):
            self._origin.login()
            location = self._file.read_bytes().decode()
            if urlsplit(location)[:2] == urlsplit(self._origin.origin)[:2]:
                return location
        return None

    def remember(self, location: str) -> None:
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(self._file, location.encode(), mode=0o600)

    def forget(self) -> None:
        if self._file is not None:
            self._file.unlink(missing_ok=True)


def _next(answer: Answer, base: str) -> str | None:
    location = answer.headers.get("Location")
    return urljoin(base, location) if location else None


def _end(answer: Answer) -> int:
    """Return how many bytes a session holds; `0-0` means none to Docker's registry, whatever one byte would be."""
    match = re.fullmatch(r"(?:bytes=)?0-([0-9]+)", answer.headers.get("Range", ""))
    last = int(match[1]) if match else 0
    return last + 1 if last else 0
