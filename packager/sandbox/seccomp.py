# SPDX-License-Identifier: Apache-2.0
"""The system calls that a worker may make: a seccomp filter, as the bytes that the kernel reads.

An allow list, from traces of exporters and runtimes (`tests/matrix/calls.py`; their record is
`docs/measurements/system-calls.json`): what the traces hold, the older and newer forms of the same operations, which
other versions of the C library and the other architecture use in their place, and what else Python and Java use for
files, waiting, signals and processes of the step's own. Of calls that can do several things the argument decides. Any
other call fails: with EPERM, or with ENOSYS where it is so new that programs have to expect kernels without it, and go
on in an older way. A call of a foreign architecture ends the process.

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
_REFUSED, _ABSENT = _ERRNO | 1, _ERRNO | 38  # EPERM, ENOSYS
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in `struct seccomp_data`
_X32 = 0x40000000  # calls of the x32 ABI come under x86-64's name
_NEW = 449  # the first call of Linux 5.16; from 424 on numbers are the same everywhere
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2

_ALLOWED: Mapping[str, tuple[int | None, int | None]] = {  # number on x86-64, number on 64-bit Arm
    # data of open files
    "read": (0, 63),
    "readv": (19, 65),
    "pread64": (17, 67),
    "preadv": (295, 69),
    "write": (1, 64),
    "writev": (20, 66),
    "pwrite64": (18, 68),
    "pwritev": (296, 70),
    "lseek": (8, 62),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "ftruncate": (77, 46),
    "truncate": (76, 45),
    "fallocate": (285, 47),
    "fadvise64": (221, 223),
    "copy_file_range": (326, 285),
    "sendfile": (40, 71),
    "flock": (73, 32),
    # descriptors
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "creat": (85, None),
    "close": (3, 57),
    "close_range": (436, 436),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "fcntl": (72, 25),
    "pipe": (22, None),
    "pipe2": (293, 59),
    "eventfd": (284, None),
    "eventfd2": (290, 19),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "epoll_create": (213, None),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441),
    "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86),
    "timerfd_gettime": (287, 87),
    # names and attributes of files
    "stat": (4, None),
    "lstat": (6, None),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "getdents": (78, None),
    "getdents64": (217, 61),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "umask": (95, 166),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "getxattr": (191, 8),
    "lgetxattr": (192, 9),
    "fgetxattr": (193, 10),
    "listxattr": (194, 11),
    "llistxattr": (195, 12),
    "flistxattr": (196, 13),
    # memory
    "brk": (12, 214),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "mincore": (27, 232),
    "msync": (26, 227),
    "mlock": (149, 228),
    "mlock2": (325, 284),
    "munlock": (150, 229),
    "membarrier": (324, 283),
    "get_mempolicy": (239, 236),
    "set_mempolicy": (238, 237),
    "mbind": (237, 235),
    # processes and threads
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "wait4": (61, 260),
    "waitid": (247, 95),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "futex": (202, 98),
    "set_tid_address": (218, 96),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "arch_prctl": (158, None),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "sched_setaffinity": (203, 122),
    "sched_getparam": (143, 121),
    "sched_setparam": (142, 118),
    "sched_getscheduler": (145, 120),
    "sched_setscheduler": (144, 119),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "sched_getattr": (315, 275),
    "sched_rr_get_interval": (148, 127),
    "getpriority": (140, 141),
    "setpriority": (141, 140),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getpgid": (121, 155),
    "getpgrp": (111, None),
    "setpgid": (109, 154),
    "getsid": (124, 156),
    "setsid": (112, 157),
    "getcpu": (309, 168),
    # signals and time
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132),
    "pause": (34, None),
    "restart_syscall": (219, 128),
    "alarm": (37, None),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "time": (201, None),
    "gettimeofday": (96, 169),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "times": (100, 153),
    # users, limits, the system
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getgroups": (115, 158),
    "capget": (125, 90),
    "getrlimit": (97, 163),
    "setrlimit": (160, 164),
    "prlimit64": (302, 261),
    "getrusage": (98, 165),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "getrandom": (318, 278),
    # sockets
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "getsockopt": (55, 209),
    "setsockopt": (54, 208),
    "shutdown": (48, 210),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "sendmmsg": (307, 269),
    "recvmmsg": (299, 243),
}

_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
_FAMILIES = (1, 2, 10)  # unix, IPv4, IPv6
_NETLINK, _ROUTE = 16, 0  # the C library and Java list the interfaces of the machine with it
_PERSONALITIES = (0, 0x0040000, 0xFFFFFFFF)  # the ordinary one, without random addresses (engines need it), a question
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # put input into a terminal
# TCGETS, TIOCGPGRP, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_FILES = (0x5401, 0x540F, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_INTERFACES = (0x8910, 0x8912, 0x8913, 0x8915, 0x8919, 0x891B, 0x8921, 0x8927, 0x8933)  # SIOCGIF…: what `lo` is like
_OF_A_PROCESS = (1, 2, 3, 4, 15, 16, 21, 23, 29, 30, 38, 39, 41, 42, 51, 64, 0x53564D41)
"""For `prctl`: PDEATHSIG, DUMPABLE, NAME, GET_SECCOMP, CAPBSET_READ, TIMERSLACK, NO_NEW_PRIVS, THP_DISABLE, lengths of
vectors on Arm, SET_VMA (which names memory)."""
_MACHINES: Mapping[str, tuple[int, int, Mapping[str, int]]] = {
    "x86_64": (
        0,
        0xC000003E,
        {"clone": 56, "clone3": 435, "ioctl": 16, "personality": 135, "prctl": 157, "socket": 41, "socketpair": 53},
    ),
    "aarch64": (
        1,
        0xC00000B7,
        {"clone": 220, "clone3": 435, "ioctl": 29, "personality": 92, "prctl": 167, "socket": 198, "socketpair": 199},
    ),
}
"""By `platform.machine()`: column above, AUDIT_ARCH of linux/audit.h, and the calls whose arguments are looked at."""


def build_program(machine: str | None = None, *, gpu: bool = False) -> bytes | None:
    """Return the filter for a machine, this one by default; None where its calls are not known here.

    Drivers of GPUs are called by `ioctl` alone, with their own requests: with `gpu` all of those are allowed.
    """
    known = _MACHINES.get(machine or platform.machine())
    return None if known is None else b"".join(struct.pack("=HBBI", *row) for row in _rows(*known, gpu=gpu))


_Row = tuple[int, int, int, int]  # code, how many to skip if it holds, how many if it does not, operand
_REFUSE, _LET = (_RETURN, 0, 0, _REFUSED), (_RETURN, 0, 0, _ALLOW)


def _rows(column: int, architecture: int, looked_at: Mapping[str, int], *, gpu: bool) -> Iterator[_Row]:
    """Yield the instructions of the filter."""
    yield _LOAD, 0, 0, _ARCHITECTURE
    yield _EQUAL, 1, 0, architecture
    yield _RETURN, 0, 0, _KILL
    yield _LOAD, 0, 0, _NUMBER
    if column == 0:
        yield _AT_LEAST, 0, 1, _X32
        yield _RETURN, 0, 0, _KILL
    for numbers in _ALLOWED.values():
        if (number := numbers[column]) is not None:
            yield from _where(_EQUAL, number, [_LET])
    for name, rows in _arguments(gpu=gpu).items():
        yield from _where(_EQUAL, looked_at[name], rows)
    yield from _where(_AT_LEAST, _NEW, [(_RETURN, 0, 0, _ABSENT)])
    yield _REFUSE


def _arguments(*, gpu: bool) -> Mapping[str, Sequence[_Row]]:
    """Return how each call is decided that can do several things."""
    devices = _but(_TIOCSTI, _TIOCLINUX) if gpu else _only(*_FILES, *_INTERFACES)
    route = [_argument(2), *_only(_ROUTE)]
    return {
        "clone": [_argument(0), *_where(_ANY_BIT, _NAMESPACES, [_REFUSE]), _LET],
        "clone3": [(_RETURN, 0, 0, _ABSENT)],  # its flags lie in memory; the C library then takes `clone`
        "ioctl": [_argument(1), *devices],
        "personality": [_argument(0), *_only(*_PERSONALITIES)],
        "prctl": [_argument(0), *_only(*_OF_A_PROCESS)],
        "socket": [_argument(0), *_where(_EQUAL, _NETLINK, route), *_only(*_FAMILIES)],
        "socketpair": [_argument(0), *_only(_FAMILIES[0])],
    }


def _where(condition: int, operand: int, rows: Sequence[_Row]) -> list[_Row]:
    """Return rows that are passed over unless what was loaded is so."""
    return [(condition, 0, len(rows), operand), *rows]


def _argument(position: int) -> _Row:
    """Load the lower half of an argument, which is all that the kernel reads of those that are looked at."""
    return _LOAD, 0, 0, _ARGUMENTS + 8 * position


def _only(*values: int) -> list[_Row]:
    """Return rows that allow these values of what was loaded, and refuse any other."""
    return [*(row for value in values for row in _where(_EQUAL, value, [_LET])), _REFUSE]


def _but(*values: int) -> list[_Row]:
    """Return rows that refuse these values of what was loaded, and allow any other."""
    return [*(row for value in values for row in _where(_EQUAL, value, [_REFUSE])), _LET]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("rows", ctypes.c_char_p))


def install(code: bytes) -> None:
    """Put the calling process, and whatever it starts, under the filter for good. Raises StepError."""
    libc = ctypes.CDLL(None, use_errno=True)
    held = _Program(len(code) // 8, code)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(held), 0, 0):
        raise StepError(f"cannot filter the worker's system calls: {os.strerror(ctypes.get_errno())}")
