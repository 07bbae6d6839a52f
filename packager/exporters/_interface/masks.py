# SPDX-License-Identifier: Apache-2.0
"""Find what boolean inputs may mask, by running the source.

No type says that a tensor of flags is a mask, nor whether True shows a position or hides it. Where every flag by
itself is answered with finite numbers they are drawn freely. Where a row that hides everything gives NaN, as attention
does, only rows are drawn that show a stretch from their beginning, of the value that the source answers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from packager.exporters._interface import integers

if TYPE_CHECKING:
    from packager.exporters import Arrays, Feeds, SourceModel


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows of flags that begin with `shown` and end, at a random position each, with its opposite."""

    shown: bool

    def draw(self, generator: Any, size: tuple[int, ...], *, whole: bool = False) -> Any:
        """Return one row that shows everything, one that shows a single position, the others random; or all `whole`."""
        numpy = importlib.import_module("numpy")
        ends = generator.integers(1, size[-1], size=size[:-1], endpoint=True)
        flat = ends.reshape(-1)
        flat[:1] = size[-1]
        flat[1:][-1:] = 1
        inside = numpy.ones(size, dtype=bool) if whole else numpy.arange(size[-1]) < ends[..., None]
        return inside if self.shown else ~inside


def masks(source: SourceModel) -> Mapping[str, Stretch]:
    """Return the flags of a source that must not hide everything, and which value of them shows a position."""
    ports = [port for port in source.interface.inputs if port.dtype == "bool" and len(port.shape) > 1]
    found: dict[str, Stretch] = {}
    for port in ports:
        feeds = integers.find_answered_inputs(source.interface, longer=6)
        if not _answers(source.run, {**feeds, port.name: _free(feeds[port.name].shape)}):
            shown = next((flag for flag in (True, False) if _stretches(source.run, feeds, port.name, flag)), None)
            found |= {port.name: Stretch(shown)} if shown is not None else {}
    return found


def _free(size: tuple[int, ...]) -> Any:
    """Return flags in every combination that matters: rows of one value and of both."""
    numpy = importlib.import_module("numpy")
    flags = numpy.random.Generator(numpy.random.PCG64(0)).random(size) < 0.5
    flags.reshape(-1, size[-1])[:1] = False
    flags.reshape(-1, size[-1])[-1:] = True
    return flags


def _stretches(run: Callable[[Feeds], Arrays], feeds: Feeds, name: str, shown: bool) -> bool:
    numpy = importlib.import_module("numpy")
    drawn = Stretch(shown).draw(numpy.random.Generator(numpy.random.PCG64(0)), feeds[name].shape)
    return _answers(run, {**feeds, name: drawn})


def _answers(run: Callable[[Feeds], Arrays], feeds: Feeds) -> bool:
    numpy = importlib.import_module("numpy")
    try:
        return all(numpy.isfinite(array).all() for array in run(feeds) if array.dtype.kind == "f")
    except MemoryError:
        raise
    except Exception:  # model code and runtimes raise whatever they like
        return False
