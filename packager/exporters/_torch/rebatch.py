# SPDX-License-Identifier: Apache-2.0
"""Free the first axis of a program that was captured with one row, as a model logged with a one-row example is.

torch wrote a 1 wherever the batch was: in the shapes of the inputs, and in the lengths that `view` and its like are
given. Both are freed and the program is captured again. Whether that is the same model is measured: the reference stays
the program as it was, row by row.
"""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

from packager.errors import StepError
from packager.exporters import Arrays

_ROWS = 3
_LENGTHS = ("view", "reshape", "expand", "_unsafe_view")


def free_first_axis(lib: Any, program: Any, unfix: str) -> Any:
    """Return the program with its first axis free. Raises StepError, with the remedy `unfix`, where that fails."""
    module = copy.deepcopy(program.module(check_guards=False))
    for hook in list(module._forward_pre_hooks):  # it insists on the shapes that were captured
        del module._forward_pre_hooks[hook]
    _free_lengths(lib, module)
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"]
    tensors = values[len(values) - len(program.graph_signature.user_inputs) :]
    tree = importlib.import_module("torch.utils._pytree")
    leaves, spec = tree.tree_flatten(program.example_inputs)
    given = [
        _wide(lib, value) if isinstance(leaf, lib.Tensor) else leaf for leaf, value in _paired(lib, leaves, tensors)
    ]
    dims = [
        _free(lib, value) if isinstance(leaf, lib.Tensor) else None for leaf, value in _paired(lib, leaves, tensors)
    ]
    unflatten = tree.tree_unflatten
    (args, kwargs), (shapes, named) = unflatten(given, spec), unflatten(dims, spec)
    try:
        made = lib.export.export(module, args, kwargs, dynamic_shapes=(*shapes, *named.values()))
        rows = [
            unflatten([x[row : row + 1] if isinstance(x, lib.Tensor) else x for x in given], spec)
            for row in range(_ROWS)
        ]
        alone, together = program.module(), tree.tree_leaves(made.module()(*args, **kwargs))
        apart = zip(*(tree.tree_leaves(alone(*one, **named)) for one, named in rows), strict=True)
        fits = all(_agree(lib, parts, whole) for parts, whole in zip(apart, together, strict=True))
    except Exception as error:  # whatever stands in the way: the program is not one for several rows
        raise _refused(unfix) from error
    if not fits:
        raise _refused(unfix)
    return made


def _agree(lib: Any, parts: Sequence[Any], whole: Any) -> bool:
    if not isinstance(whole, lib.Tensor):
        return all(part == whole for part in parts)
    joined = lib.cat(list(parts))
    return bool(joined.shape == whole.shape and lib.allclose(joined, whole, rtol=1e-3, atol=1e-4, equal_nan=True))


def _refused(unfix: str) -> StepError:
    return StepError(
        "the program was captured with one row and cannot be freed of that: it computes with their number", hint=unfix
    )


def _paired(lib: Any, leaves: Sequence[Any], tensors: Sequence[Any]) -> list[tuple[Any, Any]]:
    waiting = iter([value for value in tensors if isinstance(value, lib.Tensor)])
    return [(leaf, next(waiting) if isinstance(leaf, lib.Tensor) else leaf) for leaf in leaves]


def _wide(lib: Any, value: Any) -> Any:
    lengths = [_ROWS, *(max(2, int(length)) if not isinstance(length, int) else length for length in value.shape[1:])]
    made = lib.linspace(-1, 1, math.prod(lengths)).reshape(lengths)
    return made.to(value.dtype) if value.dtype.is_floating_point else lib.zeros(lengths, dtype=value.dtype)


def _free(lib: Any, value: Any) -> dict[int, Any]:
    others = {i: lib.export.Dim.AUTO for i, n in enumerate(value.shape) if i and not isinstance(n, int)}
    return {0: lib.export.Dim.DYNAMIC, **others}


def _free_lengths(lib: Any, module: Any) -> None:
    """Let `view` and its like find the first length by themselves where it was written as 1."""
    for node in module.graph.nodes:
        name = str(node.target).removeprefix("aten.").split(".")[0]
        if node.op == "call_function" and name in _LENGTHS and isinstance(node.args[1], list | tuple):
            lengths = list(node.args[1])
            if lengths and lengths[0] == 1 and (name == "expand" or -1 not in lengths):
                node.args = (node.args[0], [-1, *lengths[1:]], *node.args[2:])
    module.recompile()


def by_rows(run: Callable[[dict[str, Any]], Arrays], feeds: dict[str, Any]) -> Arrays:
    """Run a program that takes one row on each row of the inputs, and put its answers together."""
    numpy = importlib.import_module("numpy")
    count = len(next(iter(feeds.values())))
    answers = [run({name: array[row : row + 1] for name, array in feeds.items()}) for row in range(count)]
    return [numpy.concatenate(parts) for parts in zip(*answers, strict=True)]
