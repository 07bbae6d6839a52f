# SPDX-License-Identifier: Apache-2.0
"""The system calls that a worker may not make: a seccomp filter, as the bytes that bubblewrap and the kernel read.

A deny list of what exporting a model never needs and what breaks out of containers were made of: mounting, new
namespaces, tracing, kernel modules, keys, `bpf`, `io_uring`, `userfaultfd`, other sockets than local and IP ones, input
pushed into a terminal; and memory that no process has mapped and no file system shows, because nobody would count it.
A refused call fails with EPERM. A call of a foreign architecture ends the process.

Sources: linux/seccomp.h, linux/filter.h, the kernel's tables of system calls; the lists of Docker and Flatpak.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator, Mapping, Sequence

from packager.errors import StepError

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of BPF, on 32-bit words
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_EPERM, _ENOSYS = 1, 38
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in `struct seccomp_data`
_X32 = 0x40000000  # calls of the x32 ABI come under x86-64's name
_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_FAMILIES = (1, 2, 10, 16)  # unix, IPv4, IPv6, netlink (the C library lists interfaces with it)
_PERSONALITIES = (0, 0x0040000, 0xFFFFFFFF)  # the ordinary one, without random addresses (engines need it), a question
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2

_REFUSED: Mapping[str, tuple[int | None, int | None]] = {  # number on x86-64, number on 64-bit Arm
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "chroot": (161, 51),
    "clock_adjtime": (305, 266), "clock_settime": (227, 112), "create_module": (174, None),
    "delete_module": (176, 106), "fanotify_init": (300, 262), "finit_module": (313, 273), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fsopen": (430, 430), "fspick": (433, 433), "init_module": (175, 105),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "io_uring_setup": (425, 425),
    "ioperm": (173, None), "iopl": (172, None), "kcmp": (312, 272), "kexec_file_load": (320, 294),
    "kexec_load": (246, 104), "keyctl": (250, 219), "lookup_dcookie": (212, 18), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "modify_ldt": (154, None), "mount": (165, 40), "mount_setattr": (442, 442),
    "move_mount": (429, 429), "msgget": (68, 186), "name_to_handle_at": (303, 264), "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265), "open_tree": (428, 428), "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438), "pivot_root": (155, 41), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "ptrace": (101, 117), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "reboot": (169, 142), "request_key": (249, 218), "setdomainname": (171, 162), "sethostname": (170, 161),
    "setns": (308, 268), "settimeofday": (164, 170), "shmget": (29, 194), "swapoff": (168, 225), "swapon": (167, 224),
    "syslog": (103, 116), "umount2": (166, 39), "unshare": (272, 97), "uselib": (134, None),
    "userfaultfd": (323, 282), "vhangup": (153, 58),
}  # fmt: skip
_MACHINES: Mapping[str, tuple[int, int, Mapping[str, int]]] = {
    "x86_64": (0, 0xC000003E, {"clone": 56, "clone3": 435, "ioctl": 16, "personality": 135, "socket": 41}),
    "aarch64": (1, 0xC00000B7, {"clone": 220, "clone3": 435, "ioctl": 29, "personality": 92, "socket": 198}),
}
"""By `platform.machine()`: column above, AUDIT_ARCH of linux/audit.h, and the calls whose arguments are looked at."""


def program(machine: str | None = None) -> bytes | None:
    """Return the filter for a machine, this one by default; None where its calls are not known here."""
    known = _MACHINES.get(machine or platform.machine())
    return None if known is None else b"".join(struct.pack("=HBBI", *row) for row in _rows(*known))


def _rows(column: int, architecture: int, looked_at: Mapping[str, int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield instructions: code, how many to skip if it holds, if it does not, operand."""
    yield _LOAD, 0, 0, _ARCHITECTURE
    yield _EQUAL, 1, 0, architecture
    yield _RETURN, 0, 0, _KILL
    yield _LOAD, 0, 0, _NUMBER
    if column == 0:
        yield _AT_LEAST, 0, 1, _X32
        yield _RETURN, 0, 0, _KILL
    for numbers in _REFUSED.values():
        if (number := numbers[column]) is not None:
            yield _EQUAL, 0, 1, number
            yield _RETURN, 0, 0, _ERRNO | _EPERM
    # Its flags lie in memory, which a filter cannot read; the C library then takes `clone`.
    yield _EQUAL, 0, 1, looked_at["clone3"]
    yield _RETURN, 0, 0, _ERRNO | _ENOSYS
    yield from _argument(looked_at["clone"], 0, [(_ANY_BIT, 0, 1, _NAMESPACES), (_RETURN, 0, 0, _ERRNO | _EPERM)])
    for request in (_TIOCSTI, _TIOCLINUX):
        yield from _argument(looked_at["ioctl"], 1, [(_EQUAL, 0, 1, request), (_RETURN, 0, 0, _ERRNO | _EPERM)])
    yield from _argument(looked_at["socket"], 0, _only(_FAMILIES))
    yield from _argument(looked_at["personality"], 0, _only(_PERSONALITIES))
    yield _RETURN, 0, 0, _ALLOW


def _only(values: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Return rows that go on with one of the values, and refuse any other."""
    rows = [(_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [*rows, (_RETURN, 0, 0, _ERRNO | _EPERM)]


def _argument(
    call: int, position: int, rows: Sequence[tuple[int, int, int, int]]
) -> Iterator[tuple[int, int, int, int]]:
    """Yield rows that look at the lower half of an argument of `call`, and load the call's number again after them."""
    yield _EQUAL, 0, len(rows) + 2, call
    yield _LOAD, 0, 0, 16 + 8 * position
    yield from rows
    yield _LOAD, 0, 0, _NUMBER


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("rows", ctypes.c_char_p))


def install(code: bytes) -> None:
    """Put the calling process, and whatever it starts, under the filter for good. Raises StepError."""
    libc = ctypes.CDLL(None, use_errno=True)
    held = _Program(len(code) // 8, code)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(held), 0, 0):
        raise StepError(f"cannot filter the worker's system calls: {os.strerror(ctypes.get_errno())}")
