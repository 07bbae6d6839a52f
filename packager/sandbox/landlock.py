# SPDX-License-Identifier: Apache-2.0
"""Landlock: a second guard of files, signals and sockets, where the kernel has it (5.13; scopes since 6.12).

Even a process that broke out of its mount namespace could still only read what it was shown, and write where it
was to write. Source: linux/landlock.h, docs.kernel.org/userspace-api/landlock.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Sequence

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_VERSION = 1  # flag of create_ruleset: return the version
_BENEATH = 1  # kind of a rule
_EXECUTE, _WRITE, _READ_FILE, _READ_DIRECTORY = 1, 2, 4, 8
_FILES, _REFER, _TRUNCATE, _DEVICE = (1 << 13) - 1, 1 << 13, 1 << 14, 1 << 15
_SCOPES = 3  # abstract sockets and signals
_OF_A_FILE = _EXECUTE | _WRITE | _READ_FILE | _TRUNCATE | _DEVICE
_READ = _EXECUTE | _READ_FILE | _READ_DIRECTORY


def read_version() -> int:
    """Return the version of Landlock's interface here, 0 without it."""
    return max(0, int(_call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))))


def restrict_process(readable: Sequence[str], writable: Sequence[str]) -> None:
    """Confine the calling process for good: paths to read and execute, paths to change. Raises OSError."""
    known = read_version()
    handled = _FILES | (_REFER if known >= 2 else 0) | (_TRUNCATE if known >= 3 else 0) | (_DEVICE if known >= 5 else 0)
    attributes = struct.pack("=Q", handled)
    if known >= 4:
        attributes += struct.pack("=Q", 0)
    if known >= 6:
        attributes += struct.pack("=Q", _SCOPES)
    rules = _call(_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    if rules < 0:
        raise OSError(ctypes.get_errno(), "Landlock")
    try:
        for path in readable:
            _allow(rules, path, _READ & handled)
        for path in writable:
            _allow(rules, path, handled)
        if _call(_RESTRICT, rules, ctypes.c_uint32(0)):
            raise OSError(ctypes.get_errno(), "Landlock")
    finally:
        os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            rights &= _OF_A_FILE
        if _call(_ADD, rules, ctypes.c_int(_BENEATH), struct.pack("=Qi", rights, handle), ctypes.c_uint32(0)):
            raise OSError(ctypes.get_errno(), f"Landlock: {path}")
    finally:
        os.close(handle)


def _call(number: int, *arguments: object) -> int:
    return int(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *arguments))
