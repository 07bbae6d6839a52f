# SPDX-License-Identifier: Apache-2.0
"""Random small ONNX graphs, each drafted, exported, measured and promised, then asked at sizes that the file itself takes.

`python -m tests.matrix.fuzz_graphs FIRST COUNT [FILE]` judges the graphs of these seeds in this process and appends one
row of JSON each to FILE. A graph has one to three inputs of any rank, axes with names as exporters write them (`?`,
`unk__3`, none at all, one name for two), ties between them, and operators that care for lengths. What is held: the draft
builds, no length that is promised fails, and no length is refused that the file takes; the server opens it, warms up,
answers bodies of these lengths with the file's own numbers, and refuses none that the file takes. No socket is opened.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime
import orjson
from onnx import TensorProto, helper, numpy_helper

from packager import canonical, plugins
from packager.build import build
from packager.contract import contract, derivation
from packager.errors import PackagerError
from packager.exporters._interface import described, sizes
from packager.lock import draft
from packager.recipe import recipe as recipes
from packager.server import config
from packager.server.errors import RequestError
from packager.server.execution import session as model
from packager.server.execution.warm_up import WarmUpInputs
from packager.server.protocol import protocol
from packager.server.protocol.tensors import DATATYPES
from packager.steps import _cases, export, look, measure
from tests.matrix.verdicts import LEVEL, Row, findings

_NAMES = (
    "?",
    "unk__7",
    "N",
    "batch",
    "batch_size",
    "DynamicDimension.0",
    "seq len",
    "",
    None,
    "s0",
    "Ünïcode",
    "-1",
    "None",
)
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_LENGTHS = (1, 2, 3, 4, 5, 6, 8, 9, 12, 16, 17, 31, 32, 64, 65, 100, 128)
_NUMPY = {datatype: name for name, datatype in DATATYPES.items()}
_SECONDS = (0.05, 0.1, 0.4, 2.0)  # of processor time that a graph is run for while it is looked into: often too few

_LARGEST = 1 << 19  # elements of an input that is looked at or measured: larger ones take seconds each


@dataclass
class Making:
    """A graph in the making: `axes` are names of lengths, which an input may write otherwise than another."""

    random: Random
    opset: int
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    count: int = 0

    def name(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        made = self.name()
        self.nodes.append(helper.make_node(kind, inputs, [made], **attributes))
        return made

    def weight(self, values: Any) -> str:
        made = self.name()
        self.weights.append(numpy_helper.from_array(np.asarray(values), made))
        return made


Tensor = tuple[str, int, list[int | str]]  # a name, its type, and its axes: a number, or the name of a length


def graph(seed: int) -> Any:
    """Return a model; the seed decides everything."""
    random = Random(seed)
    making = Making(random, random.choice((9, 11, 13, 15, 17, 18, 20)))
    lengths = [f"L{place}" for place in range(random.randint(1, 3))]
    kind = random.choice(_FLOATS)
    found = [_input(making, lengths, kind) for _ in range(random.randint(1, 3))]
    for _ in range(random.randint(1, 5)):
        place = random.randrange(len(found))
        found[place] = random.choice(_STEPS)(making, found[place])
    for place in range(1, len(found)):
        if found[0][2] == found[place][2] and found[0][1] == found[place][1] and random.random() < 0.7:
            name = making.add(random.choice(("Add", "Mul", "Sub")), [found[0][0], found[place][0]])
            found[0] = (name, *found[0][1:])
    outputs = []
    for name, element, axes in found[: random.randint(1, len(found))]:
        stated = [axis if isinstance(axis, int) else random.choice(("out", None, axis)) for axis in axes]
        final = making.add("Identity", [name])
        outputs.append(helper.make_tensor_value_info(final, element, stated))
    made = helper.make_graph(making.nodes, f"g{seed}", making.inputs, outputs, making.weights)
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", making.opset)], ir_version=random.choice((4, 7, 8))
    )
    return model


def _input(making: Making, lengths: list[str], kind: int) -> Tensor:
    random, name = making.random, f"in{len(making.inputs)}"
    axes: list[int | str] = [
        random.choice((*lengths, *lengths, random.choice((1, 2, 3, 8)))) for _ in range(random.choice((1, 2, 2, 3, 4)))
    ]
    shown = [
        axis if isinstance(axis, int) else random.choice((axis, random.choice(_NAMES), random.choice(_NAMES)))
        for axis in axes
    ]
    element = random.choice((kind, kind, kind, TensorProto.INT64)) if len(axes) < 3 else kind
    making.inputs.append(helper.make_tensor_value_info(name, element, shown))
    if element == TensorProto.INT64:  # ids of a vocabulary, modulo its size, so that any number runs
        table = making.weight(np.linspace(-1, 1, 7 * 2).reshape(7, 2).astype(helper.tensor_dtype_to_np_dtype(kind)))
        rest = making.add("Mod", [name, making.weight(np.array(7, "int64"))]) if making.opset > 9 else name
        if rest == name:
            return making.add("Cast", [name], to=kind), kind, axes
        return making.add("Gather", [table, rest]), kind, [*axes, 2]
    return name, element, axes


def _unary(making: Making, given: Tensor) -> Tensor:
    name, kind, axes = given
    return (
        making.add(
            making.random.choice(("Abs", "Neg", "Sigmoid", "Tanh") if kind != TensorProto.DOUBLE else ("Abs", "Neg")),
            [name],
        ),
        kind,
        axes,
    )


def _transposed(making: Making, given: Tensor) -> Tensor:
    name, kind, axes = given
    order = list(range(len(axes)))
    making.random.shuffle(order)
    return making.add("Transpose", [name], perm=order), kind, [axes[place] for place in order]


def _doubled(making: Making, given: Tensor) -> Tensor:
    name, kind, axes = given
    place = making.random.randrange(len(axes))
    grown = [2 * axis if isinstance(axis, int) else f"2*{axis}" for axis in axes[place : place + 1]]
    return making.add("Concat", [name, name], axis=place), kind, [*axes[:place], *grown, *axes[place + 1 :]]


def _summed(making: Making, given: Tensor) -> Tensor:
    name, kind, axes = given
    if len(axes) < 2 or making.opset >= 18:
        return given
    place = making.random.randrange(len(axes))
    return making.add("ReduceMean", [name], axes=[place], keepdims=0), kind, [*axes[:place], *axes[place + 1 :]]


def _multiplied(making: Making, given: Tensor) -> Tensor:
    name, kind, axes = given
    if not isinstance(axes[-1], int) or len(axes) < 2:
        return given
    weight = making.random.random() + np.linspace(0, 1, axes[-1] * 3).reshape(axes[-1], 3)
    made = making.add("MatMul", [name, making.weight(weight.astype(helper.tensor_dtype_to_np_dtype(kind)))])
    return made, kind, [*axes[:-1], 3]


def _paired(making: Making, given: Tensor) -> Tensor:
    """Take the last axis in pieces of two or four: only multiples run."""
    name, kind, axes = given
    if isinstance(axes[-1], int):
        return given
    size = making.random.choice((2, 4))
    shape = making.weight(np.array([*([0] * (len(axes) - 1)), -1, size], "int64"))
    return making.add("Reshape", [name, shape]), kind, [*axes[:-1], f"{axes[-1]}/{size}", size]


def _cut(making: Making, given: Tensor) -> Tensor:
    """Leave out the first two of an axis: shorter lengths leave nothing, and `ReduceMax` of nothing fails."""
    name, kind, axes = given
    if making.opset < 10 or kind == TensorProto.FLOAT16:
        return given
    place = len(axes) - 1
    ends = [making.weight(np.array([number], "int64")) for number in (2, 1 << 40, place)]
    made = making.add("Slice", [name, *ends])
    left = axes[-1] - 2 if isinstance(axes[-1], int) else f"{axes[-1]}-2"
    return (made, kind, [*axes[:-1], left]) if not isinstance(left, int) or left > 0 else given


def _pooled(making: Making, given: Tensor) -> Tensor:
    name, kind, axes = given
    if len(axes) != 3 or kind != TensorProto.FLOAT:
        return given
    made = making.add("MaxPool", [name], kernel_shape=[3], strides=[2])
    return made, kind, [*axes[:-1], f"({axes[-1]}-1)/2" if isinstance(axes[-1], str) else max((axes[-1] - 1) // 2, 1)]


_STEPS = (_unary, _transposed, _doubled, _summed, _multiplied, _paired, _cut, _pooled)


def judge(seed: int) -> Row | None:
    """Take a graph from draft to promise; None for one that ONNX Runtime does not run at any size."""
    title = str(seed)
    smaller = patch.object(described, "_ELEMENTS", _LARGEST), patch.object(_cases, "_BYTES", 8 * _LARGEST)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), smaller[0], smaller[1]:
        warnings.simplefilter("ignore")
        place = Path(folder, "source")
        place.mkdir()
        try:
            onnx.save(graph(seed), place / "net.onnx")
            session = _session(place / "net.onnx")
        except Exception:
            return None
        if not any(_runs(session, lengths) for lengths in _tried(session, seed)):
            return None
        try:
            promise = _built(place, Path(folder, "out"), Random(seed).choice(_SECONDS))
            served = None if isinstance(promise, str) else Served.of(promise, Path(folder, "out"))
        except PackagerError as error:
            poor = "" if error.hint else "-poor"
            return Row("graphs", title, f"refused{poor or '-clear'}", reason=f"{error.message} / {error.hint}"[:300])
        except Exception as error:
            return Row("graphs", title, "crash", reason=f"{type(error).__name__}: {error}"[:300])
        if isinstance(promise, str):
            return Row("graphs", title, "refused-poor", reason=promise[:300])
        refuted = next(_refuted(session, promise, served), "")
        return Row("graphs", title, "wrong" if refuted else "right", reason=refuted)


def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _built(place: Path, out: Path, seconds: float) -> contract.Contract | str:
    """Return what a build of the untouched draft promises, or the finding that refuses it."""
    out.mkdir()

    def inside(files: Any, kind: str, payload: str) -> Any:
        with patch.dict(sizes.explore.__kwdefaults__, clock=time.process_time):  # whatever else the machine does
            return look.run({"source": place}, out, {"kind": kind, "payload": payload, "seconds": seconds})

    known = draft.inspect_source("net.onnx", place, None, inside)
    parsed = recipes.parse(draft.draft("net.onnx", known), "bundle.yaml", plugins.list_names("runtimes"))
    params = {"kind": "onnx", "payload": "net.onnx", **LEVEL, **build._export_options(parsed)}
    facts = export.run({"source": place}, out, params)
    given = {**params, "interface": facts["interface"], "ranges": facts["ranges"], "runtime": "onnxruntime"}
    done = measure.run({"source": place, "artefact": out}, out, {**given, "path": "model/model.onnx"})
    if refused := findings(facts["interface"], done):
        return f"parity: {refused[0]}"
    paths = {target.name: "model/model.onnx" for target in parsed.targets()}
    written = canonical.dump(derivation.derive(parsed, facts, paths, {}, {name: {} for name in paths}))
    (out / "contract.json").write_bytes(written)
    return contract.parse(written)


@dataclass(frozen=True)
class Served:
    """A built graph as the server has it, behind the socket: a body goes in, a body comes out."""

    config: config.Config
    session: model.Session

    @staticmethod
    def of(promise: contract.Contract, out: Path) -> Served:
        """Open and warm up what was built in `out`, as the server does when it starts."""
        stated = json.loads((out / "contract.json").read_bytes())
        kept = {key: stated[key] for key in ("ranges", "values", "missing", "interface") if key in stated}
        name, target = next(iter(stated["targets"].items()))
        words = {"name": "g", "version": "1", "digest": "sha256:0", "runtime": target["runtime"], "target": name}
        (out / "serve.json").write_bytes(canonical.dump({**kept, **words, "artefact": target["path"]}))
        found = config.read(out / "serve.json")
        session = model.load(found, 1)
        model.warm_up(session, WarmUpInputs.of(found))
        return Served(found, session)

    def answer(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Return the outputs of a request with binary data. Raises RequestError for what the server refuses."""
        listed = [
            {
                "name": port.name,
                "datatype": port.datatype,
                "shape": list(feeds[port.name].shape),
                "parameters": {"binary_data_size": feeds[port.name].nbytes},
            }
            for port in self.config.interface.inputs
        ]
        document = orjson.dumps({"inputs": listed, "parameters": {"binary_data_output": True}})
        tail = b"".join(feeds[port.name].tobytes() for port in self.config.interface.inputs)
        request = protocol.parse(document + tail, len(document), self.config.interface)
        results = self.session.run(request.feeds)
        named = dict(zip((port.name for port in self.session.outputs), results, strict=True))
        reply = protocol.render(request, named, "g", "1")
        found, start = [], reply.header_length
        for item in orjson.loads(reply.body[:start])["outputs"]:
            end = start + item["parameters"]["binary_data_size"]
            found.append(np.frombuffer(reply.body[start:end], _NUMPY[item["datatype"]]).reshape(item["shape"]))
            start = end
        return found


def _tried(session: Any, seed: int) -> Iterator[list[list[int]]]:
    """Yield shapes of all inputs as the file states them, free axes at lengths of their own or one for all."""
    random = Random(seed)
    shapes = [port.shape for port in session.get_inputs()]
    for length in _LENGTHS:
        yield [[axis if isinstance(axis, int) else length for axis in shape] for shape in shapes]
    for _ in range(60):
        named: dict[Any, int] = {}
        yield [
            [axis if isinstance(axis, int) else named.setdefault(axis, random.choice(_LENGTHS)) for axis in shape]
            for shape in shapes
        ]


def _runs(session: Any, shapes: list[list[int]]) -> bool:
    try:
        session.run(
            None,
            {port.name: _filled(port.type, shape) for port, shape in zip(session.get_inputs(), shapes, strict=True)},
        )
    except Exception:
        return False
    return True


def _filled(kind: str, shape: list[int]) -> Any:
    types = {
        "tensor(float)": "float32",
        "tensor(double)": "float64",
        "tensor(float16)": "float16",
        "tensor(int64)": "int64",
    }
    return np.ones(shape, types[kind])


def _refuted(session: Any, promise: contract.Contract, served: Served) -> Iterator[str]:
    """Yield promised lengths that the file refuses, those that it takes and the promise or the server refuses."""
    free = {name: axis for name, axis in promise.dimensions.items() if not axis.tied}
    base = {name: axis.lengths.near(3) for name, axis in free.items()}
    for name, axis in free.items():
        for length in sorted({*_LENGTHS, axis.high, axis.lengths.near(axis.high // 2)}):
            lengths = _with_ties(promise, {**base, name: length})
            shapes = [
                [lengths[item] if isinstance(item, str) else item for item in port.shape] for port in promise.inputs
            ]
            runs = _runs(session, shapes)
            if length in axis.lengths and not runs:
                yield f"promised and refuted: {name}={length} of {axis}"
            if runs and length not in axis.limit:
                yield f"cut: {name}={length} runs, and the promise is {axis}"
            if runs and length in axis.limit:
                yield from _unlike(session, served, shapes, f"{name}={length}")
    yield from _refused(session, promise, served)


def _refused(session: Any, promise: contract.Contract, served: Served) -> Iterator[str]:
    """Yield what the server refuses although the file takes it, of lengths that know nothing of the promise."""
    random = Random(0)
    stated = [port.shape for port in session.get_inputs()]
    for _ in range(40):
        shapes = [[axis if isinstance(axis, int) else random.choice((1, 2, 4, 5, 8, 12)) for axis in s] for s in stated]
        if _runs(session, shapes) and not _broadcasts(promise, shapes) and not _reuses(session, promise, shapes):
            yield from _unlike(session, served, shapes, f"shapes {shapes}")


def _broadcasts(promise: contract.Contract, shapes: list[list[int]]) -> bool:
    """Say whether axes that the recipe gives one name differ by ones or least lengths alone, which the file broadcasts.

    The server refuses that: a name says that lengths are equal, and an input of one row among others is a mistake more
    often than a wish.
    """
    lengths: dict[str, set[int]] = {}
    for port, shape in zip(promise.inputs, shapes, strict=True):
        for axis, length in zip(port.shape, shape, strict=True):
            if isinstance(axis, str):
                lengths.setdefault(axis, set()).add(length)
    unequal = {axis: found for axis, found in lengths.items() if len(found) > 1}
    return bool(unequal) and all(
        len(found - {1, promise.dimensions[axis].limit.low}) <= 1 for axis, found in unequal.items()
    )


def _reuses(session: Any, promise: contract.Contract, shapes: list[list[int]]) -> bool:
    """Say whether lengths of axes with one name run in this order and not in the other.

    ONNX Runtime computes into the buffer of an axis that the file calls alike, which fails where that is the shorter one.
    """
    lengths: dict[str, set[int]] = {}
    for port, shape in zip(promise.inputs, shapes, strict=True):
        for axis, length in zip(port.shape, shape, strict=True):
            if isinstance(axis, str):
                lengths.setdefault(axis, set()).add(length)
    exchanged = [
        [
            min(lengths[axis]) + max(lengths[axis]) - length if isinstance(axis, str) else length
            for axis, length in zip(port.shape, shape, strict=True)
        ]
        for port, shape in zip(promise.inputs, shapes, strict=True)
    ]
    return exchanged != shapes and not _runs(session, exchanged)


def _unlike(session: Any, served: Served, shapes: list[list[int]], title: str) -> Iterator[str]:
    """Yield what the server answers otherwise than the file, or refuses."""
    random = np.random.Generator(np.random.PCG64(sum(map(sum, shapes))))
    kinds = {port.name: _filled(port.type, ()).dtype for port in session.get_inputs()}
    values = [random.integers(0, 7, shape) for shape in shapes]
    own = [
        values.astype(kind) / (1 if kind.kind == "i" else 7)
        for values, kind in zip(values, kinds.values(), strict=True)
    ]
    feeds = {name: array.astype(kind) for (name, kind), array in zip(kinds.items(), own, strict=True)}
    expected = session.run(None, feeds)
    try:
        found = served.answer(feeds)
    except RequestError as error:
        yield f"refused by the server: {title}: {error}"
        return
    if len(found) != len(expected):
        yield f"{len(found)} outputs instead of {len(expected)}"
    for one, other in zip(found, expected, strict=False):
        close = 1e-3 if other.dtype == "float16" else 1e-5  # another opset may be fused otherwise
        if (one.shape, one.dtype) != (other.shape, other.dtype) or not np.allclose(one, other, close, 1e-6):
            yield f"answered otherwise: {title}"


def _with_ties(promise: contract.Contract, lengths: Mapping[str, int]) -> dict[str, int]:
    ties = {name: axis.tied for name, axis in promise.dimensions.items() if axis.tied}
    return {**lengths, **{name: factor * lengths[other] for name, (factor, other) in ties.items()}}


def main(first: int, count: int, out: Path | None) -> None:
    rows = {"left out": 0}
    for seed in range(first, first + count):
        found = judge(seed)
        verdict = "left out" if found is None else found.verdict
        rows[verdict] = rows.get(verdict, 0) + 1
        if found is not None and out is not None:
            with out.open("a") as file:
                file.write(found.line() + "\n")
        if found is not None and verdict != "right":
            print(found.line(), flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
