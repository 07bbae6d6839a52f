# SPDX-License-Identifier: Apache-2.0
"""The canonical form of an ONNX graph: one computation gives one set of bytes, with no trace of the author's machine.

Laws: `canonicalise` is idempotent; `write` of equal protos writes equal files whatever the directory; what `read`
returns for written files is the proto that was written. Runs in the worker; `onnx` is imported where it is used.
"""

from __future__ import annotations

import heapq
import importlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from packager import error_causes
from packager.canonical import JSON
from packager.errors import MissingToolError, StepError

Proto: TypeAlias = Any  # onnx's generated classes carry no types that mypy could follow

FILE = "model.onnx"
SHARD_BYTES = 16 << 20
INLINE_TOTAL = 8 << 20  # models up to here stay one file: the common case is one blob that opens everywhere
EXTERNAL_MIN = 4 << 10  # smaller tensors stay in the graph file: shape inference reads them there
ALIGN = 4096  # a page, so that a runtime may map each tensor

# Notes for people (torch writes stack traces with absolute paths there) and hints that every runtime infers anew
# (torch's are wrong for the inside of an LSTM of free length: a planner that believes them reserves too little).
_DROPPED = ("metadata_props", "doc_string", "value_info", "training_info")
_BY_THREADS = {"DynamicQuantizeLSTM"}
"""ONNX Runtime 1.32 gives each thread a share of the batch, quantised by itself: seen to move answers by a third."""
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
_IR_OF_TYPE = {  # the IR version that introduced a tensor type (comments of onnx.proto); all others are older than 8
    "FLOAT8E4M3FN": 9,
    "FLOAT8E4M3FNUZ": 9,
    "FLOAT8E5M2": 9,
    "FLOAT8E5M2FNUZ": 9,
    "UINT4": 10,
    "INT4": 10,
    "FLOAT4E2M1": 11,
    "FLOAT8E8M0": 12,
    "UINT2": 13,
    "INT2": 13,
    "FLOAT6E2M3": 14,
    "FLOAT6E3M2": 14,
}
_IR = 8  # the first with all that the graphs here use; stamping it on a graph of a later one changes nothing else
_TYPE_FIELDS = {"data_type", "elem_type"}
ONNX_NAMES = {"float32": "float", "float64": "double"}  # where ONNX and numpy differ
_NO_TENSORS = {
    "sequence_type": "a sequence",
    "map_type": "a map",
    "optional_type": "an optional value",
    "sparse_tensor_type": "a sparse tensor",
}
_TYPE_ATTRIBUTES = {"to", "dtype", "output_dtype"}


def import_onnx() -> Any:
    """Import `onnx`, or say how to install it."""
    try:
        return importlib.import_module("onnx")
    except ModuleNotFoundError:
        raise MissingToolError("onnx", "onnx") from None


def read(path: Path, *, infer: bool = False) -> Proto:
    """Load a graph with its external data, on request with the types and shapes of everything inside.

    They are inferred before the data is loaded: inference serialises the proto, which fails above 2 GiB. Raises
    StepError when the file or one of its data files is broken.
    """
    onnx = import_onnx()
    try:
        model = onnx.load(str(path), load_external_data=False)
        if infer:
            model = onnx.shape_inference.infer_shapes(model)
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # protobuf, onnx and the operating system raise a dozen classes for a bad file
        raise StepError(
            f"`{path.name}` is not a readable ONNX file: {error_causes.find_cause_line(str(error))}"
        ) from error
    if not model.graph.output or not model.opset_import:
        raise StepError(f"`{path.name}` holds no ONNX graph")
    _merge_imports(model)
    return model


def _merge_imports(model: Proto) -> None:
    """Keep one import of every domain: skl2onnx writes the same one twice. `graphcheck` refuses those that differ."""
    for holder in (model, *model.functions):
        versions = {domain_of(entry.domain): entry.version for entry in holder.opset_import}
        if len(versions) < len(holder.opset_import):
            holder.ClearField("opset_import")
            for domain, version in versions.items():
                holder.opset_import.add(domain=domain, version=version)


def walk_messages(proto: Proto) -> Iterator[Proto]:
    """Yield a protobuf message and every message inside it: subgraphs, functions, types and tensors included."""
    yield proto
    if proto.DESCRIPTOR.name == "TensorProto":
        return  # listing its fields would copy its data
    for descriptor, value in proto.ListFields():
        if descriptor.message_type is not None:
            for item in (value,) if hasattr(value, "DESCRIPTOR") else value:
                yield from walk_messages(item)


def list_graphs(model: Proto) -> list[Proto]:
    """Return every graph of a model, those inside nodes included."""
    return [message for message in walk_messages(model) if message.DESCRIPTOR.name == "GraphProto"]


def canonicalise(model: Proto, *, opset: int, ir: int) -> Proto:
    """Bring `model` (changed in place, and returned) into canonical form, at the lowest IR version that holds it.

    Raises StepError when the graph needs an opset above `opset` or an IR version above `ir`.
    """
    for message in walk_messages(model):
        _strip(message)
    model.producer_name = model.producer_version = ""
    _normalise_opsets(model)
    _drop_initialisers_from_inputs(model.graph)
    _raw_tensors(model)
    _sort_nodes(model)
    _check_opset(model, opset)
    model.ir_version = max(min(ir, _IR), _check_ir(model, ir))
    return model


def _strip(message: Proto) -> None:
    names = message.DESCRIPTOR.fields_by_name
    for name in _DROPPED:
        if name in names:
            message.ClearField(name)


def _normalise_opsets(model: Proto) -> None:
    """Sort the operator sets and drop the unused: a runtime refuses even an unused one it is too old for."""
    for message in walk_messages(model):
        if message.DESCRIPTOR.name in ("NodeProto", "FunctionProto"):
            message.domain = domain_of(message.domain)
    used = {""} | {
        domain_of(m.domain) for m in walk_messages(model) if m.DESCRIPTOR.name in ("NodeProto", "FunctionProto")
    }
    for holder in (model, *model.functions):
        versions = {domain_of(entry.domain): entry.version for entry in holder.opset_import}
        holder.ClearField("opset_import")
        for domain in sorted(versions):
            if domain in used:
                holder.opset_import.add(domain=domain, version=versions[domain])


def domain_of(name: str) -> str:
    """Return the name of an operator domain as it stands in files: the standard one is empty."""
    return "" if name == "ai.onnx" else name


def _drop_initialisers_from_inputs(graph: Proto) -> None:
    """Keep only what a caller must feed; before IR 4 every weight had to be listed as an input too."""
    weights = {tensor.name for tensor in graph.initializer}
    for index in reversed(range(len(graph.input))):
        if graph.input[index].name in weights:
            del graph.input[index]


def _raw_tensors(model: Proto) -> None:
    """Give every numeric tensor the one encoding that can leave the file, little-endian `raw_data`."""
    onnx = import_onnx()
    typed = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
    for tensor in walk_messages(model):
        if tensor.DESCRIPTOR.name == "TensorProto" and any(len(getattr(tensor, name)) for name in typed):
            raw = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)).raw_data
            for name in typed:
                tensor.ClearField(name)
            tensor.raw_data = raw


def _sort_nodes(model: Proto) -> None:
    """Put every node behind those it reads from, as ONNX demands: converters to float16 append theirs at the end."""
    for scope in walk_messages(model):
        if scope.DESCRIPTOR.name == "GraphProto":
            made = {name: index for index, node in enumerate(scope.node) for name in node.output if name}
            needs = [{made[name] for name in _reads(node) if name in made} for node in scope.node]
            order = _order(needs)
            if order != sorted(order):
                nodes = [scope.node[index] for index in order]
                copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
                del scope.node[:]
                scope.node.extend(copies)


def _order(needs: list[set[int]]) -> list[int]:
    """Return an order in which every index comes after those it needs, as little changed as can be."""
    ready = [index for index, needed in enumerate(needs) if not needed]
    waiting = {index: set(needed) for index, needed in enumerate(needs) if needed}
    users: dict[int, list[int]] = {}
    for index, needed in waiting.items():
        for other in needed:
            users.setdefault(other, []).append(index)
    heapq.heapify(ready)
    found = []
    while ready:
        found.append(heapq.heappop(ready))
        for user in users.get(found[-1], ()):
            waiting[user].discard(found[-1])
            if not waiting[user]:
                heapq.heappush(ready, user)
    return found if len(found) == len(needs) else list(range(len(needs)))  # a cycle: the checker says it


def _reads(node: Proto) -> Iterator[str]:
    for message in walk_messages(node):
        if message.DESCRIPTOR.name == "NodeProto":
            yield from filter(None, message.input)


def opset_of(model: Proto) -> int:
    """Return the version of the standard operator set that `model` imports."""
    return next((entry.version for entry in model.opset_import if domain_of(entry.domain) == ""), 0)


def _check_opset(model: Proto, wanted: int) -> None:
    found = opset_of(model)
    if found > wanted:
        raise StepError(
            f"the graph needs opset {found}, expected at most {wanted} for the promised runtimes",
            hint="raise the oldest version under `runs-on`, or export the source with a lower opset",
        )


def _check_ir(model: Proto, ir: int) -> int:
    """Return the IR version that the contents need. Raises StepError when that is above `ir`."""
    onnx = import_onnx()
    names = {number: name for name, number in onnx.TensorProto.DataType.items()}
    found = {
        f"tensor type {names[number]}": _IR_OF_TYPE.get(names.get(number, ""), 0) for number in _tensor_types(model)
    }
    if any(function.overload for function in model.functions):
        found["function overloads"] = 10
    if any(function.attribute_proto for function in model.functions):
        found["default attributes of functions"] = 9
    if model.configuration or any(node.device_configurations for node in _nodes(model)):
        found["multi-device annotations"] = 11
    for subject, needed in sorted(found.items()):
        if needed > ir:
            raise _too_new(subject, needed, ir)
    return max(found.values(), default=0)


def _too_new(subject: str, needed: int, ir: int) -> StepError:
    return StepError(
        f"the graph uses {subject}, which needs IR version {needed}, expected at most {ir}",
        hint="raise the oldest version under `runs-on`, or store the source in another precision",
    )


def _tensor_types(model: Proto) -> set[int]:
    found: set[int] = set()
    for message in walk_messages(model):
        for name in _TYPE_FIELDS & set(message.DESCRIPTOR.fields_by_name):
            value = getattr(message, name)
            found |= {value} if isinstance(value, int) else set()  # of a sequence it is a message, looked at by itself
        if message.DESCRIPTOR.name == "AttributeProto" and message.name in _TYPE_ATTRIBUTES:
            found.add(message.i)
    return found


def _nodes(model: Proto) -> Iterator[Proto]:
    return (message for message in walk_messages(model) if message.DESCRIPTOR.name == "NodeProto")


def check(path: Path) -> None:
    """Run ONNX's own checker on a written file. By path, because a proto above 2 GiB cannot be serialised."""
    onnx = import_onnx()
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise StepError(f"the graph is not valid ONNX: {error_causes.find_cause_line(str(error))}") from error


def list_facts(model: Proto) -> JSON:
    """Say what a runtime must understand to read `model`; `bytes` counts tensor data, not files.

    Which operators it needs is said by `graphneeds.needs`.
    """
    weights = [m for m in walk_messages(model) if m.DESCRIPTOR.name == "TensorProto" and m.name]
    return {
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "ir": model.ir_version,
        "parameters": sum(_elements(tensor) for tensor in weights),
        "bytes": sum(_stored(tensor) for tensor in weights),
    }


def read_port(value: Proto) -> tuple[str, str, tuple[int | str, ...]]:
    """Return name, numpy dtype and shape of a graph input or output; an axis without a name is called `NAME_AXIS`.

    Raises StepError for what is not a tensor of known rank.
    """
    tensor = value.type.tensor_type
    kind = value.type.WhichOneof("value")
    if kind not in (None, "tensor_type"):
        raise StepError(
            f"`{value.name}` is {_NO_TENSORS.get(str(kind), 'no tensor')}, and only tensors can be served",
            hint="let the model return tensors; scikit-learn's converters do with `options={'zipmap': False}`",
        )
    if kind is None or not tensor.HasField("shape"):
        raise StepError(f"`{value.name}` is not a tensor of known rank", hint="only such tensors can be served")
    dtype = import_onnx().helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    axes = enumerate(tensor.shape.dim)
    shape = tuple(a.dim_value if a.dim_value > 0 else a.dim_param or f"{value.name}_{i}" for i, a in axes)
    return value.name, "string" if dtype == "object" else dtype, shape


def find_nondeterministic(model: Proto) -> list[str]:
    """Return the operators that draw random numbers when the graph runs, or that answer by the number of threads."""
    found = {node.op_type for node in _nodes(model) if node.op_type in _RANDOM | _BY_THREADS}
    return sorted(found | ({"Dropout"} if any(map(_trains, _nodes(model))) else set()))


def _trains(node: Proto) -> bool:
    """Say whether a Dropout may be active: its third input is the training switch since opset 12."""
    return bool(node.op_type == "Dropout" and len(node.input) > 2 and node.input[2])


def _elements(tensor: Proto) -> int:
    count = 1
    for extent in tensor.dims:
        count *= extent
    return count


def _stored(tensor: Proto) -> int:
    if tensor.external_data:
        return int(next(entry.value for entry in tensor.external_data if entry.key == "length"))
    return len(tensor.raw_data)


def cut_shards(sizes: Iterable[int], limit: int) -> list[list[int]]:
    """Cut tensors, given by their sizes in bytes, into files of at most `limit` bytes; return the offsets in each.

    Every tensor starts on a page; one larger than `limit` has its own file. A cut depends only on the sizes of
    the tensors before it, so a model that was trained further has the same cuts, and a file without a changed
    tensor keeps its digest.
    """
    files: list[list[int]] = []
    end = limit + 1
    for size in sizes:
        start = end + -end % ALIGN
        if start + size > limit:
            files.append([])
            start = 0
        files[-1].append(start)
        end = start + size
    return files


def _store(tensor: Proto, sink: BinaryIO, offset: int) -> None:
    """Move the data of `tensor` to `offset` of `sink`, so that it leaves memory before the next one is touched."""
    sink.write(b"\0" * (offset - sink.tell()))
    length = sink.write(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = import_onnx().TensorProto.EXTERNAL
    place = {"location": Path(sink.name).name, "offset": str(offset), "length": str(length)}
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)


def write(model: Proto, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write `model` to `folder/model.onnx`, its large tensors beside it, and check the result.

    Consumes `model`: tensor data leaves memory as it reaches the disk. Up to 8 MiB of weights stay in the one file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = [tensor for scope in list_graphs(model) for tensor in scope.initializer]
    if sum(map(_stored, tensors)) > INLINE_TOTAL:
        large = [tensor for tensor in tensors if _stored(tensor) >= EXTERNAL_MIN]
        waiting = iter(large)
        for number, offsets in enumerate(cut_shards(map(_stored, large), shard_bytes), start=1):
            with (folder / f"weights-{number:04}.bin").open("xb") as sink:
                for offset in offsets:
                    _store(next(waiting), sink, offset)
    with (folder / FILE).open("xb") as sink:
        sink.write(model.SerializeToString(deterministic=True))
    check(folder / FILE)


def type_name(text: str) -> str:
    """Return our name of an ONNX type string: `tensor(float)` is `float32`, `seq(tensor(float))` `seq(float32)`."""
    ours = {theirs: name for name, theirs in ONNX_NAMES.items()}
    bare = re.sub(r"tensor\((\w+)\)", r"\1", text.replace(" ", ""))
    return re.sub(r"\w+", lambda match: ours.get(match[0], match[0]), bare)
