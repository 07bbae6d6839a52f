# SPDX-License-Identifier: Apache-2.0
"""Half-precision forms of a graph, behind an unchanged fp32 interface: every cast is in the graph, strongly typed.

Only graph rewriting: nothing here looks at the host, so the result is as reproducible as the graph. What fp16 costs
in accuracy is measured afterwards; what can be known beforehand (values that do not fit) is counted.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from packager.errors import MissingToolError, StepError
from packager.graph import canonicalise

_LARGEST = 65504.0
_FP32, _FP16 = "tensor(float)", "tensor(float16)"
_DELICATE = (
    "BatchNormalization",
    "Cos",
    "CumSum",
    "Div",
    "Erf",
    "Exp",
    "Gelu",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "Mod",
    "Pow",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMean",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "RMSNormalization",
    "Sin",
    "Softmax",
    "Softplus",
    "Sqrt",
)
"""What loses most in fp16: it sums many values, divides by small ones, or grows fast. `mixed` leaves it in fp32."""


def convert_to_half(model: Any, *, mixed: bool) -> Any:
    """Return `model` in fp16; with `mixed`, operators that lose accuracy there stay fp32. Raises StepError.

    The runtime's own converter does it; repaired is what it leaves: repeated casts and unsorted nodes.
    """
    try:
        float16 = importlib.import_module("onnxruntime.transformers.float16")
    except ImportError:
        raise MissingToolError("onnxruntime", "onnx") from None
    logging.getLogger(float16.__name__).setLevel(logging.ERROR)
    _type_results(model)
    blocked: Sequence[str] = (
        *float16.DEFAULT_OP_BLOCK_LIST,
        *(node.op_type for node in model.graph.node if not _knows_fp16(node, model)),
        *(_DELICATE if mixed else ()),
    )
    try:
        converted = float16.convert_float_to_float16(
            model, keep_io_types=True, disable_shape_infer=True, op_block_list=list(blocked)
        )
    except (AssertionError, ValueError, RuntimeError, KeyError) as error:
        raise StepError(f"the graph cannot be converted to fp16: {str(error) or type(error).__name__:.300}") from error
    _merge_casts(converted.graph)
    sort(converted.graph)
    return converted


def _type_results(model: Any) -> None:
    """State the type of results that the definition of their operator fixes to fp32 and shape inference leaves open.

    The converter casts what stays fp32 only where it knows that it is. Trees and encoders of `ai.onnx.ml` have no shape
    inference: their fp32 results would meet fp16 operators.
    """
    onnx = canonicalise.import_onnx()
    known = {value.name for value in (*model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        for name, types in zip(node.output, _results(node, model), strict=False):
            if name not in known and types == {_FP32}:
                value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
                model.graph.value_info.append(value)


def _knows_fp16(node: Any, model: Any) -> bool:
    """Return whether no result of a node that may be fp32 must be: TfIdfVectorizer, for example, has no other."""
    return all(_FP16 in types for types in _results(node, model) if _FP32 in types)


def _results(node: Any, model: Any) -> list[set[str]]:
    """Return the types that each result of a node may have by its definition; none where onnx does not define it."""
    onnx = canonicalise.import_onnx()
    version = next((entry.version for entry in model.opset_import if entry.domain == node.domain), 1)
    if not onnx.defs.has(node.op_type, version, node.domain):
        return []
    return [set(port.types) for port in onnx.defs.get_schema(node.op_type, version, node.domain).outputs]


def _merge_casts(main: Any) -> None:
    """Keep one of the casts that the converter adds once per consumer under the same name."""
    seen: set[tuple[str, ...]] = set()
    for index in reversed(range(len(main.node))):
        node = main.node[index]
        key = (node.op_type, *node.output)
        if node.op_type == "Cast" and key in seen:
            del main.node[index]
        seen.add(key)


def sort(main: Any) -> None:
    """Put every node after those whose results it reads, otherwise in the order they have."""
    makers = {name: node for node in main.node for name in node.output}
    done: dict[str, Any] = {}
    for node in main.node:
        stack = [node]
        while stack:
            waiting = [makers[name] for name in _reads(stack[-1]) if name in makers and name not in done]
            if len(stack) > len(main.node):
                raise StepError("the fp16 graph has a cycle", hint="please report this with the graph of the model")
            if waiting:
                stack.append(waiting[0])
            else:
                last = stack.pop()
                done.update(dict.fromkeys(last.output, last))
    ordered = dict.fromkeys(id(node) for node in done.values())
    by_id = {id(node): node for node in done.values()}
    copies = [type(main.node[0]).FromString(by_id[key].SerializeToString(deterministic=True)) for key in ordered]
    del main.node[:]
    main.node.extend(copies)


def _reads(node: Any) -> Iterator[str]:
    """Yield every name a node needs, those its subgraphs take from outside included."""
    for message in canonicalise.walk_messages(node):
        if message.DESCRIPTOR.name == "NodeProto":
            yield from filter(None, message.input)


def count_clipped(model: Any) -> int:
    """Count the finite float constants that fp16 cannot hold."""
    onnx, numpy = canonicalise.import_onnx(), importlib.import_module("numpy")
    count = 0
    for tensor in canonicalise.walk_messages(model):
        if tensor.DESCRIPTOR.name == "TensorProto" and tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy.abs(onnx.numpy_helper.to_array(tensor))
            count += int(((values > _LARGEST) & numpy.isfinite(values)).sum())
    return count
