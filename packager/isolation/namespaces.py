# SPDX-License-Identifier: Apache-2.0
"""Confine without bubblewrap: namespaces of one's own, and a root that holds the same few places.

Before anything foreign is opened, the worker calls `enter`: it gets a user, mount, network, process, IPC and host name
space of its own, builds a root in memory with the places that it may see, read-only, moves into it, and gives up every
capability. Needs Linux 5.12 (mount_setattr) and user namespaces.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from packager.errors import StepError

_MS_BIND, _MS_REC, _MS_NOSUID, _MS_NODEV, _MNT_DETACH = 0x1000, 0x4000, 2, 4, 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID = 1, 2
_MOUNT_SETATTR = 442  # the same number on every architecture
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _LAST_CAPABILITY = 1, 24, 38, 63
_CAPABILITY_VERSION = 0x20080522
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_NEW = 0x10000000 | 0x00020000 | 0x40000000 | 0x20000000 | 0x08000000 | 0x04000000  # user mount net pid ipc uts


def work(places: Sequence[str]) -> bool:
    """Tell whether a process here can be confined this way, by confining one."""
    if os.uname().machine not in _PIVOT_ROOT:
        return False
    code = "import sys; from pathlib import Path; from packager.isolation import namespaces\n"
    code += "namespaces.enter(Path(sys.argv[1]), sys.argv[2:])"
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run([sys.executable, "-c", code, scratch, *places], capture_output=True, check=False)
    return done.returncode == 0


def enter(scratch: Path, places: Sequence[str], devices: Sequence[str] = ()) -> None:
    """Leave the calling process, which has one thread, with `places` to read and `scratch` to write.

    `devices` are shown besides. What returns is a child; its parent waits for it and
    ends as it ends. Raises StepError.
    """
    try:
        user, group = os.getuid(), os.getgid()
        _checked(_libc().unshare(_NEW), Path("/"))
        Path("/proc/self/setgroups").write_text("deny", "ascii")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", "ascii")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1", "ascii")
        _first_process()
        socket.sethostname("localhost")
        _loopback()
        _into(_root(scratch, places, devices), scratch)
        _powerless()
    except OSError as error:
        raise StepError(f"cannot confine the worker in namespaces: {error}", hint="install bubblewrap") from error


def _first_process() -> None:
    """Become the first process of the new process space; nothing in it outlives what is outside."""
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(128 - code if code < 0 else code)
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _root(scratch: Path, places: Sequence[str], devices: Sequence[str]) -> Path:
    root = scratch / "root"
    root.mkdir()
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755")
    _temporary(root / "tmp")  # before the rest: what is shown may lie below it
    for place in (Path(item) for item in places):
        if place.exists():
            _bind(place, root, read_only=True)
    (root / "dev").mkdir(exist_ok=True)
    for name in (*(f"/dev/{name}" for name in _DEVICES), *devices):
        _bind(Path(name), root)
    _temporary(root / "dev" / "shm")
    (root / "dev" / "fd").symlink_to("/proc/self/fd")
    (root / "proc").mkdir()
    _mount("proc", root / "proc", "proc", _MS_NOSUID | _MS_NODEV)
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n", "utf-8")
    _bind(scratch, root, recursive=False)
    _protect(root, recursive=False)
    return root


def _temporary(place: Path) -> None:
    place.mkdir(parents=True)
    _mount("tmpfs", place, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=1777")


def _bind(place: Path, root: Path, *, read_only: bool = False, recursive: bool = True) -> None:
    """Show a file or directory at the same path below `root`."""
    target = root / place.relative_to("/")
    if place.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(str(place), target, None, _MS_BIND | (_MS_REC if recursive else 0))
    if read_only:
        _protect(target, recursive=recursive)


def _protect(place: Path, *, recursive: bool) -> None:
    """Make mounts read-only; `mount_setattr` takes along those below, which a remount leaves."""
    wanted = struct.pack("=QQQQ", _ATTR_RDONLY | _ATTR_NOSUID, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    _checked(_libc().syscall(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(place), flags, wanted, len(wanted)), place)


def _into(root: Path, scratch: Path) -> None:
    """Make `root` the root, and let go of the old one."""
    _move(root)
    _checked(_libc().syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), root)
    _checked(_libc().umount2(b".", _MNT_DETACH), root)
    _move(scratch)


def _move(place: Path) -> None:
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fchdir(handle)
    finally:
        os.close(handle)


def _powerless() -> None:
    """Give up every capability, so that no mount can be undone; no program that is started gets any back."""
    libc = _libc()
    for number in range(_LAST_CAPABILITY + 1):
        libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # fails for those that this kernel has not
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), Path("/"))
    header, nothing = struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24)
    _checked(libc.capset(header, nothing), Path("/"))


def _loopback() -> None:
    """Bring up the one interface there is: some tools speak to themselves."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(handle, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def _mount(source: str, target: Path, kind: str | None, flags: int, data: str = "") -> None:
    words = (os.fsencode(source), os.fsencode(target), kind.encode() if kind else None)
    _checked(_libc().mount(*words, ctypes.c_ulong(flags), data.encode()), target)


def _checked(answer: int, place: Path) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(place))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
