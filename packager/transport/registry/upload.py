# SPDX-License-Identifier: Apache-2.0
"""Upload one blob: skipped if it exists, mounted where possible, sent in pieces, resumed after a broken connection.

A session is a URL of the registry. It is kept on disk during the upload, so that the next process resumes a killed one.
After a break the registry is queried for its position (GET); a registry that dropped the session gets the blob from its
beginning in a new one. Docker's registry (2.8) drops a session whenever a piece breaks in the middle, so there only
whole pieces and whole blobs survive. A registry that refuses a piece as too large (413, or 416 by GHCR) gets smaller
ones; the limits `OCI-Chunk-Min-Length` and `-Max-Length` of a new session are respected.

Source: OCI distribution-spec v1.1, "Pushing blobs"; `OCI-Chunk-Max-Length` is proposed in its issue 485.
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
from packager.errors import IntegrityError, SourceError
from packager.files import CHUNK, Moved, write_atomically
from packager.transport.registry.repository import Repository
from packager.transport.registry.wire import AGAIN, Answer, Body, BrokenConnectionError, describe_answer
from packager.transport.writers import Source
from packager.types import Blob

PIECE = 32 << 20  # bytes of one PATCH: the most that a broken connection costs on registries that keep sessions
_SMALLER = 8  # the factor by which a too large piece shrinks: GHCR accepts 4 MiB, nginx by default 1 MiB
_DOUBTS = 3  # attempts in a row without progress after which a session is abandoned
_BROKEN = 8 << 20  # bytes below which a piece does not shrink because connections break
_LEAST = 64 << 10  # bytes below which no piece shrinks
_OCTETS = {"Content-Type": "application/octet-stream"}


def upload(repository: Repository, blob: Blob, source: Source, moved: Moved, mount: str | None = None) -> None:
    """Upload `blob`. Raises IntegrityError if `source` is not that blob, before the registry keeps it."""
    if mount and _mounted(repository, blob, mount):
        return
    _Upload(repository, blob, source, moved).run()


def _mounted(repository: Repository, blob: Blob, mount: str) -> bool:
    """Mount the blob from another repository of the same registry; no bytes are sent."""
    url = repository.url(f"blobs/uploads/?mount={quote(blob.digest)}&from={quote(mount, safe='')}")
    answer = repository.wire.request("POST", url, ok=(201, 202), push=True, also=(mount,))
    if answer.status == 202:  # not mounted: the registry opened a session instead, which is not used
        with suppress(SourceError):
            repository.wire.once("DELETE", answer.headers.get("Location", ""), push=True)
    return answer.status == 201


class _BodyTooLargeError(BrokenConnectionError):
    """The registry refuses requests of that size."""

    def __init__(self, answer: str) -> None:
        super().__init__(
            f"{answer}: it accepts no piece of this size",
            hint="raise the size limit of the registry, or of the proxy before it",
        )


class _Upload:
    """The upload of one blob."""

    def __init__(self, repository: Repository, blob: Blob, source: Source, moved: Moved) -> None:
        self._repository, self._wire, self._blob, self._source = repository, repository.wire, blob, source
        self._session = _Session(repository, blob)
        self._moved, self._reported, self._best, self._fruitless = moved, 0, 0, 0
        self._least = 0  # bytes of the smallest piece that the registry accepts, except the last

    def run(self) -> None:
        """Send what is missing until the registry has confirmed the blob."""
        location, position = self._begin()
        while True:
            try:
                location, position = self._send_from(location, position)
                return self._session.forget()
            except _BodyTooLargeError:
                if not self._shrink():
                    raise
            except BrokenConnectionError as error:
                self._fruitless += 1
                if self._fruitless >= self._repository.settings.patience.attempts:
                    raise
                self._wire.pause(self._fruitless, self._blob.digest, error.retry_after)
            if self._repository.has(self._blob, push=True):  # the answer was lost, not the blob
                return self._session.forget()
            # ECR may state an outdated position: without progress the session is abandoned
            location, position = (self._fruitless < _DOUBTS and self._status(location)) or self._open()
            if position > self._best:
                self._best, self._fruitless = position, 0
            elif (
                self._fruitless > 1
            ):  # a proxy may close the connection on too large a piece; ECR accepts no pieces below 5 MB
                self._shrink(_BROKEN)

    @property
    def _piece(self) -> int:
        """Return the number of bytes of one request: the last accepted, within the registry's limits."""
        return max(min(self._repository.piece or PIECE, PIECE), self._least, 1)

    def _shrink(self, least: int = _LEAST) -> bool:
        """Send smaller pieces from now on, but no smaller than `least`; return whether that was possible."""
        smaller = max(self._piece // _SMALLER, self._least, least)
        possible = smaller < self._piece
        if possible:
            self._repository.piece = smaller
        return possible

    def _begin(self) -> tuple[str, int]:
        known = self._session.recall()
        return (known and self._status(known)) or self._open()

    def _open(self) -> tuple[str, int]:
        answer = self._wire.request("POST", self._repository.url("blobs/uploads/"), ok=(202,), push=True)
        location = _next(answer, self._wire.origin)
        if location is None:
            raise SourceError(f"registry `{self._repository.reference.host}` opened no upload")
        self._bound(answer)
        if self._blob.size > self._piece:
            self._session.remember(location)
        return location, 0

    def _bound(self, answer: Answer) -> None:
        """Apply the limits of pieces that the registry states when it opens a session."""
        self._least = _length(answer, "OCI-Chunk-Min-Length") or 0
        if most := _length(answer, "OCI-Chunk-Max-Length"):
            self._repository.piece = min(self._piece, max(most, self._least))

    def _status(self, location: str) -> tuple[str, int] | None:
        """Return the session's URL and position from the registry; None if it dropped the session."""
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
            while self._blob.size - position > (piece := self._piece):
                location = self._patch(location, reader, position, piece)
                position += piece
                self._session.remember(location)
                if position > self._best:
                    self._best, self._fruitless = position, 0
            self._close(location, reader, position)
        return location, self._blob.size

    def _patch(self, location: str, reader: _Hashing, position: int, size: int) -> str:
        headers = {**_OCTETS, "Content-Range": f"{position}-{position + size - 1}"}
        body = Body(size, lambda: self._watched(reader.read(size)), repeatable=False)
        answer = self._settled(self._wire.once("PATCH", location, push=True, headers=headers, body=body), position)
        return _next(answer, location) or location

    def _close(self, location: str, reader: _Hashing, position: int) -> None:
        """Send the last piece with the digest; the registry checks the whole and keeps the blob."""
        rest = self._blob.size - position
        url = f"{location}{'&' if urlsplit(location).query else '?'}digest={quote(self._blob.digest)}"
        headers = {**_OCTETS, "Content-Range": f"{position}-{self._blob.size - 1}"} if position and rest else _OCTETS
        body = Body(rest, lambda: self._watched(reader.read(rest, last=True)), repeatable=False)
        self._settled(self._wire.once("PUT", url, push=True, headers=headers, body=body), position)

    def _settled(self, answer: Answer, position: int) -> Answer:
        """Return an accepted response to bytes from `position` on; raise an error that says whether to retry."""
        if answer.status in (200, 201, 202, 204):
            return answer
        text = describe_answer(answer, self._repository.reference)
        if answer.status == 413 or (answer.status == 416 and _is_there(answer, position)):
            raise _BodyTooLargeError(text)
        if answer.status in AGAIN or answer.status in (400, 404, 416):  # it lost the session, or is busy
            raise BrokenConnectionError(
                f"{text}, to an upload",
                hint="repeat the command: what is complete is kept",
                retry_after=answer.headers.get("Retry-After"),
            )
        raise SourceError(
            f"{text}: it refuses an upload", hint="check that the account may push there, and the registry's quota"
        )

    def _watched(self, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
        for piece in pieces:
            yield piece
            self._report(len(piece))

    def _report(self, count: int) -> None:
        """Report progress, but never beyond the blob when pieces are sent twice."""
        count = min(count, self._blob.size - self._reported)
        self._reported += count
        self._moved(count)


class _Hashing:
    """Reads a blob once, in order, and checks it at its end, before the last bytes are returned."""

    def __init__(self, file: BinaryIO, blob: Blob) -> None:
        self._file, self._blob, self._state, self._left = file, blob, hashlib.sha256(), blob.size
        self._view = memoryview(bytearray(CHUNK))

    def skip(self, count: int) -> None:
        for _ in self.read(count):
            pass

    def read(self, size: int, *, last: bool = False) -> Iterator[memoryview]:
        """Yield the next `size` bytes. Raises IntegrityError for a blob that is shorter or different."""
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
    """The file that keeps the URL of an unfinished upload between processes; it is useless without a login."""

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


def _length(answer: Answer, header: str) -> int | None:
    value = answer.headers.get(header, "")
    return int(value) if re.fullmatch(r"[1-9][0-9]{0,14}", value) else None


def _is_there(answer: Answer, position: int) -> bool:
    """Return whether a 416 cannot be about the position of the bytes: it names that position itself, or none."""
    return "Range" not in answer.headers or _end(answer) == position


def _next(answer: Answer, base: str) -> str | None:
    location = answer.headers.get("Location")
    return urljoin(base, location) if location else None


def _end(answer: Answer) -> int:
    """Return the number of bytes of a session; `0-0` means none for Docker's registry, although it could mean one."""
    match = re.fullmatch(r"(?:bytes=)?0-([0-9]+)", answer.headers.get("Range", ""))
    last = int(match[1]) if match else 0
    return last + 1 if last else 0
