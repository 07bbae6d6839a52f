# SPDX-License-Identifier: Apache-2.0
"""What callers notice of a change: inputs may take more, outputs may become more, nothing may go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from packager.bundle.changes import Change, Level
from packager.contract.contract import Contract, Port
from packager.recipe.lengths import Lengths, Measured
from packager.server.generation.settings import Generation


def compare_interface(old: Contract, new: Contract) -> Iterator[Change]:
    """Yield what callers can notice: inputs may take more, outputs may become more, nothing may go."""
    before, after = {p.name: p for p in old.inputs}, {p.name: p for p in new.inputs}
    for name in sorted({*before, *after}):
        if name not in after:
            yield Change("interface", name, "input is gone", "major")
        elif name not in before:
            yield Change("interface", name, "input is new, and callers do not send it", "major")
        else:
            yield from _input(old, new, before[name], after[name])
    yield from _generation(old, new)
    was, now = {p.name: p for p in old.outputs}, {p.name: p for p in new.outputs}
    for name in sorted({*was, *now}):
        if name not in now:
            yield Change("interface", name, "output is gone", "major")
        elif name not in was:
            yield Change("interface", name, "output is new", "minor")
        else:
            yield from _output(old, new, was[name], now[name])


def _generation(old: Contract, new: Contract) -> Iterator[Change]:
    """Yield what callers of a bundle that generates text can notice: other tokens, other conversations, less room."""
    was, now = old.generation, new.generation
    if was is None or now is None:
        if was != now:
            message = "is new: callers send texts, not tensors" if was is None else "is gone"
            yield Change("generation", "task", message, "major")
        return
    for name in ("task", "vocabulary", "bos", "eos", "tokenizer", "template"):
        before, after = getattr(was, name), getattr(now, name)
        if before != after:
            yield Change("generation", name, f"was {before or 'none'}, now {after or 'none'}", "major")
    if was.context != now.context:
        level: Level = "minor" if now.context > was.context else "major"
        yield Change("generation", "context", f"was {was.context} tokens, now {now.context}", level)
    if was.sampling != now.sampling:
        yield Change("generation", "sampling", f"the defaults were {was.sampling}, now {now.sampling}", "minor")
    yield from _pair(was, now)


def _pair(was: Generation, now: Generation) -> Iterator[Change]:
    """Yield what callers of an encoder-decoder can notice: less room for a source, other languages, other answers."""
    before, after = was.decoding, now.decoding
    if before and after:
        if before.source != after.source:
            level: Level = "minor" if after.source > before.source else "major"
            yield Change("generation", "source", f"was {before.source} tokens, now {after.source}", level)
        kept = replace(after, source=before.source, cross_bytes=before.cross_bytes)
        if kept != before:
            yield Change("generation", "decoding", "answers begin, end or are searched in another way", "minor")
    heard, hears = was.audio, now.audio
    if heard and hears:
        if gone := sorted({*heard.languages, *heard.tasks} - {*hears.languages, *hears.tasks}):
            yield Change("generation", "audio", f"{', '.join(gone)[:200]} is gone", "major")
        if hears.seconds < heard.seconds:
            yield Change("generation", "audio", f"was {heard.seconds} seconds, now {hears.seconds}", "major")


def compare_classes(old: Contract, new: Contract) -> Iterator[Change]:
    for name in sorted(set(old.classes) & set(new.classes)):
        if old.classes[name] != new.classes[name]:
            yield Change("interface", name, "columns are other classes, or in another order", "major")


def compare_pipelines(old: Contract, new: Contract) -> Iterator[Change]:
    """Yield what senders of raw inputs notice."""
    before, after = old.pipeline, new.pipeline
    if before is None and after is not None:
        yield Change("interface", "pipeline", f"raw inputs are taken: {after.task}", "minor")
    elif before is not None and after is None:
        yield Change("interface", "pipeline", "raw inputs are not taken any more", "major")
    elif before is not None and after is not None and before.task != after.task:
        yield Change("interface", "pipeline", f"answers {after.task}, was {before.task}", "major")
    elif before is not None and after is not None and before.digest != after.digest:
        yield Change("interface", "pipeline", "raw inputs become other tensors, or results other answers", "minor")


def _input(old: Contract, new: Contract, before: Port, after: Port) -> Iterator[Change]:
    yield from _dtype("input", before, after)
    if len(before.shape) != len(after.shape):
        message = f"input had {len(before.shape)} axes, now has {len(after.shape)}"
        yield Change("interface", before.name, message, "major")
        return
    for axis, (left, right) in enumerate(zip(before.shape, after.shape, strict=True)):
        was, now = _span(left, old), _span(right, new)
        if was.limit != now.limit or was.tied != now.tied:
            wider = was.limit.within(now.limit) and (now.tied is None or was.tied == now.tied)
            message = f"axis {axis} took {_taken(was)}, now takes {_taken(now)}"
            yield Change("interface", before.name, message, "minor" if wider else "major")
        if was.lengths != now.lengths and (was.lengths, now.lengths) != (was.limit, now.limit):
            narrower = not was.lengths.within(now.lengths)
            message = f"axis {axis} was measured at {was.lengths}, now at {now.lengths}"
            yield Change("measured", before.name, message + ("; less than before" if narrower else ""), "minor")
    promised = replace(before, limit=before.range) if old.format == 1 else before
    yield from _port_values(promised, after)


def _port_values(before: Port, after: Port) -> Iterator[Change]:
    """Yield what became of the values that are taken, and of those that were only measured."""
    if (before.limit, before.listed) != (after.limit, after.listed):
        level: Level = "minor" if _takes(after, before) else "major"
        yield Change("interface", before.name, f"took {_limit(before)}, now takes {_limit(after)}", level)
    if before.missing != after.missing:
        message = "a number may be missing now" if after.missing else "no number may be missing any more"
        yield Change("interface", before.name, message, "minor" if after.missing else "major")
    if before.range != after.range and (before.range, after.range) != (before.limit, after.limit):
        message = f"values were measured in {_values(before.range)}, now in {_values(after.range)}"
        yield Change("measured", before.name, message, "minor")


def _takes(after: Port, before: Port) -> bool:
    """Say whether an input takes all values that it took before."""
    if after.listed:
        return bool(before.listed) and set(before.listed) <= set(after.listed)
    if after.limit is None:
        return True
    span = (min(before.listed), max(before.listed)) if before.listed else before.limit
    return span is not None and after.limit[0] <= float(span[0]) and float(span[1]) <= after.limit[1]


def _limit(port: Port) -> str:
    if port.listed:
        return f"the values {', '.join(map(str, port.listed[:8]))}"
    return "any value" if port.limit is None else f"values in {_values(port.limit)}"


def _output(old: Contract, new: Contract, before: Port, after: Port) -> Iterator[Change]:
    yield from _dtype("output", before, after)
    left, right = ([_axis(size, side) for size in port.shape] for port, side in ((before, old), (after, new)))
    if left != right:
        yield Change("interface", before.name, f"output had the shape {left}, now {right}", "major")


def _dtype(kind: str, before: Port, after: Port) -> Iterator[Change]:
    if before.dtype != after.dtype:
        yield Change("interface", before.name, f"{kind} was {before.dtype}, now is {after.dtype}", "major")


def _span(size: int | str, of: Contract) -> Measured:
    one = Lengths(size, size) if isinstance(size, int) else Lengths()
    return Measured(one, one) if isinstance(size, int) else of.dimensions.get(size, Measured(one, one))


def _taken(span: Measured) -> str:
    return f"{span.limit}" + (f", as long as {span.tied[1]}" if span.tied else "")


def _axis(size: int | str, of: Contract) -> str:
    """Name an axis of an output by what it follows: an input's axis has another name after a harmless renaming."""
    if isinstance(size, int):
        return str(size)
    places = [f"{p.name}[{n}]" for p in of.inputs for n, axis in enumerate(p.shape) if axis == size]
    return min(places, default="*")


def _values(span: tuple[float, float] | None) -> str:
    return "no stated range" if span is None else f"[{span[0]:g}, {span[1]:g}]"
