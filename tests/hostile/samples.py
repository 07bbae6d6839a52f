# SPDX-License-Identifier: Apache-2.0
"""Write hostile model sources, each with one line that says why it must fail. The payloads are harmless and loud.

A payload that runs creates the canary file and ends its process with status 99, so that even where it could not reach
the canary (inside the sandbox) the command would end in another way than the test expects.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

EXIT = 99


@dataclass(frozen=True)
class Sample:
    """`write` fills an empty directory and returns the source; `code` and `words` are what the refusal must be."""

    why: str
    write: Callable[[Path, str], str]
    code: int
    words: str
    recipe: str = ""


class Payload:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def code(canary: str) -> str:
    return f"import os\ntry: open({canary!r}, 'w').close()\nfinally: os._exit({EXIT})"


def _system(canary: str) -> bytes:
    return pickle.dumps(Payload(os.system, f"touch {canary}; kill -9 $PPID"), 2)


def _eval(canary: str) -> bytes:
    return pickle.dumps(Payload(eval, f"exec({code(canary)!r})"), 2)


def _file(name: str, make: Callable[[str], bytes], inside: str = "") -> Callable[[Path, str], str]:
    """Write one file; the source is the file, or with `inside` the directory."""

    def write(folder: Path, canary: str) -> str:
        (folder / name).write_bytes(make(canary))
        return "./model" if inside else f"./model/{name}"

    return write


def _runpy(folder: Path, canary: str) -> str:
    import runpy

    (folder / "side.py").write_text(code(canary))
    (folder / "model.pkl").write_bytes(pickle.dumps(Payload(runpy.run_path, str(folder / "side.py")), 2))
    return "./model/model.pkl"


def _getattr(canary: str) -> bytes:
    """Reach `os.system` through importlib and getattr: `os` is in no opcode that imports."""
    text = f"touch {canary}; kill -9 $PPID".encode()
    return (
        b"\x80\x02cimportlib\nimport_module\nX\x02\x00\x00\x00os\x85Rq\x000cbuiltins\ngetattr\nh\x00X\x06\x00\x00\x00system\x86R"
        b"X" + struct.pack("<I", len(text)) + text + b"\x85R."
    )


def _zipped(canary: str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("archive/data.pkl", _system(canary))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return sink.getvalue()


def _bad_crc(canary: str) -> bytes:
    data = bytearray(_zipped(canary))
    place = data.find(b"PK\x01\x02")
    data[place + 16 : place + 20] = b"\0\0\0\1"
    return bytes(data)


def _object_array(canary: str) -> bytes:
    sink = io.BytesIO()
    array = np.empty(1, dtype=object)
    array[0] = Payload(exec, code(canary))
    np.save(sink, array, allow_pickle=True)
    return sink.getvalue()


def _legacy(canary: str) -> bytes:
    import torch

    sink = io.BytesIO()
    torch.save({"w": torch.zeros(2), "evil": Payload(exec, code(canary))}, sink, _use_new_zipfile_serialization=False)
    return sink.getvalue()


def _new(canary: str) -> bytes:
    import torch

    sink = io.BytesIO()
    torch.save({"w": torch.zeros(2), "evil": Payload(exec, code(canary))}, sink)
    return sink.getvalue()


def _program(canary: str) -> bytes:
    """An honest `.pt2` whose example inputs are replaced by a pickle that runs code."""
    import torch

    honest, sink = io.BytesIO(), io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(4, 2).eval(), (torch.zeros(2, 4),)), honest)
    with zipfile.ZipFile(honest) as old, zipfile.ZipFile(sink, "w") as new:
        for name in old.namelist():
            new.writestr(name, _new(canary) if name.endswith("sample_inputs/model.pt") else old.read(name))
    return sink.getvalue()


def _bomb(canary: str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("schema.json", b" " * (200 << 20))
    return sink.getvalue()


def _distribution(canary: str) -> bytes:
    """An estimator that keeps a distribution of SciPy: setting the state of one executes text."""
    import copy

    import scipy.stats
    import skops.io
    from sklearn.linear_model import LogisticRegression

    model, sink = LogisticRegression().fit(np.eye(4), [0, 1, 0, 1]), io.BytesIO()
    model.more = copy.deepcopy(scipy.stats.norm)
    model.more._parse_arg_template = f"exec({code(canary)!r})\ndef _parse_args(self): pass\n"
    skops.io.dump(model, sink)
    return sink.getvalue()


def _said(text: bytes) -> Callable[[Path, str], str]:
    """Write an MLflow directory with this `MLmodel`."""

    def write(folder: Path, canary: str) -> str:
        (folder / "MLmodel").write_bytes(text)
        return "./model"

    return write


_ALIASES = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))


# graphs


def _graph(nodes: Any = None, constants: Any = (), domain: str = "") -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    nodes = nodes or [helper.make_node("Add", ["x", "w"], ["y"], domain=domain)]
    made = helper.make_graph(nodes, "g", values[:1], values[1:], list(constants))
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def _outside(dims: tuple[int, ...] = (4,), **entries: str) -> Any:
    made = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "w.bin", "length": "16", **entries}.items():
        made.external_data.add(key=key, value=value)
    return made


def _onnx(make: Callable[[], bytes], *, single: bool = False) -> Callable[[Path, str], str]:
    """Write a graph beside 16 bytes of weights; `single` names the file itself as the source."""

    def write(folder: Path, canary: str) -> str:
        (folder / "model.onnx").write_bytes(make())
        (folder / "w.bin").write_bytes(bytes(16))
        (folder.parent / "secret.bin").write_bytes(bytes(16))
        return "./model/model.onnx" if single else "./model"

    return write


def _lie(dims: tuple[int, ...] = (4,), **entries: str) -> Callable[[Path, str], str]:
    return _onnx(lambda: _graph(constants=[_outside(dims, **entries)]))


def _linked(folder: Path, canary: str) -> str:
    write = _lie()
    write(folder, canary)
    (folder / "w.bin").unlink()
    (folder / "w.bin").symlink_to("../secret.bin")
    return "./model"


def _deep() -> bytes:
    def field(number: int, data: bytes) -> bytes:
        head, length = bytes([number << 3 | 2]), len(data)
        while length > 127:
            head, length = head + bytes([length & 127 | 128]), length >> 7
        return head + bytes([length]) + data

    inner = b""
    for _ in range(2000):
        inner = field(1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, inner)))
    return field(7, inner)


def _terabyte() -> bytes:
    shape = numpy_helper.from_array(np.array([2**20, 2**20]), "s")
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["z"]),
        helper.make_node("ReduceSum", ["z"], ["r"], keepdims=0),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    return _graph(nodes, [shape])


# safetensors

_CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "vocab_size": 64,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def _weights(make: Callable[[str], bytes]) -> Callable[[Path, str], str]:
    def write(folder: Path, canary: str) -> str:
        (folder / "config.json").write_text(json.dumps(_CONFIG))
        (folder / "model.safetensors").write_bytes(make(canary))
        return "./model"

    return write


def _overlap(canary: str) -> bytes:
    tensors = {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"}
    header = json.dumps(tensors).encode()
    return struct.pack("<Q", len(header)) + header + bytes(8)


# directories and archives


def _link(folder: Path, canary: str) -> str:
    (folder / "model.onnx").symlink_to("/etc/passwd")
    return "./model"


def _pipe(folder: Path, canary: str) -> str:
    os.mkfifo(folder / "model.onnx")
    return "./model"


def _twins(folder: Path, canary: str) -> str:
    (folder / "model.onnx").write_bytes(_graph(constants=[numpy_helper.from_array(np.zeros(4, "f"), "w")]))
    (folder / "Model.onnx").write_bytes(b"evil")
    return "./model"


def _tar(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[[Path, str], str]:
    def write(folder: Path, canary: str) -> str:
        with tarfile.open(folder / "model.bundle.tar", "w") as archive:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, 1 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"x"))
        return "./model/model.bundle.tar"

    return write


_PICKLE = "is a pickle: opening it runs the code inside"
_ALLOWED = "allow-pickle: true\npolicy: dev\ninputs: {x: {dtype: float32, shape: [batch, 4]}}\n"

SAMPLES: dict[str, Sample] = {
    "pickle-os-system": Sample("the plainest: unpickling calls a shell", _file("m.pkl", _system), 4, _PICKLE),
    "pickle-eval": Sample("unpickling evaluates text", _file("m.pkl", _eval), 4, _PICKLE),
    "pickle-runpy": Sample("a module of the standard library that block lists forget", _runpy, 4, _PICKLE),
    "pickle-getattr": Sample("the dangerous name is in no import", _file("m.pkl", _getattr), 4, _PICKLE),
    "pickle-broken-tail": Sample(
        "it ran before the parser failed, so scanners gave up",
        _file("m.pkl", lambda c: _system(c)[:-1] + b"\xff\xfe\0x"),
        4,
        _PICKLE,
    ),
    "pickle-in-zip": Sample("a torch archive made by hand", _file("m.pt", _zipped, "dir"), 4, _PICKLE),
    "pickle-bad-crc": Sample(
        "torch loads it, zip readers and scanners do not", _file("m.pt", _bad_crc, "dir"), 4, _PICKLE
    ),
    "pickle-named-onnx": Sample(
        "a pickle behind the name of a graph", _file("m.onnx", _system), 3, "is not an ONNX file"
    ),
    "pickle-object-array": Sample(
        "numpy unpickles arrays of objects", _file("m.npy", _object_array, "dir"), 3, "no model of a known kind"
    ),
    "pickle-named-safetensors": Sample(
        "a pickle behind the name of weights", _weights(_system), 4, "its header claims", "policy: dev\n"
    ),
    "torch-save": Sample("torch.save of anything is a pickle", _file("m.pth", _new, "dir"), 4, _PICKLE),
    "torch-legacy": Sample("the old format, which a scanner calls clean", _file("m.pth", _legacy, "dir"), 4, _PICKLE),
    "torch-legacy-allowed": Sample(
        "and not even a recipe that allows pickles opens it",
        _file("m.pth", _legacy, "dir"),
        4,
        "format from before 1.6",
        _ALLOWED,
    ),
    "pt2-with-a-pickle": Sample(
        "torch.export.load unpickles example inputs",
        _file("m.pt2", _program),
        4,
        "can only be opened by running code",
        "policy: dev\n",
    ),
    "skops-bomb": Sample("200 KB that unpack to 200 MB of JSON", _file("m.skops", _bomb), 4, "unpacks to"),
    "skops-distribution": Sample(
        "a class of SciPy that executes text when its state is set",
        _file("m.skops", _distribution),
        4,
        "is not on the list of types known to be safe",
    ),
    "mlmodel-deep": Sample(
        "a hundred thousand nested lists exhaust the stack", _said(b"flavors: " + b"[" * 100_000), 3, "`MLmodel`"
    ),
    "mlmodel-code": Sample(
        "YAML can name functions", _said(b"flavors: !!python/object/apply:os.system [id]"), 3, "`MLmodel` is not YAML"
    ),
    "mlmodel-aliases": Sample(
        "written as text, its path is longer than any memory",
        _said(f"a0: &a0 [x]\n{_ALIASES}flavors: {{sklearn: {{pickled_model: *a29, data: *a29}}}}".encode()),
        3,
        "the files of MLflow's flavor `sklearn`",
    ),
    "onnx-parent": Sample(
        "weights outside of the model",
        _onnx(lambda: _graph(constants=[_outside(location="../secret.bin")]), single=True),
        3,
        "keeps weights elsewhere",
    ),
    "onnx-parent-in-directory": Sample(
        "the same where no file list is made", _lie(location="../secret.bin"), 4, "keeps its data elsewhere"
    ),
    "onnx-absolute": Sample("weights from the system", _lie(location="/etc/passwd"), 4, "keeps its data elsewhere"),
    "onnx-backslash": Sample(
        "a path that leaves the directory on Windows", _lie(location="..\\secret.bin"), 4, "keeps its data elsewhere"
    ),
    "onnx-device": Sample(
        "weights without end", _lie(location="../../../../../dev/zero"), 4, "keeps its data elsewhere"
    ),
    "onnx-symlink": Sample("weights through a link", _linked, 3, "is a symbolic link"),
    "onnx-huge-length": Sample("onnx.checker accepts it", _lie(length=str(2**62)), 4, "expected a whole number"),
    "onnx-length": Sample("more than the file has", _lie((5,), length="20"), 4, "needs 20 bytes"),
    "onnx-negative-offset": Sample("onnx.checker accepts it", _lie(offset="-8"), 4, "expected a whole number"),
    "onnx-huge-dimensions": Sample("their product overflows", _lie((2**31, 2**31)), 4, "more than any file holds"),
    "onnx-unknown-keys": Sample(
        "they reach attributes of loaders", _lie(__class__="x", file_handle="y"), 4, "other keys than ONNX has"
    ),
    "onnx-domain": Sample(
        "an operator that only foreign code can run",
        _onnx(lambda: _graph(domain="com.evil")),
        4,
        "is of the domain `com.evil`",
    ),
    "onnx-deep": Sample("2000 nested graphs exhaust the stack", _onnx(_deep), 4, "nested deeper than 16"),
    "onnx-terabyte": Sample("145 bytes that ask for 4 TiB at run time", _onnx(_terabyte), 4, "out of constants"),
    "onnx-two-graphs": Sample(
        "parsers differ about which one counts", _onnx(lambda: _graph(constants=[_outside()]) * 2), 4, "is there twice"
    ),
    "safetensors-overlap": Sample("two tensors in the same bytes", _weights(_overlap), 4, "two tensors overlap"),
    "safetensors-huge-header": Sample(
        "a header of 4 EiB", _weights(lambda c: struct.pack("<Q", 2**62) + b"{}"), 4, "its header claims"
    ),
    "directory-link": Sample("a source reads another file of this machine", _link, 3, "is a symbolic link"),
    "directory-pipe": Sample("reading never ends", _pipe, 3, "is not a regular file"),
    "directory-twins": Sample("one file system has two files, another one", _twins, 5, "collides"),
    "tar-traversal": Sample("unpacking writes outside", _tar("../PWNED"), 5, "model.bundle.tar"),
    "tar-absolute": Sample("unpacking writes anywhere", _tar("/PWNED"), 5, "model.bundle.tar"),
    "tar-symlink": Sample("unpacking goes through a link", _tar("d", tarfile.SYMTYPE, ".."), 5, "model.bundle.tar"),
    "tar-gzip": Sample(
        "an archive of another form than the one valid one",
        _file("m.bundle.tar", lambda c: gzip.compress(bytes(10240))),
        5,
        "m.bundle.tar",
    ),
}
"""By name; ruff would break the one line each into five."""
