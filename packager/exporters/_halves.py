# SPDX-License-Identifier: Apache-2.0
"""Torch models stored in half precision, computed in float32: CPUs have few kernels for less, and none that agree.

Every bfloat16 or float16 number is a float32 number, so the weights lose nothing, and the source itself answers in
float32 as the graph does: it is the same model with less rounding. A target may still be promised as fp16.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from packager.exporters import Port, Wishes

NAMES = ("bfloat16", "float16")


def widen_port(port: Port) -> Port:
    """Return the port as callers see it: halves come and go as float32."""
    return replace(port, dtype="float32") if port.dtype in NAMES else port


def widen_wishes(wishes: Wishes) -> Wishes:
    """Return the wishes with inputs of half precision stated as float32."""
    return replace(wishes, inputs=None if wishes.inputs is None else tuple(map(widen_port, wishes.inputs)))


def in_module(lib: Any, module: Any) -> bool:
    """Say whether a module keeps weights or buffers in half precision."""
    held = (*module.parameters(), *module.buffers())
    return any(tensor.dtype in _halves(lib) for tensor in held)


def in_program(lib: Any, program: Any) -> bool:
    """Say whether an ExportedProgram computes anything in half precision."""
    values = (node.meta.get("val") for graph in _graphs(program.graph_module) for node in graph.nodes)
    return any(isinstance(value, lib.Tensor) and value.dtype in _halves(lib) for value in values)


def widen_module(lib: Any, module: Any) -> Any:
    """Bring weights and buffers of half precision to float32, in place."""
    return module._apply(lambda tensor: _widened(lib, tensor))


def widen_program(lib: Any, program: Any) -> None:
    """Let an ExportedProgram compute in float32 wherever it computed in halves, in place."""
    for held in (program._state_dict, program._constants):
        for name, value in held.items():
            if isinstance(value, lib.Tensor):
                held[name] = _parameter(lib, value)
    for graph in _graphs(program.graph_module):
        for node in graph.nodes:
            node.args = lib.fx.node.map_aggregate(node.args, lambda item: _kind(lib, item))
            node.kwargs = lib.fx.node.map_aggregate(node.kwargs, lambda item: _kind(lib, item))
            if "val" in node.meta:
                node.meta["val"] = lib.fx.node.map_aggregate(node.meta["val"], lambda item: _widened(lib, item))
    for inner in program.graph_module.modules():
        if isinstance(inner, lib.fx.GraphModule):
            inner.recompile()


def _graphs(module: Any) -> Iterable[Any]:
    return (inner.graph for inner in module.modules() if hasattr(inner, "graph"))


def _halves(lib: Any) -> tuple[Any, ...]:
    return tuple(getattr(lib, name) for name in NAMES)


def _kind(lib: Any, item: Any) -> Any:
    return lib.float32 if isinstance(item, lib.dtype) and item in _halves(lib) else item


def _widened(lib: Any, value: Any) -> Any:
    return value.to(lib.float32) if isinstance(value, lib.Tensor) and value.dtype in _halves(lib) else value


def _parameter(lib: Any, value: Any) -> Any:
    wide = _widened(lib, value)
    if isinstance(value, lib.nn.Parameter) and wide is not value:
        return lib.nn.Parameter(wide.detach(), requires_grad=value.requires_grad)
    return wide
