# SPDX-License-Identifier: Apache-2.0
"""Compile for ONNX Runtime: half-precision weights and arithmetic behind an unchanged fp32 interface.

Only graph rewriting: nothing here looks at the host, so the artefact is as reproducible as the graph. What fp16 costs
in accuracy is measured afterwards; what can be known beforehand (values that do not fit) is in the facts.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packager import graph, graphneeds
from packager.canonical import JSON
from packager.errors import MissingToolError, StepError

_LARGEST = 65504.0
_SMALLEST = 5.96e-8  # the smallest positive fp16; the converter raises what is smaller to it, so that 1/x stays finite


def compile_graph(source: Path, out: Path, params: Mapping[str, JSON]) -> JSON:
    """Write the artefact for `params["precision"]` of the graph `source/params["path"]`.

    `params` are those of the step: `precision`, `path`, `opset`, `ir`, and optionally `shard_bytes`. Facts: `path` of
    the artefact in `out`, what the `graph` needs, and `clipped`: constants beyond ±65504, which fp16 cannot hold.
    """
    if params["precision"] != "fp16":
        raise StepError(f"onnxruntime compiles fp16, got `{params['precision']}`", hint="use `precision: [fp32, fp16]`")
    model = graph.read(source / params["path"], infer=True)
    before = [graph.port(value) for value in (*model.graph.input, *model.graph.output)]
    clipped = _clipped(model)
    model = graph.canonicalise(_half(model), opset=params["opset"], ir=params["ir"])
    _check_interface(before, [graph.port(value) for value in (*model.graph.input, *model.graph.output)])
    graph.write(model, out, shard_bytes=params.get("shard_bytes", graph.SHARD_BYTES))
    _check_loads(out / graph.FILE)
    return {"path": graph.FILE, "graph": {**graph.facts(model), **graphneeds.needs(model)}, "clipped": clipped}


def _half(model: Any) -> Any:
    """Convert to fp16 with the runtime's own tool, then repair what it leaves: repeated casts and unsorted nodes."""
    try:
        float16 = importlib.import_module("onnxruntime.transformers.float16")
    except ImportError:
        raise MissingToolError("onnxruntime", "onnx") from None
    logging.getLogger(float16.__name__).setLevel(logging.ERROR)
    try:
        converted = float16.convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)
    except (AssertionError, ValueError, RuntimeError, KeyError) as error:
        raise StepError(f"the graph cannot be converted to fp16: {str(error) or type(error).__name__:.300}") from error
    _merge_casts(converted.graph)
    _sort(converted.graph)
    return converted


def _merge_casts(main: Any) -> None:
    """Keep one of the casts that the converter adds once per consumer under the same name."""
    seen: set[tuple[str, ...]] = set()
    for index in reversed(range(len(main.node))):
        node = main.node[index]
        key = (node.op_type, *node.output)
        if node.op_type == "Cast" and key in seen:
            del main.node[index]
        seen.add(key)


def _sort(main: Any) -> None:
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
    for message in graph.messages(node):
        if message.DESCRIPTOR.name == "NodeProto":
            yield from filter(None, message.input)


def _clipped(model: Any) -> int:
    """Count the finite float constants that fp16 cannot hold."""
    onnx, numpy = graph.tool(), importlib.import_module("numpy")
    count = 0
    for tensor in graph.messages(model):
        if tensor.DESCRIPTOR.name == "TensorProto" and tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy.abs(onnx.numpy_helper.to_array(tensor))
            count += int(((values > _LARGEST) & numpy.isfinite(values)).sum())
    return count


def _check_interface(before: object, after: object) -> None:
    if before != after:
        raise StepError("the fp16 graph has another interface than the graph it comes from")


def _check_loads(path: Path) -> None:
    """Open the artefact once: the converter can leave a node with mixed types, which only the runtime notices."""
    session = importlib.import_module("packager.runtimes.onnxruntime.session")
    try:
        session.open_session(path, threads=1)
    except Exception as error:  # the runtime's exceptions share no class
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StepError(f"the fp16 graph does not load in onnxruntime: {first:.300}") from error
