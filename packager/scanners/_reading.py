# SPDX-License-Identifier: Apache-2.0
"""Read a pickle as joblib and Python read it, without executing it.

The reader is Python's own, the one that joblib opens files with, so that no second idea of frames, marks or the memo
can differ from it. What would be imported becomes a `Global`, what would be called a `Made`; both are inert. Whatever
an honest pickler never writes is refused: a frame that ends elsewhere than an instruction, a call of something that is
no import, a change to an import itself.

joblib writes the numbers of an array raw into the stream, after an object that says how many they are. They are skipped
here, and their positions kept.
"""

from __future__ import annotations

import io
import math
import pickle  # noqa: TID251 - as a reader only: what it finds stays text
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

from packager.scanners._dtypes import make_dtype, set_state

_ODD = "an array is described in a way joblib never does"
_STATED = {"subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes"}


@dataclass(frozen=True, slots=True)
class Global:
    """What a pickle imports, as the pair that its reader looks up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


_WRAPPERS = {Global(f"{position}joblib.numpy_pickle", "NumpyArrayWrapper") for position in ("", "sklearn.externals.")}
_RECONSTRUCTOR = Global("copyreg", "_reconstructor")
_SPENT = Global("", "")  # an object whose array was read: joblib would read another one behind it


class Made:
    """What a pickle makes by calling an import. It swallows what is put into it."""

    __slots__ = ("by",)

    def __init__(self, by: Global | None) -> None:
        self.by = by

    def append(self, item: object) -> None: ...

    def add(self, item: object) -> None: ...

    def extend(self, items: object) -> None: ...

    def __setitem__(self, key: object, item: object) -> None: ...


@dataclass(slots=True)
class Read:
    """What is in a pickle: its imports, the positions of raw numbers, and pickles of arrays of objects within those."""

    imports: set[Global] = field(default_factory=set)
    raw: list[tuple[int, int]] = field(default_factory=list)
    nested: list[bytes] = field(default_factory=list)
    end: int = 0
    fault: Exception | None = None


def read(data: bytes, start: int = 0, *, joblib: bool) -> Read:
    """Read one pickle; `joblib` ones hold raw arrays.

    What stopped the reader is the `fault`: whatever a damaged pickle provokes, and what honest picklers never write.
    """
    source = io.BytesIO(data)
    source.seek(start)
    reader = _Reader(source, len(data), Read(), joblib=joblib)
    try:
        reader.load()
        reader.check_frame("the end")
        if joblib and reader.wrappers:
            raise ValueError(_ODD)  # kept somewhere, from where joblib could make what is not seen here
    except Exception as error:
        reader.seen.fault = error
    reader.seen.end = source.tell()
    return reader.seen


class _Reader(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, source: io.BytesIO, size: int, seen: Read, *, joblib: bool) -> None:
        super().__init__(source)
        self.source, self.size, self.seen, self.joblib = source, size, seen, joblib
        self.wrappers = 0  # how often what describes an array came onto the stack, less the arrays that followed

    def find_class(self, module: str, name: str) -> Any:
        if self._now.proto < 3:
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        found = Global(module, name)
        self.seen.imports.add(found)
        self.wrappers += found in _WRAPPERS
        return found

    def persistent_load(self, pid: Any) -> Any:
        return Made(None)  # torch's numbers, which lie beside the pickle

    def get_extension(self, code: int) -> NoReturn:
        raise ValueError("it imports by number, from a table that is not in the file")

    @property
    def _now(self) -> Any:
        """Return itself, as the reader that is at work: its stack and frames have no public type."""
        return self

    def _call(self, called: Any, arguments: Any) -> Any:
        if not isinstance(called, Global):
            raise ValueError("it calls something that is not an import")
        if called == _RECONSTRUCTOR and len(arguments) == 3 and isinstance(arguments[0], Global):
            return Made(arguments[0])  # how the oldest protocols make an object
        if called in _WRAPPERS and arguments:
            raise ValueError(_ODD)
        simple = isinstance(arguments, tuple) and len(arguments) and isinstance(arguments[0], str)
        if str(called) == "numpy.dtype" and simple and len(arguments) <= 3 and len(arguments[0]) < 100:
            return make_dtype(arguments)
        return Made(called)

    def _instantiate(self, called: Any, arguments: Any) -> None:
        self._now.append(self._call(called, arguments))

    def load_reduce(self) -> None:
        stack = self._now.stack
        arguments = stack.pop()
        stack[-1] = self._call(stack[-1], arguments)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        stack = self._now.stack
        arguments = stack.pop()
        made = self._call(stack.pop(), arguments)
        self._now.append(made)

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self) -> None:
        stack = self._now.stack
        stack.pop()
        self.load_newobj()

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def load_build(self) -> None:
        stack = self._now.stack
        state = stack.pop()
        built = stack[-1]
        if type(built).__module__.partition(".")[0] == "numpy" and hasattr(built, "itemsize"):
            set_state(built, state)
        elif not isinstance(built, Made):
            raise ValueError("it changes what it did not make")
        elif self.joblib and built.by in _WRAPPERS:
            self._skip_array(state)
            self.wrappers -= 1
            built.by = _SPENT
        elif built.by is _SPENT:
            raise ValueError(_ODD)

    dispatch[pickle.BUILD[0]] = load_build

    def load_binget(self) -> None:
        self._got(pickle._Unpickler.dispatch[pickle.BINGET[0]])

    dispatch[pickle.BINGET[0]] = load_binget

    def load_long_binget(self) -> None:
        self._got(pickle._Unpickler.dispatch[pickle.LONG_BINGET[0]])

    dispatch[pickle.LONG_BINGET[0]] = load_long_binget

    def load_get(self) -> None:
        self._got(pickle._Unpickler.dispatch[pickle.GET[0]])

    dispatch[pickle.GET[0]] = load_get

    def _got(self, load: Any) -> None:
        load(self)
        self.wrappers += self._now.stack[-1] in _WRAPPERS if isinstance(self._now.stack[-1], Global) else 0

    def load_dup(self) -> NoReturn:
        raise ValueError("it has an instruction that no pickler writes")

    dispatch[pickle.DUP[0]] = load_dup

    def load_frame(self) -> None:
        size = int.from_bytes(self._now.read(8), "little")
        self.check_frame("the next frame")
        if size > self.size - self.source.tell():
            raise ValueError("a frame is longer than the file")
        self._now._unframer.load_frame(size)

    dispatch[pickle.FRAME[0]] = load_frame

    def check_frame(self, what: str) -> None:
        """Raise ValueError if a frame is not over."""
        frame = self._now._unframer.current_frame
        if frame is not None and frame.tell() < len(frame.getbuffer()):
            raise ValueError(f"a frame is not over before {what}")

    def _skip_array(self, state: Any) -> None:
        """Step over what follows the description of an array: padding and numbers, or a pickle of its objects."""
        dtype, count = self._described(state)
        self.check_frame("the numbers of an array")
        start = self.source.tell()
        if dtype.hasobject:
            inner = _Reader(self.source, self.size, self.seen, joblib=False)
            inner.load()
            inner.check_frame("the end of an array")
            self.seen.nested.append(self.source.getbuffer()[start : self.source.tell()].tobytes())
        else:
            padded = state.get("numpy_array_alignment_bytes") is not None
            self.source.seek(self.source.read(1)[0] if padded else 0, io.SEEK_CUR)
            self.source.seek(count * dtype.itemsize, io.SEEK_CUR)
        if self.source.tell() > self.size:
            raise ValueError("an array is longer than the file")
        self.seen.raw.append((start, self.source.tell()))
        self._now.stack[-1] = Made(Global("numpy", "ndarray"))

    def _described(self, state: Any) -> tuple[Any, int]:
        """Return the dtype and number of elements of an array. Raises ValueError for what joblib never writes."""
        if not isinstance(state, dict) or not set(state) <= _STATED:
            raise ValueError(_ODD)
        dtype, shape = state.get("dtype"), state.get("shape")
        known = hasattr(dtype, "hasobject") and isinstance(shape, tuple)
        if not known or not all(type(length) is int and length >= 0 for length in shape or ()):
            raise ValueError("an array has no plain type or shape")
        return dtype, math.prod(shape or ())


def split_pickles(name: str, data: bytes) -> list[tuple[str, bytes]]:
    """Return the pickles in a file of joblib: the outer one without raw numbers, and those of arrays of objects.

    A file without raw numbers is what it is. Raises ValueError for one where it is unclear what is a number: a reader
    that does not know joblib's arrays would see another pickle in it.
    """
    seen = read(data, joblib=True)
    if seen.fault and not _WRAPPERS.isdisjoint(seen.imports):
        raise ValueError(f"`{name}` is no whole file of joblib: {seen.fault}")
    if seen.fault or not seen.raw:
        return [(name, data)]
    positions = [0, *(position for span in seen.raw for position in span), len(data)]
    outer = b"".join(data[start:end] for start, end in zip(positions[::2], positions[1::2], strict=True))
    return [(name, outer), *((f"{name}[{index}]", inner) for index, inner in enumerate(seen.nested))]
