# SPDX-License-Identifier: Apache-2.0
"""Read and write a folder in a bucket through its `fsspec` driver. Drivers retry by themselves."""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import importlib
import io
import posixpath
import re
import secrets
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from packager import canonical
from packager.errors import (
    IntegrityError,
    MissingToolError,
    PackagerError,
    SourceError,
    StorageError,
    UsageError,
    did_you_mean,
)
from packager.files import CHUNK, Moved, ignore_count
from packager.transport.bucket.reference import hide_credentials
from packager.transport.writers import Source
from packager.types import Blob

_PIECE = 4 << 20  # bytes of one request while reading: bounds memory, and what a broken connection costs
_PART = 5 << 20  # bytes of one part of an upload: the least S3 allows, and it allows 10,000 of them
_PARTS = 9_000
FOLDERS = {"file", "local", "memory", "sftp", "ssh", "smb", "ftp", "hdfs", "arrow_hdfs", "webhdfs"}
"""File systems on which a folder must exist before a file in it; object stores would create buckets instead."""
_EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3")}
_LOST = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}  # S3: another writer was first
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Folder:
    """A folder by its address. Every failure of a driver becomes one of our errors here, about `label`."""

    def __init__(self, address: str, label: str = "") -> None:
        self.label = label or hide_credentials(address)
        scheme = address.partition("://")[0]
        fsspec = _driver(scheme)
        with self._translated():
            self._fs, self.path = fsspec.core.url_to_fs(address, skip_instance_cache=True, use_listings_cache=False)
        self._renames = scheme in FOLDERS

    def below(self, part: str) -> Folder:
        """Return a folder inside this one, through the same connection."""
        inner = copy.copy(self)
        inner.path = f"{self.path}/{part}"
        return inner

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate errors: drivers raise OSError, and the errors of their libraries."""
        try:
            yield
        except (PackagerError, FileNotFoundError, FileExistsError):
            raise
        except PermissionError as error:
            raise SourceError(
                f"access to `{self.label}` is refused: {_reason(error)}",
                hint="check the credentials in the driver's environment, for S3 AWS_PROFILE or AWS_ACCESS_KEY_ID",
            ) from None
        except Exception as error:  # any error of a driver's library: none of them is a bug of ours
            if isinstance(error, OSError) and error.errno in _FULL:
                raise StorageError(f"no space left in `{self.label}`", hint="free some space and repeat") from None
            raise SourceError(
                f"`{self.label}` cannot be reached: {_reason(error)}",
                hint="check the address, the credentials and the network and repeat: what is complete is kept",
            ) from None

    def size(self, name: str) -> int | None:
        """Return the size of an object, None if there is none."""
        try:
            with self._translated():
                found = self._fs.info(f"{self.path}/{name}")
        except FileNotFoundError:
            return None
        return found["size"] if found.get("type") == "file" else None

    def sizes(self) -> dict[str, int]:
        """Return the names of all objects and their sizes, in one request for a thousand."""
        return {name: item["size"] for name, item in self._find().items()}

    def states(self, name: str = "") -> dict[str, tuple[int, str]]:
        """Return the size of an object and what changes when it does; of all objects in one request for a thousand.

        What changes is empty where the store does not say.
        """
        if not name:
            return {key: (item["size"], _state(item)) for key, item in self._find().items()}
        try:
            with self._translated():
                found = self._fs.info(f"{self.path}/{name}")
        except FileNotFoundError:
            return {}
        return {name: (found["size"], _state(found))} if found.get("type") == "file" else {}

    def _find(self) -> dict[str, Any]:
        try:
            with self._translated():
                found = self._fs.find(self.path, detail=True)
        except FileNotFoundError:
            return {}
        return {name.removeprefix(f"{self.path}/"): item for name, item in found.items()}

    def names(self, folder: str = "") -> list[str]:
        """Return the names directly below a folder, sorted."""
        path = f"{self.path}/{folder}".rstrip("/")
        try:
            with self._translated():
                found = self._fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(posixpath.basename(name.rstrip("/")) for name in found if name.rstrip("/") != path)

    def modified(self, name: str) -> object:
        """Return when an object was written, by the store; None if it is absent or the store does not say."""
        try:
            with self._translated():
                return self._fs.info(f"{self.path}/{name}").get("LastModified")
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Delete an object, or all below a folder; a missing one is fine."""
        with contextlib.suppress(FileNotFoundError), self._translated():
            self._fs.rm(f"{self.path}/{name}", recursive=True)

    @property
    def _is_s3(self) -> bool:
        return "s3" in ((self._fs.protocol,) if isinstance(self._fs.protocol, str) else self._fs.protocol)

    def piece(self, name: str, start: int, end: int) -> bytes:
        """Read bytes `start` to `end` of an object, fewer at its end. Raises FileNotFoundError."""
        with self._translated():
            return cast(bytes, self._fs.cat_file(f"{self.path}/{name}", start=start, end=end))

    def small(self, name: str, limit: int) -> bytes | None:
        """Read a small object, at most `limit` + 1 bytes of it; None if there is none."""
        size = self.size(name)
        if size is None:
            return None
        try:
            return self.piece(name, 0, min(size, limit + 1)) if size else b""
        except FileNotFoundError:
            return None

    def current(self, name: str, limit: int) -> tuple[bytes | None, str | None]:
        """Return a small object and its state: None if absent, on S3 its ETag, elsewhere an empty one.

        The state is never younger than the content.
        """
        try:
            with self._translated():
                state = self._fs.info(f"{self.path}/{name}").get("ETag") if self._is_s3 else ""
        except FileNotFoundError:
            return None, None
        return self.small(name, limit), state or ""

    def open(self, name: str, size: int) -> BinaryIO:
        """Open an object of `size` bytes."""
        return cast(BinaryIO, _Remote(self, name, size))

    def put(self, name: str, data: bytes) -> None:
        """Write a small object."""
        self.send(name, Blob(canonical.sha256(data), len(data)), lambda: io.BytesIO(data), ignore_count)

    def send(self, name: str, blob: Blob, source: Source, moved: Moved) -> None:
        """Write an object from a stream, hashing it; where the stream is not `blob` the object does not appear."""
        with source() as reader, self._placed(name) as target:
            with self._translated():
                sink = self._fs.open(target, "wb", block_size=max(_PART, -(-blob.size // _PARTS)))
            try:
                for data in _checked(reader, blob):
                    with self._translated():
                        sink.write(data)
                    moved(len(data))
                with self._translated():
                    sink.close()
            except BaseException:
                _abandon(sink)
                raise

    def swap(self, name: str, data: bytes, state: str | None) -> None:
        """Write a small object if it is still in `state`, as far as the store can tell; the caller checks again."""
        condition: dict[str, str] = {"IfMatch": state} if state else {}
        if state is None and not self._renames:
            condition = {"mode": "create"}
        with self._placed(name) as target, self._translated():
            try:
                self._fs.pipe_file(target, data, **condition)
            except FileExistsError:
                return
            except OSError as error:
                if _code(error) == "NotImplemented":  # a store without conditional writes
                    self._fs.pipe_file(target, data)
                elif _code(error) not in _LOST:
                    raise

    def adopt(self, name: str, other: Folder, size: int) -> bool:
        """Have the store copy an object from another folder of the same file system; False if it cannot."""
        if other.size(name) != size:
            return False
        with contextlib.suppress(SourceError, FileNotFoundError):
            with self._placed(name) as target, self._translated():
                self._fs.cp_file(f"{other.path}/{name}", target)
            return True
        return False

    @contextlib.contextmanager
    def _placed(self, name: str) -> Iterator[str]:
        """Yield the name to write an object to, so that it appears complete or not at all.

        In an object store that is its final name. Elsewhere it is a file beside the bundle, renamed at the end; a
        killed process leaves it there, below `.uploads`.
        """
        target = f"{self.path}/{name}"
        if not self._renames:
            try:
                yield target
            except FileNotFoundError:
                raise SourceError(f"`{self.label}`: there is no such bucket", hint="create it first") from None
            return
        temporary = f"{posixpath.dirname(self.path)}/.uploads/{secrets.token_hex(8)}"
        with self._translated():
            for path in (temporary, target):
                self._fs.makedirs(posixpath.dirname(path), exist_ok=True)
        try:
            yield temporary
            with self._translated():
                self._fs.mv(temporary, target)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to report
                self._fs.rm_file(temporary)
            raise


def _state(item: dict[str, Any]) -> str:
    return " ".join(str(item[key]) for key in ("LastModified", "ETag") if item.get(key))


def _abandon(sink: Any) -> None:
    """Abort an upload: closing a driver's buffered file would complete it with the bytes it has."""
    with contextlib.suppress(Exception):  # the first error is the one to report
        if hasattr(sink, "forced"):
            sink.discard()
            sink.closed = True
        else:
            sink.close()


def _driver(scheme: str) -> Any:
    try:
        fsspec = importlib.import_module("fsspec")
    except ImportError:
        raise MissingToolError(*_EXTRAS.get(scheme, ("fsspec", "fsspec"))) from None
    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError:
        known = did_you_mean(scheme, {"oci", "s3", "gs", "abfs", "file", "sftp", "https"})
        raise UsageError(f"`{scheme}://` is no known kind of address", hint=known) from None
    except ImportError as error:
        if scheme in _EXTRAS:
            raise MissingToolError(*_EXTRAS[scheme]) from None
        raise UsageError(f"`{scheme}://` needs a driver that is not installed", hint=_reason(error)) from None
    return fsspec


def _reason(error: BaseException) -> str:
    """Return the reason in one line, without credentials from an address."""
    return hide_credentials(re.sub(r"\s+", " ", getattr(error, "strerror", None) or str(error)))[:200] or repr(error)


def _code(error: BaseException) -> str:
    """Return S3's error code of a failure that the driver translated."""
    answer = getattr(error.__cause__, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))


def _checked(reader: BinaryIO, blob: Blob) -> Iterator[bytes]:
    """Yield a stream; its last bytes only if the whole is the expected blob."""
    state, left, view = hashlib.sha256(), blob.size, memoryview(bytearray(CHUNK))
    while left and (count := reader.readinto(view[: min(CHUNK, left)])):  # type: ignore[attr-defined]
        state.update(view[:count])
        left -= count
        if not left:
            _check(state, blob)
        yield bytes(view[:count])
    if left:
        raise IntegrityError(f"expected {blob.size} bytes, got {blob.size - left}", subject=blob.digest)
    if not blob.size:
        _check(state, blob)


def _check(state: hashlib._Hash, blob: Blob) -> None:
    got = f"sha256:{state.hexdigest()}"
    if got != blob.digest:
        raise IntegrityError(f"expected {blob.digest}, got {got}", subject=blob.digest)


class _Remote(io.RawIOBase):
    """An object, read in pieces at any offset; its size was checked when it was opened."""

    def __init__(self, folder: Folder, name: str, size: int) -> None:
        self._folder, self._name, self._size = folder, name, size
        self._position, self._ready = 0, memoryview(b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("only from the start")
        self._position, self._ready = offset, memoryview(b"")
        return offset

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the whole buffer, except at the end: readers of records expect one read to suffice."""
        view, filled = memoryview(buffer), 0
        while filled < len(view) and self._position < self._size:
            if not self._ready:
                self._ready = memoryview(self._fetch())
            count = min(len(view) - filled, len(self._ready))
            view[filled : filled + count] = self._ready[:count]
            self._ready = self._ready[count:]
            self._position += count
            filled += count
        return filled

    def _fetch(self) -> bytes:
        end = min(self._position + _PIECE, self._size)
        try:
            data = self._folder.piece(self._name, self._position, end)
        except FileNotFoundError:
            data = b""
        if len(data) != end - self._position:
            raise SourceError(f"`{self._name}` in `{self._folder.label}` ended early", hint="repeat the command")
        return data
