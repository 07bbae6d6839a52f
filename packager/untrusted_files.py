# SPDX-License-Identifier: Apache-2.0
"""Read and delete untrusted directories: relative to a descriptor, without following links, with limits on everything.

Such a directory may contain anything: links, FIFOs, devices, sparse files, nesting deeper than a path may be long,
names that are no text. Nothing here opens a path with more than one component, follows a link, waits for a FIFO, or
recurses.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from packager.errors import TooLargeError, WrongContentError
from packager.records import dataclass

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REGULAR = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_BLOCK = 512  # bytes that `st_blocks` counts in, whatever the file system
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_TOO_MANY = "more files and directories than a reader accepts"
_SHALLOW = 64  # levels that are emptied in place; deeper ones are moved up first


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of a directory: `entries` of any kind, `depth` of directories, `total` bytes by the files' sizes.

    `holes` are the bytes of one file that may have no block on the disk.
    """

    entries: int = 20_000
    depth: int = 32
    total: int = 1 << 50
    holes: int = 64 << 20


BUNDLE = Bounds(entries=200_000, depth=200, total=1 << 60, holes=1 << 60)
"""For a directory named on the command line: its files are then hashed up to the size in a manifest."""


def open_directory(path: Path) -> int:
    """Return a descriptor of a directory, which the caller closes. Raises WrongContentError for anything else."""
    try:
        return os.open(path, _DIRECTORY)
    except OSError as error:
        raise WrongContentError(f"`{escape_name(path.name)}` is not a directory", subject=str(path)) from error


def walk(root: int, bounds: Bounds) -> Iterator[tuple[str, os.stat_result]]:
    """Yield (relative POSIX path, status) of every regular file below the directory `root`, sorted within each level.

    Raises WrongContentError for links and special files, TooLargeError for what exceeds `bounds`; never blocks.
    """
    left, total = bounds.entries, 0
    levels = [_Level("", root, iter(_names(root, left)))]
    try:
        while levels:
            level = levels[-1]
            name = next(level.names, None)
            if name is None:
                _leave(levels)
                continue
            left -= 1
            if left < 0:
                raise TooLargeError(_TOO_MANY, subject="directory")
            path = f"{level.prefix}{name}"
            status = os.stat(name, dir_fd=level.handle, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                total += _extent(path, status, bounds)
                if total > bounds.total:
                    raise TooLargeError(
                        f"more than {bounds.total} bytes of files, up to `{escape_name(path)}`",
                        subject=escape_name(path),
                    )
                yield path, status
                continue
            if len(levels) >= bounds.depth:
                raise WrongContentError(
                    f"`{escape_name(path)}` is nested too deeply: more than {bounds.depth} directories",
                    subject=escape_name(path),
                )
            handle = _open(name, level.handle, _DIRECTORY, path)
            levels.append(_Level(f"{path}/", handle, iter(())))
            levels[-1] = _Level(f"{path}/", handle, iter(_names(handle, left)))
    finally:
        while levels:
            _leave(levels)


@dataclass(frozen=True, slots=True)
class _Level:
    prefix: str
    handle: int
    names: Iterator[str]


def _leave(levels: list[_Level]) -> None:
    level = levels.pop()
    if levels:  # the first is the caller's
        os.close(level.handle)


def _names(directory: int, left: int) -> list[str]:
    """Return the names in a directory, sorted by their bytes. Raises TooLargeError for more than `left`."""
    with os.scandir(directory) as found:
        names = [entry.name for entry in itertools.islice(found, left + 1)]
    if len(names) > left:
        raise TooLargeError(_TOO_MANY, subject="directory")
    return sorted(names, key=os.fsencode)


def _extent(path: str, status: os.stat_result, bounds: Bounds) -> int:
    """Return the stated size of a regular file. Raises WrongContentError for other kinds, TooLargeError for holes."""
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "of no known kind")
        raise WrongContentError(f"`{escape_name(path)}` is {kind}, not a regular file", subject=escape_name(path))
    if status.st_size - _BLOCK * status.st_blocks > bounds.holes:
        raise TooLargeError(
            f"`{escape_name(path)}` says {status.st_size} bytes and holds {_BLOCK * status.st_blocks}",
            subject=escape_name(path),
        )
    return status.st_size


def open_below(root: int, path: str) -> BinaryIO:
    """Open a regular file below the directory `root`, component by component, through no link.

    Raises WrongContentError for anything else, without waiting for it.
    """
    *parents, name = path.split("/")
    with contextlib.ExitStack() as stack:
        handle = root
        for parent in parents:
            handle = _open(parent, handle, _DIRECTORY, path)
            stack.callback(os.close, handle)
        descriptor = _open(name, handle, _REGULAR, path)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise WrongContentError(f"`{escape_name(path)}` is not a regular file", subject=escape_name(path))
    return os.fdopen(descriptor, "rb", buffering=0)


def _open(name: str, parent: int, flags: int, path: str) -> int:
    if name in ("", ".", "..") or "/" in name:
        raise WrongContentError(f"`{escape_name(path)}` leaves its directory", subject=escape_name(path))
    try:
        return os.open(name, flags, dir_fd=parent)
    except OSError as error:
        raise WrongContentError(
            f"`{escape_name(path)}` cannot be opened: {error.strerror}", subject=escape_name(path)
        ) from error


def escape_name(name: str) -> str:
    """Return an untrusted name for a message: printable ASCII kept, the rest escaped, shortened."""
    text = name.encode("unicode_escape", "backslashreplace").decode("ascii")
    return text if len(text) <= 120 else f"{text[:80]}…{text[-30:]}"


def remove(path: Path) -> None:
    """Delete a file or a directory with everything in it, however deep; what cannot be deleted stays.

    No link is followed. Needs two descriptors per level for `_SHALLOW` levels; deeper ones are moved up first.
    """
    try:
        path.unlink()
        return
    except FileNotFoundError:
        return
    except OSError:
        pass  # a directory
    with contextlib.suppress(OSError, WrongContentError):
        path.chmod(0o700)
        top = open_directory(path)
        try:
            moved = itertools.count()
            while _empty(top, top, _SHALLOW, moved):
                pass
        finally:
            os.close(top)
        path.rmdir()


def _empty(handle: int, top: int, depth: int, moved: Iterator[int]) -> bool:
    """Delete the content of a directory; return whether something too deep was moved to `top`."""
    again = False
    with os.scandir(handle) as found:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    for name, is_directory in entries:
        with contextlib.suppress(OSError):
            if not is_directory:
                os.unlink(name, dir_fd=handle)
                continue
            inner = _opened(name, handle)
            try:
                again |= _empty(inner, top, depth - 1, moved) if depth else _lift(inner, top, moved)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=handle)
    return again


def _opened(name: str, parent: int) -> int:
    """Open a directory whose mode may forbid it: the mode is set through the descriptor, so no other file changes."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        with contextlib.suppress(OSError):
            os.chmod(f"/proc/self/fd/{handle}", 0o700)  # noqa: PTH101 - of the descriptor, not of a path
        return os.open(".", _DIRECTORY, dir_fd=handle)
    finally:
        os.close(handle)


def _lift(handle: int, top: int, moved: Iterator[int]) -> bool:
    """Move every directory below to `top`, and delete the other entries; return whether there was one."""
    again = False
    with os.scandir(handle) as found:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    for name, is_directory in entries:
        if not is_directory:
            os.unlink(name, dir_fd=handle)
            continue
        os.close(_opened(name, handle))  # makes it writable: a directory can be moved by its owner only then
        while not _moved(name, handle, f".lifted-{next(moved)}", top):
            pass
        again = True
    return again


def _moved(name: str, parent: int, free: str, top: int) -> bool:
    """Move a directory to `top` under a name; False if that is taken."""
    try:
        os.rename(name, free, src_dir_fd=parent, dst_dir_fd=top)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    return True
