# SPDX-License-Identifier: Apache-2.0
"""One file that is a whole model, such as `.onnx`, `.pt2` or `.skops`.

An ONNX graph brings its external data files, which must lie beside or below it.

Nothing is loaded and no `onnx` is needed: the names of external data are read from the protobuf wire format, along
the few fields of onnx.proto3 that lead to a tensor; weights inside the file are skipped, not read. Pinned by content.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from packager.errors import IntegrityError, SourceError
from packager.events import OnEvent
from packager.files import open_regular
from packager.sources import SINGLE_FILES, Pin, Settings, copy_pinned, local_path, pin_files, shown
from packager.types import Blob, check_path

EXTRA: str | None = None

_DEPTH = 64  # nested graphs
_CHILDREN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""onnx.proto3: message, field number, message of the field; the fields through which a tensor can be reached."""
_GRAPH, _DATA_LOCATION, _EXTERNAL = 7, 14, 1
_VARINT, _BYTES, _FIXED = 0, 2, {1: 8, 5: 4}  # wire types; groups (3, 4) are no part of proto3


def matches(ref: str) -> bool:
    """True for a path or `file:` URL that ends like a model of one file."""
    return local_path(ref, Path()) is not None and ref.lower().endswith(SINGLE_FILES)


def resolve(ref: str, settings: Settings) -> Pin:
    """Pin the file, and what belongs to it, by content."""
    path = _path(ref, settings)
    return pin_files("file", _files(path), settings, {"main": path.name})


def fetch(pin: Pin, settings: Settings, out: Path, on_event: OnEvent) -> Mapping[str, Blob]:
    """Copy the file and what belongs to it; what is there must be what was pinned."""
    return copy_pinned(pin, _files(_path(settings.ref, settings)), out, on_event)


def _path(ref: str, settings: Settings) -> Path:
    path = local_path(ref, settings.base) if ref else None
    if path is None or not os.path.lexists(path):
        raise SourceError(f"file `{shown(ref)}` does not exist", hint="paths start at the directory of the recipe")
    if path.is_symlink() or not path.is_file():
        kind = "a symbolic link" if path.is_symlink() else "not a regular file"
        raise SourceError(f"`{shown(ref)}` is {kind}", hint="name the file itself")
    return path


def _files(path: Path) -> dict[str, Path]:
    names = external_data(path) if path.suffix.lower() == ".onnx" else ()
    return {path.name: path} | {name: _beside(path, name) for name in names}


def _beside(path: Path, name: str) -> Path:
    """Return the external data file `name`, or say why it cannot be taken along."""
    try:
        parts = check_path(name).split("/")
    except IntegrityError as error:
        raise SourceError(f"`{path.name}` keeps weights elsewhere: {error.message}") from error
    steps = [path.parent.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)]
    if any(step.is_symlink() for step in steps):
        raise SourceError(
            f"external data `{name}` of `{path.name}` is a symbolic link", hint="put the file itself there"
        )
    if name == path.name or not steps[-1].is_file():
        raise SourceError(f"external data `{name}` of `{path.name}` is not there", hint=f"copy it beside `{path.name}`")
    return steps[-1]


def external_data(path: Path) -> tuple[str, ...]:
    """Return the names of the external data files that an ONNX file declares, sorted. Raises SourceError."""
    with open_regular(path) as file:
        if not os.fstat(file.fileno()).st_size:
            raise SourceError(f"`{path.name}` is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
            try:
                return tuple(sorted(set(_model_locations(view))))
            except (IndexError, ValueError) as error:
                raise SourceError(f"`{path.name}` is not an ONNX file, or is truncated: {error}") from error


def _model_locations(view: memoryview) -> Iterator[str]:
    if not any(number == _GRAPH and wire == _BYTES for number, wire, _, _ in _fields(view, 0, len(view))):
        raise ValueError("it holds no graph")
    yield from _locations(view, 0, len(view), "model", _DEPTH)


def _locations(view: memoryview, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    """Walk one message between two offsets and yield the `location` of every external tensor in it."""
    if depth == 0:
        raise ValueError("graphs are nested too deeply")
    external, entries = False, {}
    for number, wire, low, high in _fields(view, start, end):
        child = _CHILDREN[message].get(number) if wire == _BYTES else None
        if child == "entry":
            key, value = _entry(view, low, high)
            entries[key] = value
        elif child:
            yield from _locations(view, low, high, child, depth - 1)
        elif message == "tensor" and number == _DATA_LOCATION:
            external = low == _EXTERNAL
    if external and "location" not in entries:
        raise ValueError("an external tensor names no file")
    if external:
        yield entries["location"]


def _entry(view: memoryview, start: int, end: int) -> tuple[str, str]:
    """Read a StringStringEntryProto."""
    parts = {number: bytes(view[low:high]).decode() for number, _, low, high in _fields(view, start, end)}
    return parts.get(1, ""), parts.get(2, "")


def _fields(view: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, start, end) of each field; a varint's value stands in place of both offsets.

    https://protobuf.dev/programming-guides/encoding/
    """
    while start < end:
        tag, start = _varint(view, start)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            low, start = _varint(view, start)
            high, after = low, start
        else:
            size, low = _varint(view, start) if wire == _BYTES else (_FIXED.get(wire, end), start)
            high = after = low + size
        if number == 0 or after > end:
            raise ValueError(f"a field at byte {start} does not fit")
        yield number, wire, low, high
        start = after


def _varint(view: memoryview, start: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = view[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
    raise ValueError(f"a number at byte {start} does not end")
