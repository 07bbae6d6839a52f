# SPDX-License-Identifier: Apache-2.0
"""Find the lengths of dimensions that the recipe leaves open: those that the file was seen to run.

Nothing of the clock enters: what a run costs is estimated from shapes, so that every build finds the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from packager.exporters import Interface, Port, Range
from packager.exporters._interface import sizes as _sizes
from packager.exporters._interface.described import Input, Runner
from packager.exporters._interface.sizes import Axis, Span
from packager.recipe.lengths import Lengths

Work = Callable[[Mapping[str, int]], "float | None"]

_SECONDS = 10.0  # of runs, as estimated
_SPEED = 2e10  # operations of one second
_UNKNOWN = 3e4  # operations for each element of the inputs, where they cannot be counted
_EACH = 0.002  # seconds of a run whatever its size
_LARGEST = 2e10  # operations of one run
_ELEMENTS = 1 << 24  # of the inputs of one run
_ROWS, _FEW_ROWS, _LONGEST = 1024, 64, 4096  # what is measured: of small rows, of others, of other axes
_SMALL_ROW = 4096  # elements


def settle(path: Path, names: Mapping[str, str], interface: Interface, free: Collection[str], work: Work) -> Interface:
    """Return the interface with the lengths that the file at `path` takes of the `free` dimensions.

    `names` are the file's own of its inputs. Dimensions that run only together become one. What does not run at all
    stays as it is: the measurement says why.
    """
    rows = {port.shape[0] for port in interface.inputs if port.shape}
    axes = {name: Axis(name, 0 if name in rows else 1, name) for name in free}
    small = {name: low for name, (low, _) in interface.dimensions.items()}
    inputs = [_input(port, names[port.name], axes, small) for port in interface.inputs]
    runner = Runner(path, inputs)
    spent = [0.0]

    costs: dict[tuple[tuple[Axis, int], ...], float] = {}

    def elements(lengths: Mapping[Axis, int]) -> int:
        return sum(math.prod(a if isinstance(a, int) else lengths[a] for a in entry.axes) for entry in inputs)

    def cost(lengths: Mapping[Axis, int]) -> float:
        key = tuple(lengths.items())
        if key not in costs:
            known = work({**small, **{axis.port: length for axis, length in lengths.items()}})
            costs[key] = _UNKNOWN * elements(lengths) if known is None else known
        return costs[key]

    def runs(lengths: Mapping[Axis, int]) -> bool:
        spent[0] += _EACH + cost(lengths) / _SPEED
        return runner.runs(lengths)

    def fits(lengths: Mapping[Axis, int]) -> bool:
        return elements(lengths) <= _ELEMENTS and cost(lengths) <= _LARGEST

    spans = runner.explore(seconds=_SECONDS, clock=lambda: spent[0], fits=fits, runs=runs)
    return interface if spans is None else _with(interface, spans, rows)


def _input(port: Port, name: str, axes: Mapping[str, Axis], small: Mapping[str, int]) -> Input:
    shape = tuple(axis if isinstance(axis, int) else axes.get(axis, small.get(axis, 1)) for axis in port.shape)
    filled = port.values[0] if port.values else None
    if port.range and not port.values:
        low, high = port.range
        filled = min(max(1, low), high) if port.dtype.startswith(("int", "uint")) else (low + high) / 2
    return Input(name, port.dtype, shape, filled)


def _with(interface: Interface, spans: list[Span], rows: Collection[Any]) -> Interface:
    """Return the interface with what was found: one name for what goes together, a number for one length alone."""
    same: dict[str, int | str] = {}
    dimensions, limits = dict(interface.dimensions), dict(interface.limits)
    for span in spans:
        name, *others = [axis.port for axis in span.axes]
        same |= dict.fromkeys(others, name)
        dimensions[name], limits[name] = _found(span, _most(interface, name, rows))
        if span.kind == _sizes.FIXED and not span.varies:
            same |= dict.fromkeys([name, *others], span.low)
    ports = tuple(
        replace(port, shape=tuple(same.get(a, a) if isinstance(a, str) else a for a in port.shape))
        for port in interface.inputs
    )
    kept = [name for name in dimensions if name not in same]
    return replace(
        interface,
        inputs=ports,
        dimensions={name: dimensions[name] for name in kept},
        limits={name: limits[name] for name in kept if name in limits},
    )


def _found(span: Span, most: int) -> tuple[Range, Lengths]:
    """Return the lengths to measure, and those that the file takes as far as that is known."""
    if span.varies:
        return (span.low, min(max(most, span.low), span.high)), Lengths()
    if span.kind == _sizes.SOME:  # of what lies between nothing is known
        listed = Lengths.of([n for n in span.ran if n <= most] or span.ran[:1])
        return (listed.low, listed.high or listed.low), replace(listed, high=None, listed=())
    if span.kind in (_sizes.FIXED, _sizes.UNTRIED):
        return (span.low, span.low), Lengths() if span.kind == _sizes.UNTRIED else Lengths(span.low, span.low)
    taken = Lengths(span.low, span.high if span.limited else None, span.step, (), span.remainders, span.also)
    return (taken.near(0), taken.near(max(min(span.high, most), span.low))), taken


def _most(interface: Interface, name: str, rows: Collection[Any]) -> int:
    if name not in rows:
        return _LONGEST
    sizes = [port.shape[1:] for port in interface.inputs]
    small = all(isinstance(axis, int) for shape in sizes for axis in shape)
    count = sum(math.prod(axis for axis in shape if isinstance(axis, int)) for shape in sizes)
    return _ROWS if small and count <= _SMALL_ROW else _FEW_ROWS
