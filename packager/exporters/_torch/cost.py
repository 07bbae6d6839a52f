# SPDX-License-Identifier: Apache-2.0
"""Estimate the operations of one run of a torch module, on tensors without data: shapes decide, never the clock."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from packager.exporters import Interface, Port

_LEAST = 100  # operations per element of the inputs: what is not a product or a convolution is counted as so many


def count_operations(
    lib: Any, interface: Interface, call: Callable[[Sequence[Any]], Any]
) -> Callable[[Mapping[str, int]], float | None]:
    """Return a function from the lengths of the dimensions to multiplications and additions of `call`.

    It returns None where shapes alone do not decide, because lengths depend on values.
    """
    fake = importlib.import_module("torch._subclasses.fake_tensor").FakeTensorMode
    counter = importlib.import_module("torch.utils.flop_counter").FlopCounterMode

    @functools.cache
    def counted_at(shapes: tuple[tuple[int, ...], ...]) -> float | None:
        try:
            with lib.no_grad(), fake(allow_non_fake_inputs=True), counter(display=False) as counts:
                call([lib.zeros(s, dtype=getattr(lib, p.dtype)) for s, p in zip(shapes, interface.inputs, strict=True)])
        except Exception:  # whatever tensors without data cannot do
            return None
        return float(counts.get_total_flops()) + _LEAST * sum(map(math.prod, shapes))

    return lambda lengths: counted_at(tuple(_shape(port, lengths) for port in interface.inputs))


def _shape(port: Port, lengths: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(lengths[axis] if isinstance(axis, str) else axis for axis in port.shape)
