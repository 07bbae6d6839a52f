# SPDX-License-Identifier: Apache-2.0
"""Read and write files: hash while copying, never half-written, never through a link.

Every write of the program goes through this module, so "the disk is full" has one message and a kill at any point
leaves either the old file or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

from packager import os_errors, untrusted_files
from packager.errors import IntegrityError, WrongContentError
from packager.types import Blob

CHUNK = 256 << 10  # bytes of one write: more go to pages that a virtual machine may first have to fetch from its host
_READ = 1 << 20  # bytes of one read where nothing is written
_AHEAD = 8 << 20  # bytes that wait before the disk begins with them
_ACTED_ON = {errno.ENOENT, errno.EEXIST, errno.EAGAIN, errno.ENOTEMPTY, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP}
_FICLONE = 0x40049409  # ioctl: share the extents of a file on btrfs and xfs


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate errors of the operating system below `path` into ours.

    Errors that callers handle (a file exists already, or does not exist) pass unchanged.
    """
    try:
        yield
    except OSError as error:
        found = None if error.errno in _ACTED_ON else os_errors.translate(error, path)
        if found is None:
            raise
        raise found from error


Moved: TypeAlias = Callable[[int], None]  # called with the number of bytes since the last call


def ignore_count(count: int) -> None:
    """Ignore the count: the default for `Moved`."""


class Sink(Protocol):
    """The target of a copy."""

    def write(self, data: memoryview, /) -> int | None:
        """Write at least one byte and return how many: an unbuffered file writes fewer than given on a full disk."""


class Nowhere:
    """A sink that drops everything, for hashing alone."""

    def write(self, data: memoryview, /) -> int:
        return len(data)


class FileSink:
    """A sink that writes into an open file from `position` on; several may share one descriptor.

    Every few megabytes the system is told to begin writing them to the disk, so that the sync at the end waits for the
    last ones alone. `posix_fadvise` does that where it is asked to drop pages that are not written yet (Linux,
    `mm/fadvise.c`), which then stay.
    """

    def __init__(self, descriptor: int, position: int = 0) -> None:
        self._descriptor, self._position, self._begun = descriptor, position, position

    def write(self, data: memoryview, /) -> int:
        write_all(self._descriptor, data, self._position)
        self._position += len(data)
        if self._position - self._begun >= _AHEAD and hasattr(os, "posix_fadvise"):
            size = self._position - self._begun
            with contextlib.suppress(OSError):  # a file system without it: the sync at the end waits longer
                os.posix_fadvise(self._descriptor, self._begun, size, os.POSIX_FADV_DONTNEED)
            self._begun = self._position
        return len(data)


class Hash(Protocol):
    """A running SHA-256."""

    def update(self, data: memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def copy(
    source: BinaryIO,
    sink: Sink,
    *,
    limit: int,
    moved: Moved = ignore_count,
    state: Hash | None = None,
    chunk: int = CHUNK,
) -> Blob:
    """Copy `source` to `sink` in one pass and return what was copied.

    Stops after `limit` + 1 bytes, so a wrong size costs nothing; the caller compares the blob with the expected one.
    With `state` the digest continues from there, while the size counts only the bytes copied here.
    """
    digest, size, view = state or hashlib.sha256(), 0, memoryview(bytearray(chunk))
    while size <= limit and (count := source.readinto(view[: min(chunk, limit + 1 - size)])):  # type: ignore[attr-defined]
        digest.update(view[:count])
        _write_out(sink, view[:count])
        size += count
        moved(count)
    return Blob(f"sha256:{digest.hexdigest()}", size)


def _write_out(sink: Sink, data: memoryview) -> None:
    while data:
        data = data[sink.write(data) or 0 :]


def digest_of(source: BinaryIO, *, limit: int, moved: Moved = ignore_count) -> Blob:
    """Hash `source` in one pass; bounded like `copy`."""
    return copy(source, Nowhere(), limit=limit, moved=moved, chunk=_READ)


def hash_into(state: Hash, source: BinaryIO, *, limit: int, moved: Moved = ignore_count) -> None:
    """Feed the next `limit` bytes of `source` to a running hash."""
    left, view = limit, memoryview(bytearray(min(_READ, limit or 1)))
    while left and (count := source.readinto(view[: min(len(view), left)])):  # type: ignore[attr-defined]
        state.update(view[:count])
        moved(count)
        left -= count


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading without following a link. Raises IntegrityError for anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise WrongContentError(f"`{path}` is a symbolic link", subject=str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise WrongContentError(f"`{path}` is not a regular file", subject=str(path))
    return os.fdopen(descriptor, "rb", buffering=0)


def read_own(path: Path, limit: int) -> bytes:
    """Read a small file of this program without blocking: at most `limit` + 1 bytes.

    Raises WrongContentError for a pipe, a device or a directory, and what `open` raises.
    """
    with os.fdopen(_opened(path, os.O_RDONLY), "rb") as file:
        return file.read(limit + 1)


def _opened(path: Path, flags: int) -> int:
    """Open a regular file; unlike `open`, does not block on a pipe without a writer."""
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EISDIR):
            raise WrongContentError(f"`{path}` is not a regular file", subject=str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise WrongContentError(f"`{path}` is not a regular file", subject=str(path))
    return descriptor


def clone_or_copy(source: Path, target: Path) -> None:
    """Give `target` the bytes of `source`: shared extents where the file system can, a kernel-side copy elsewhere.

    Never a hard link: `onnx` refuses external data with a link count above one, and a link aliases its source.
    """
    with open_regular(source) as reader, target.open("xb", buffering=0) as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            left = os.fstat(reader.fileno()).st_size
            while left:
                moved = os.sendfile(writer.fileno(), reader.fileno(), None, left)
                if not moved:
                    raise IntegrityError(f"`{source}` shrank while it was copied", subject=str(source)) from None
                left -= moved


def clone_hashed(source: BinaryIO, target: BinaryIO, *, limit: int) -> Blob:
    """Give an empty `target` the bytes of `source` and return the blob that it then is, bounded like `copy`.

    Extents are shared where the file system can; then the copy is hashed. Never a hard link: `onnx` refuses external
    data with a link count above one, and a link aliases its source.
    """
    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError:
        return copy(source, target, limit=limit)
    with os.fdopen(os.open(f"/proc/self/fd/{target.fileno()}", os.O_RDONLY | os.O_CLOEXEC), "rb", 0) as written:
        return digest_of(written, limit=limit)


def write_all(descriptor: int, data: bytes | memoryview, position: int) -> None:
    """Write all of `data` at `position` of an open file."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, position)
        view, position = view[count:], position + count


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data` atomically: readers see the old file or the new one."""
    with storage_errors(path.parent):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(mode)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Write a new file to the disk; one that exists is refused. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, mode)  # whatever the umask
        write_all(descriptor, data, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make renames inside `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: Path) -> None:
    """Make everything written on the file system of `path` survive a power cut: cheaper than a sync per small file."""
    import ctypes

    descriptor = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)


def walk_regular(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (relative POSIX path, path) of every file below `root`, sorted; refuse links and special files."""
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name, _ in untrusted_files.walk(handle, untrusted_files.BUNDLE):
            yield name, root / name
    finally:
        os.close(handle)


@contextlib.contextmanager
def hold_lock(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold an advisory lock on `path` (created if absent); the kernel releases it when the process dies.

    A holder may delete the file before it releases the lock: a waiting process then has a lock that no other can see,
    so the lock counts only if `path` still is the file that was locked.
    """
    while True:
        with os.fdopen(_opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as file:
            fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            if _is_at(path, file):
                yield
                return


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def exchange_directories(fresh: Path, target: Path) -> None:
    """Replace `target` by `fresh` atomically and delete the old directory.

    Linux swaps two names atomically (renameat2 with RENAME_EXCHANGE, since 3.15); a target that does not exist yet
    needs a plain rename.
    """
    if not target.exists():
        fresh.rename(target)
    else:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        here = ctypes.c_int(-100)  # AT_FDCWD
        if libc.renameat2(here, os.fsencode(fresh), here, os.fsencode(target), ctypes.c_uint(2)) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(target))
        remove_tree(fresh)
    sync_directory(target.parent)


def remove_tree(directory: Path) -> None:
    """Delete a directory with everything in it; one that does not exist is fine."""
    untrusted_files.remove(directory)


@contextlib.contextmanager
def _present_lock(path: Path) -> Iterator[None]:
    """Hold a lock on a file that its last holder deletes: a lock on a deleted file excludes no other process."""
    while True:
        with os.fdopen(_opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if is_at(file, path):
                yield
                return


def is_at(file: BinaryIO, path: Path) -> bool:
    """Return whether `path` still names the open `file`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def shared_modes() -> Iterator[None]:
    """Create files inside as world-readable and writable by their owner only, whatever the caller's umask."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def make_staging(target: Path) -> Iterator[Path]:
    """Yield a fresh directory beside `target`, so that it can be renamed there; it is removed if it still exists.

    The next process that stages the same target deletes what a killed one left: its name has the target, and a lock
    inside the parent excludes two writers.
    """
    with storage_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{target.name}.staging-"
        with _present_lock(target.parent / f".{target.name}.lock"):
            for leftover in target.parent.glob(f"{prefix}*"):
                remove_tree(leftover)
            directory = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix))
            directory.chmod(0o755)
            try:
                yield directory
            finally:
                remove_tree(directory)
                (target.parent / f".{target.name}.lock").unlink(missing_ok=True)
