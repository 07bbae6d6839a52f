# SPDX-License-Identifier: Apache-2.0
"""Translate errors of the operating system into ours: the path, the meaning, and the remedy.

A full disk, a missing permission or a directory that is a file is not a bug. Source: errno(3), open(2).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping

from packager.errors import PackagerError, SourceError, StorageError, UsageError
from packager.escape import line

_ROOM = "free some space and repeat; nothing half-written is left"
_OWNER = "check its owner, mode and medium, or run as the user that owns it"
_MEDIUM = "look at the medium and its mount (`dmesg`, `findmnt`); repeat when it is back"
_FILES = "raise the limit of open files (`ulimit -n`), or lower --jobs"
_MEANING: Mapping[int, tuple[type[PackagerError], str, str]] = {
    errno.ENOSPC: (StorageError, "no space left while writing", _ROOM),
    errno.EDQUOT: (StorageError, "the quota is used up while writing", _ROOM),
    errno.EFBIG: (StorageError, "the file system takes no file as large as", _ROOM),
    errno.EACCES: (StorageError, "no permission for", _OWNER),
    errno.EPERM: (StorageError, "not permitted for", _OWNER),
    errno.EROFS: (StorageError, "the file system is read-only at", "mount it writable, or give another directory"),
    errno.EIO: (StorageError, "the medium fails at", _MEDIUM),
    errno.ESTALE: (StorageError, "the network file system lost", _MEDIUM),
    errno.ENODEV: (StorageError, "no such device behind", _MEDIUM),
    errno.ENXIO: (StorageError, "no such device behind", _MEDIUM),
    errno.EBUSY: (StorageError, "another program holds", "end it, or wait, and repeat"),
    errno.ETXTBSY: (StorageError, "a running program is", "end it, or wait, and repeat"),
    errno.ENOTEMPTY: (StorageError, "something was put meanwhile into", "repeat when no other program writes there"),
    errno.EEXIST: (UsageError, "something else is already at", "move it away, or give another path"),
    errno.ENOENT: (UsageError, "there is nothing at", "check the path; a link there may lead nowhere"),
    errno.ENOTDIR: (UsageError, "a part of the path is no directory:", "check the path, or move that file away"),
    errno.EISDIR: (UsageError, "a directory, where a file is expected:", "name the file inside it"),
    errno.ENAMETOOLONG: (UsageError, "the name is too long for the file system:", "use a shorter path"),
    errno.ELOOP: (UsageError, "links lead in a circle at", "remove one of them"),
    errno.EXDEV: (StorageError, "two file systems are involved at", "keep the store or the directory on one of them"),
    errno.EMLINK: (StorageError, "too many links to", "give the store a separate file system"),
    errno.EMFILE: (StorageError, "too many open files, at", _FILES),
    errno.ENFILE: (StorageError, "the machine has too many open files, at", "close other programs"),
    errno.ENOMEM: (StorageError, "out of memory at", "close other programs, or lower --jobs"),
    errno.EAGAIN: (StorageError, "the system has no process or lock left, at", "close other programs, or lower --jobs"),
    errno.ENOLCK: (StorageError, "the file system has no locks left, at", "mount it with locks, or move the store"),
    errno.ENOEXEC: (StorageError, "the system cannot run", "install that program for this machine"),
    errno.EOPNOTSUPP: (StorageError, "the file system cannot do what is needed at", "use a local one, such as ext4"),
}
_CIRCLE = re.compile(r"Symlink loop from ['\"](.*)['\"]", re.DOTALL)
_NETWORK = "check the address, the proxy and the network, and repeat"


def translate(error: OSError | RuntimeError, path: str | os.PathLike[str] | None = None) -> PackagerError | None:
    """Return the error as ours, or None for one that is not listed here; `path` is named where the error has none."""
    if isinstance(error, RuntimeError):  # what `Path.resolve` makes of ELOOP before Python 3.13
        found = _CIRCLE.fullmatch(str(error))
        return translate(OSError(errno.ELOOP, os.strerror(errno.ELOOP), found[1])) if found else None
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__module__ in ("socket", "ssl", "_ssl"):
        return SourceError(f"the network failed: {line(error.strerror or str(error))}", hint=_NETWORK)
    if error.filename is None and "temporary directory" in (error.strerror or ""):
        return StorageError("there is no temporary directory that can be written", hint="set TMPDIR to one that can")
    if error.errno is None or error.errno not in _MEANING:
        return None
    kind, meaning, remedy = _MEANING[error.errno]
    return kind(f"{meaning} `{line(_path(error, path))}`", hint=remedy)


def _path(error: OSError, path: str | os.PathLike[str] | None) -> str:
    named = next((name for name in (error.filename2, error.filename, path) if name is not None), None)
    if named is None or isinstance(named, int):
        return "a path that the system does not name"
    return os.fsdecode(named)
