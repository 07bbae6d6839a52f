# SPDX-License-Identifier: Apache-2.0
"""Scanners of build inputs, one file each: they report whether a pickle does more than hold data.

A scanner is a module with `TOOLCHAIN` (the distributions it needs), `EXTRA` (what of ours brings them) and
`scan(file)`: it returns what is wrong with the file, one phrase each, and raises any exception where it cannot
decide. One that distinguishes the source's own code has `judge(file, own)` besides, which returns what is wrong
and what is worth saying; one without a distribution has a `VERSION`. It runs in the worker (packager.steps.scan),
limited in time, memory and network; a scanner that raises, hangs or dies has found nothing clean. Third parties add
theirs through the entry-point group `packager.scanners`.

What to scan is found here and not by the scanners: they know few containers, look into none twice, and stop at the
numbers that joblib writes between the instructions of a pickle.
"""

from __future__ import annotations

import ast
import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from packager.scanners import _packed, _reading

HEAD = 8  # bytes by which a file is recognised
_SUFFIXES = frozenset(
    {
        ".pkl",
        ".pickle",
        ".p",
        ".joblib",
        ".dill",
        ".cloudpickle",
        ".pt",
        ".pth",
        ".ckpt",
        ".pt2",
        ".mar",
        ".skops",
        ".npy",
        ".npz",
    }
)
_RAW = frozenset({".pkl", ".pickle", ".p", ".joblib", ".dill", ".cloudpickle", ".pth", ".pt", ".ckpt"})
_PICKLE = re.compile(rb"\x80[\x02\x03][}\]c(XKMq\x8a]|\x80[\x04\x05]\x95")
_ZIP, _NPY = b"PK\x03\x04", b"\x93NUMPY"
_DEEPEST = 4  # archives inside archives


def is_candidate(path: str, head: bytes) -> bool:
    """Say by its name or its first bytes whether a file may hold a pickle."""
    return _suffix(path) in _SUFFIXES or _holds(head) or _packed.is_packed(head)


def _holds(head: bytes) -> bool:
    return is_pickle(head) or head.startswith((_ZIP, _NPY))


def is_pickle(head: bytes) -> bool:
    """Say by its first bytes whether a file is a pickle, packed as joblib packs them or not.

    Of a packed file more than `HEAD` bytes must be given: the first of its blocks.
    """
    return bool(_PICKLE.match(_packed.read_beginning(head, HEAD) if _packed.is_packed(head) else head))


def find_pickles(file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every pickle in a file, in archives and archives in them too, with its position.

    Raises ValueError, OSError or zipfile.BadZipFile where something cannot be read to its end.
    """
    with file.open("rb") as source:
        yield from _inside(source, file.name, 0)


def _inside(source: BinaryIO, name: str, depth: int) -> Iterator[tuple[str, bytes]]:
    head = source.read(HEAD)
    if zipfile.is_zipfile(source):  # also behind other bytes: some readers look for the end only
        if depth == _DEEPEST:
            raise ValueError(f"`{name}` is an archive in {_DEEPEST} others")
        source.seek(0)
        with zipfile.ZipFile(source) as archive:
            yield from _members(archive, name, depth)
    elif head.startswith(_ZIP):
        raise ValueError(f"`{name}` is a damaged archive")
    source.seek(0)
    if head.startswith(_NPY):
        yield from _array(source, name)
    elif head.startswith(_ZIP):
        return
    elif depth == 0:
        yield from _whole(source.read(), name)
    elif _holds(head) or _suffix(name) in _RAW:
        yield name, source.read()


def _whole(data: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield what a candidate holds that is no container: it is taken for a pickle, packed text and tables are not."""
    if not _packed.is_packed(data):
        yield from _reading.split_pickles(name, data)
    elif is_pickle(data) or not _RAW.isdisjoint(PurePosixPath(name).suffixes):
        yield from _reading.split_pickles(name, _packed.unpack(data))


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _members(archive: zipfile.ZipFile, name: str, depth: int) -> Iterator[tuple[str, bytes]]:
    for info in archive.infolist():
        if info.is_dir():
            continue
        with archive.open(info) as member:
            wanted = is_candidate(info.filename, member.read(HEAD))
        if wanted:
            yield from _inside(io.BytesIO(archive.read(info)), f"{name}/{info.filename}", depth + 1)


def _array(source: BinaryIO, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield what follows the header of a numpy array of objects; any other holds numbers."""
    major = source.read(HEAD)[6]
    width = 2 if major == 1 else 4
    header = source.read(int.from_bytes(source.read(width), "little"))
    if "O" in str(ast.literal_eval(header.decode("latin-1").strip())["descr"]):
        yield name, source.read()
