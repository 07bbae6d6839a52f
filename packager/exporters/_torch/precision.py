# SPDX-License-Identifier: Apache-2.0
"""Convert torch models to another floating type: halves to float32, and float32 to float64 to measure rounding.

CPUs have few kernels for halves, and none that agree. Every bfloat16 or float16 number is a float32 number, so the
weights lose nothing, and the source itself answers in float32 as the graph does: it is the same model with less
rounding. A target may still be promised as fp16.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

from packager.exporters import Arrays, ExportOptions, Feeds, Port

HALVES = ("bfloat16", "float16")
_ROUNDED_RUNS = 3
_HALF_UNIT = 2.0**-24  # of float32, as a share
_MOST = 64 << 20  # numbers of a module that is opened in float64 beside itself

Recast: TypeAlias = Callable[[Any], Any]  # returns a dtype or tensor in its new type, anything else as it is


def widen_port(port: Port) -> Port:
    """Return the port as callers see it: halves come and go as float32."""
    return replace(port, dtype="float32") if port.dtype in HALVES else port


def widen_options(options: ExportOptions) -> ExportOptions:
    """Return the options with inputs of half precision stated as float32."""
    inputs = None if options.inputs is None else tuple(map(widen_port, options.inputs))
    return replace(options, inputs=inputs, notes=tuple(map(widen_port, options.notes)))


def is_half_module(lib: Any, module: Any) -> bool:
    """Say whether a module keeps weights or buffers in half precision."""
    held = (*module.parameters(), *module.buffers())
    return any(tensor.dtype in _kinds(lib, HALVES) for tensor in held)


def is_half_program(lib: Any, program: Any) -> bool:
    """Say whether an ExportedProgram computes anything in half precision."""
    values = (node.meta.get("val") for node in _nodes(program.graph_module))
    return any(isinstance(value, lib.Tensor) and value.dtype in _kinds(lib, HALVES) for value in values)


def widen_module(lib: Any, module: Any) -> None:
    """Bring weights and buffers of half precision to float32, in place."""
    module._apply(_recast(lib, HALVES, lib.float32))


def widen_program(lib: Any, program: Any) -> None:
    """Let an ExportedProgram compute in float32 wherever it computed in halves, in place."""
    recast = _recast(lib, HALVES, lib.float32)
    for held in (program._state_dict, program._constants):
        for name, value in held.items():
            held[name] = _kept(lib, value, recast)
    for node in _nodes(program.graph_module):
        if "val" in node.meta:
            node.meta["val"] = lib.fx.node.map_aggregate(node.meta["val"], recast)
    _recast_calls(lib, program.graph_module, recast)


def is_small(module: Any) -> bool:
    """Say whether there is memory for a copy of a module's weights in float64."""
    return sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers())) <= _MOST


def doubled_module(lib: Any, module: Any) -> Any:
    """Return a copy of a module with weights and buffers in float64."""
    return copy.deepcopy(module)._apply(_recast(lib, ("float32",), lib.float64))


def doubled_program(lib: Any, program: Any) -> Any:
    """Return a module that runs an ExportedProgram in float64."""
    module = copy.deepcopy(program.module(check_guards=False))
    recast = _recast(lib, ("float32",), lib.float64)
    _recast_calls(lib, module, recast)
    for hook in list(module._forward_pre_hooks):  # it insists on the types that were captured
        del module._forward_pre_hooks[hook]
    return module._apply(recast)


def run_doubled(lib: Any, run: Callable[[Feeds], Arrays], feeds: Feeds) -> Arrays:
    """Run a doubled module: float32 inputs are float64, and so is what integers become by themselves."""
    before = lib.get_default_dtype()
    lib.set_default_dtype(lib.float64)
    try:
        return run(
            {name: array.astype("float64") if array.dtype == "float32" else array for name, array in feeds.items()}
        )
    finally:
        lib.set_default_dtype(before)


def gaps(exact: Callable[[Feeds], Arrays] | None, feeds: Feeds, output: int, got: Any) -> Any:
    """Return 0 where the doubled module gives a position or label that `got` has, else infinity: rounding chose it."""
    numpy = importlib.import_module("numpy")
    if exact is None:
        return None
    try:
        wanted = exact(feeds)[output]
    except Exception:  # a module that insists on float32 cannot be run in float64
        return None
    return numpy.where(wanted == got, 0.0, numpy.inf) if wanted.shape == got.shape else None


def rounding(lib: Any, exact: Callable[[Feeds], Arrays] | None, feeds: Feeds, output: int) -> float | None:
    """Return how far float32 rounding by itself moves an output; None where the module cannot be run in float64.

    The doubled module runs again with every result of its operators moved by a random part of float32's half unit
    (Monte Carlo arithmetic, Parker 1997): the largest difference of a few such runs from one without.
    """
    if exact is None:
        return None
    try:
        wanted = exact(feeds)[output]
        moved = []
        for seed in range(_ROUNDED_RUNS):
            with _noise(lib, seed):
                moved.append(exact(feeds)[output])
    except (RuntimeError, TypeError):  # a module that insists on float32
        return None
    if wanted.dtype != "float64" or any(other.shape != wanted.shape for other in moved):
        return None
    return max(float(abs(other - wanted).max(initial=0.0)) for other in moved)


def _noise(lib: Any, seed: int) -> Any:
    """Return a context in which operators answer float64 tensors as if each number was rounded to float32 at random."""
    modes = importlib.import_module("torch.utils._python_dispatch")
    generator = lib.Generator().manual_seed(seed)

    def move(item: Any) -> Any:
        if not isinstance(item, lib.Tensor) or item.dtype != lib.float64:
            return item
        return item * (1 + _HALF_UNIT * (2 * lib.rand(item.shape, generator=generator, dtype=lib.float64) - 1))

    class Noise(modes.TorchDispatchMode):  # type: ignore[name-defined]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            shares = any(returned.alias_info for returned in func._schema.returns)  # a view, or written in place
            return result if shares else lib.utils._pytree.tree_map(move, result)

    return Noise()


def _recast_calls(lib: Any, module: Any, recast: Recast) -> None:
    for node in _nodes(module):
        node.args = lib.fx.node.map_aggregate(node.args, recast)
        node.kwargs = lib.fx.node.map_aggregate(node.kwargs, recast)
    for inner in module.modules():
        if isinstance(inner, lib.fx.GraphModule):
            inner.recompile()


def _nodes(module: Any) -> Iterator[Any]:
    return (node for inner in module.modules() if hasattr(inner, "graph") for node in inner.graph.nodes)


def _kinds(lib: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(getattr(lib, name) for name in names)


def _recast(lib: Any, names: tuple[str, ...], wanted: Any) -> Recast:
    kinds = _kinds(lib, names)

    def recast(item: Any) -> Any:
        if isinstance(item, lib.dtype):
            return wanted if item in kinds else item
        return item.to(wanted) if isinstance(item, lib.Tensor) and item.dtype in kinds else item

    return recast


def _kept(lib: Any, value: Any, recast: Recast) -> Any:
    """Recast a weight; a parameter stays one."""
    wide = recast(value)
    if isinstance(value, lib.nn.Parameter) and wide is not value:
        return lib.nn.Parameter(wide.detach(), requires_grad=value.requires_grad)
    return wide
