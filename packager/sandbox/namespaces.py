# SPDX-License-Identifier: Apache-2.0
"""Confine without bubblewrap: new namespaces, and a root file system with the same few directories.

Before untrusted data is opened, `enter` gives the calling process a mount, network, process, IPC, host name and control
group namespace (and a user namespace, unless it is root), builds a root in memory with the directories that the step
may see, read-only, and moves into it. Needs Linux 5.12 (mount_setattr), and user namespaces or root.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_SLAVE = 1, 2, 4, 8, 0x1000, 0x4000, 0x80000
_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_MOUNT_SETATTR = 442  # the same number on every architecture
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PR_SET_PDEATHSIG = 1
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_NEW_USER = 0x10000000
_NEW = 0x00020000 | 0x40000000 | 0x20000000 | 0x08000000 | 0x04000000 | 0x02000000  # mount net pid ipc uts cgroup


def is_supported() -> bool:
    """Say whether this architecture's numbers are known here."""
    return os.uname().machine in _PIVOT_ROOT


def enter_namespaces(job: Mapping[str, Any]) -> None:
    """Move the calling process, which has one thread, into new namespaces as `job` says (`sandbox.view`).

    With `maps` it can write to `/proc`, as what maps the users of further spaces has to.
    What returns is the first process of the new process space; the one that called waits for it and ends.
    Raises OSError.
    """
    user, group = os.getuid(), os.getgid()
    own = job["user"] is None
    _checked(_libc().unshare(_NEW | (_NEW_USER if own else 0)), Path("/"))
    if own:
        Path("/proc/self/setgroups").write_text("deny", "ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", "ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", "ascii")
    _first_process()
    socket.sethostname("localhost")
    _loopback()
    _mount("none", Path("/"), None, _MS_REC | _MS_SLAVE)
    _into(_root(job))


def _first_process() -> None:
    """Become the first process of the new process space."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(128 - code if code < 0 else code)
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _root(job: Mapping[str, Any]) -> Path:
    root, size = Path(job["root"]), int(job["memory-files"])
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=1m")
    for name in ("tmp", "dev/shm"):  # before the rest: what is shown may lie below them
        _temporary(root / name, size)
    for source, target in job["shown"]:
        _bind(Path(source), Path(target), root, read_only=True)
    for name in (*(f"/dev/{name}" for name in _DEVICES), *job["devices"]):
        _bind(Path(name), Path(name), root)
    (root / "dev" / "fd").symlink_to("/proc/self/fd")
    (root / "proc").mkdir()
    kept = 0 if job.get("maps") else _MS_RDONLY
    _mount("proc", root / "proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | kept)
    for path in job["own"]:
        _bind(Path(path), Path(path), root, recursive=False)
        _protect(root / Path(path).relative_to("/"), _ATTR_NOSUID | _ATTR_NODEV, recursive=False)
    _protect(root, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, recursive=False)
    return root


def _temporary(path: Path, size: int) -> None:
    path.mkdir(parents=True)
    _mount("tmpfs", path, "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode=1777,size={size}")


def _bind(source: Path, path: Path, root: Path, *, read_only: bool = False, recursive: bool = True) -> None:
    """Show a file or directory at `path` below `root`; nothing where there is none."""
    if not source.exists():
        return
    target = root / path.relative_to("/")
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(str(source), target, None, _MS_BIND | (_MS_REC if recursive else 0))
    if read_only:
        _protect(target, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, recursive=recursive)


def _protect(path: Path, attributes: int, *, recursive: bool) -> None:
    """Set attributes of mounts; `mount_setattr` takes along those below, which a remount leaves."""
    wanted = struct.pack("=QQQQ", attributes, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    _checked(_libc().syscall(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), flags, wanted, len(wanted)), path)


def _into(root: Path) -> None:
    """Make `root` the root, and let go of the old one."""
    _move(root)
    _checked(_libc().syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), root)
    _checked(_libc().umount2(b".", _MNT_DETACH), root)
    _move(Path("/"))


def _move(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fchdir(handle)
    finally:
        os.close(handle)


def _loopback() -> None:
    """Bring up the one interface there is: some tools speak to themselves."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(handle, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def _mount(source: str, target: Path, kind: str | None, flags: int, data: str = "") -> None:
    words = (os.fsencode(source), os.fsencode(target), kind.encode() if kind else None)
    _checked(_libc().mount(*words, ctypes.c_ulong(flags), data.encode()), target)


def _checked(answer: int, path: Path) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
