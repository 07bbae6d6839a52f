# SPDX-License-Identifier: Apache-2.0
"""The source as a measurement uses it: opened here, or by another worker at the other end of a socket.

What compares never opens an untrusted source: it requests inputs to measure on and outputs, and gets tensors whose
number, types and shapes are checked. How the source wants to be compared is data too (`Leaves`), and applied here.
A source can still answer what it likes; it cannot reach what is recorded of it.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, cast

from packager import edits, exporters
from packager.canonical import JSON
from packager.errors import PackagerError, StepError
from packager.exporters import Arrays, ExportOptions, Feeds, Leaves, SourceModel
from packager.exporters._files import example as _example
from packager.exporters._interface import masks
from packager.steps import _cases, _wire

GONE = "the worker of the source ended before its measurement did"
_SHOWN = "shown"  # how a `Stretch` stands in a frame
_LONGEST = 4000  # characters of a foreign message


class Source(Protocol):
    """What is measured against. The functions are those of `packager.exporters` over one source."""

    def run(self, feeds: Feeds) -> Arrays: ...
    def samples(self) -> Mapping[str, Any]: ...
    def rows(self) -> Mapping[str, Feeds]: ...
    def work(self) -> Callable[[Mapping[str, int]], float | None] | None: ...
    def plausible(self, feeds: Feeds) -> Feeds: ...
    def unoptimised(self, feeds: Feeds) -> Arrays | None: ...
    def leaves(self, feeds: Feeds) -> Leaves: ...
    def gaps(self, feeds: Feeds, output: int, expected: Any, got: Any) -> Any: ...
    def rounding(self, feeds: Feeds, output: int) -> float | None: ...
    def count(self, feeds: Feeds, outputs: Arrays) -> None: ...
    def coverage(self) -> Mapping[str, Mapping[str, int]]: ...


class Opened:
    """A source that was opened in this process."""

    def __init__(self, model: SourceModel, example: Feeds | None = None) -> None:
        self._model, offered = model, getattr(model, "coverage", None)
        self._example = example
        self._coverage = offered() if offered else None
        self._work = exporters.work_of(model)
        self.run = model.run

    def samples(self) -> Mapping[str, Any]:
        return exporters.samples_of(self._model)

    def rows(self) -> Mapping[str, Feeds]:
        found = exporters.rows_of(self._model)
        if self._example is None or _example.TITLE in found or not self._takes(self._example):
            return found
        return {_example.TITLE: self._example, **found}

    def _takes(self, feeds: Feeds) -> bool:
        """Say whether the model runs on its example: one that it refuses is no evidence about the export."""
        try:
            self.run(feeds)
        except Exception:  # the source's libraries raise whatever they like
            return False
        return True

    def work(self) -> Callable[[Mapping[str, int]], float | None] | None:
        return self._work

    def plausible(self, feeds: Feeds) -> Feeds:
        return exporters.make_plausible(self._model, feeds)

    def unoptimised(self, feeds: Feeds) -> Arrays | None:
        return exporters.unoptimised(self._model, feeds)

    def leaves(self, feeds: Feeds) -> Leaves:
        return exporters.leaves_of(self._model, feeds)

    def gaps(self, feeds: Feeds, output: int, expected: Any, got: Any) -> Any:
        return exporters.gaps_of(self._model, feeds, output, expected, got)

    def rounding(self, feeds: Feeds, output: int) -> float | None:
        return exporters.rounding_of(self._model, feeds, output)

    def count(self, feeds: Feeds, outputs: Arrays) -> None:
        if self._coverage is not None:
            self._coverage.add(feeds, outputs)

    def coverage(self) -> Mapping[str, Mapping[str, int]]:
        return self._coverage.totals() if self._coverage is not None else {}


def open_source(inputs: Mapping[str, Path], params: Mapping[str, JSON]) -> Opened:
    """Open the tree `source` in this process."""
    exporter = exporters.exporter(params["kind"])
    model = exporter.load(inputs["source"], params["payload"], ExportOptions.from_params(params))
    return Opened(model, _example.read_tensors(inputs["source"], params["interface"]))


def serve(source: Callable[[], Opened], channel: socket.socket) -> None:
    """Open a source and answer requests about it until the other end closes."""
    held: list[Opened] = []
    while True:
        try:
            question = _wire.receive(channel)
        except _wire.ClosedError:
            return
        try:
            held = held or [source()]
            answer = {"answer": _answer(held[0], question["ask"], question["with"])}
        except PackagerError as error:
            proposed = [edit.to_json() for edit in error.edits]
            answer = {"error": {"message": error.message, "hint": error.hint, "kind": None, "edits": proposed}}
        except MemoryError:
            raise
        except Exception as error:  # the source's libraries raise whatever they like
            answer = {"error": {"message": str(error), "hint": None, "kind": type(error).__name__}}
        try:
            _wire.send(channel, answer)
        except _wire.ClosedError:
            return


def _answer(source: Opened, question: str, given: Sequence[Any]) -> Any:
    if question == "work":
        work = source.work()
        return None if work is None else [work(given[0])]
    if question == "samples":
        return {name: _plain(values) for name, values in source.samples().items()}
    if question == "leaves":
        return asdict(source.leaves(given[0]))
    if question not in ("run", "rows", "plausible", "unoptimised", "gaps", "rounding", "count", "coverage"):
        raise StepError(f"no source answers `{question:.40}`")
    return getattr(source, question)(*given)


def _plain(values: Any) -> Any:
    return {_SHOWN: values.shown} if isinstance(values, masks.Stretch) else values


class RemoteSource:
    """A source that another worker opened; nothing that comes from there is more than data."""

    def __init__(self, channel: socket.socket, interface: JSON) -> None:
        self._channel, self._interface = channel, interface

    def _ask(self, question: str, *given: Any) -> Any:
        try:
            _wire.send(self._channel, {"ask": question, "with": given})
            got = _wire.receive(self._channel)
        except _wire.ClosedError:
            raise StepError(
                GONE, hint="the log above may say why; memory is bounded by `limits: {memory: …}`"
            ) from None
        if isinstance(got, dict) and "error" in got:
            raise _raised(got["error"])
        return got["answer"] if isinstance(got, dict) and "answer" in got else None

    def run(self, feeds: Feeds) -> Arrays:
        found = self._ask("run", feeds)
        if not isinstance(found, list) or not all(map(_is_array, found)):
            raise _forged("results of its own call")
        return cast("Arrays", found)

    def samples(self) -> Mapping[str, Any]:
        found = self._named("samples")
        return {name: _sampled(values, self._port(name)) for name, values in found.items()}

    def rows(self) -> Mapping[str, Feeds]:
        return {title[:200]: self._fed(feeds) for title, feeds in self._named("rows").items()}

    def work(self) -> Callable[[Mapping[str, int]], float | None] | None:
        return self._estimated if self._ask("work", _cases.shortest_lengths(self._interface)) is not None else None

    def _estimated(self, lengths: Mapping[str, int]) -> float | None:
        match self._ask("work", lengths):
            case [int() | float() as number] if number >= 0:
                return float(number)
        return None

    def plausible(self, feeds: Feeds) -> Feeds:
        found = self._fed(self._ask("plausible", feeds))
        if {n: (v.dtype, v.shape) for n, v in found.items()} != {n: (v.dtype, v.shape) for n, v in feeds.items()}:
            raise _forged("inputs that a processor could have made")
        return found

    def unoptimised(self, feeds: Feeds) -> Arrays | None:
        found = self._ask("unoptimised", feeds)
        if found is None:
            return None
        if not isinstance(found, list) or not all(map(_is_array, found)):
            raise _forged("results of its own call")
        return cast("Arrays", found)

    def leaves(self, feeds: Feeds) -> Leaves:
        match self._ask("leaves", feeds):
            case {"tied": tied, "along": [*along], "sets": [*sets]} if tied is None or _is_mask(tied):
                return Leaves(tied, tuple(map(bool, along)), tuple(map(str, sets)))
        raise _forged("what of its answers is compared")

    def gaps(self, feeds: Feeds, output: int, expected: Any, got: Any) -> Any:
        if expected.shape != got.shape or bool((expected == got).all()):
            return None
        found = self._ask("gaps", feeds, output, expected, got)
        if found is not None and (not _is_array(found) or found.shape != got.shape or found.dtype.kind != "f"):
            raise _forged("how near its answers were")
        return found

    def rounding(self, feeds: Feeds, output: int) -> float | None:
        match self._ask("rounding", feeds, output):
            case None:
                return None
            case int() | float() as number if 0 <= number < math.inf:
                return float(number)
        raise _forged("how far rounding moves it")

    def count(self, feeds: Feeds, outputs: Arrays) -> None:
        self._ask("count", feeds, outputs)

    def coverage(self) -> Mapping[str, Mapping[str, int]]:
        found = self._named("coverage")
        for numbers in found.values():
            if not isinstance(numbers, dict) or sorted(numbers) != ["of", "reached"]:
                raise _forged("what was exercised of it")
            if not all(type(number) is int and number >= 0 for number in numbers.values()):
                raise _forged("what was exercised of it")
        return found

    def _named(self, question: str) -> Mapping[str, Any]:
        found = self._ask(question)
        if not isinstance(found, dict) or len(found) > 10_000:
            raise _forged(f"its {question}")
        return found

    def _port(self, name: str) -> JSON:
        port = next((port for port in self._interface["inputs"] if port["name"] == name), None)
        if port is None:
            raise _forged("its samples")
        return port

    def _fed(self, feeds: Any) -> Feeds:
        ports = {port["name"]: port for port in self._interface["inputs"]}
        if not isinstance(feeds, dict) or set(feeds) != set(ports) or not all(map(_is_array, feeds.values())):
            raise _forged("rows of its inputs")
        if any(feeds[name].ndim != len(port["shape"]) for name, port in ports.items()):
            raise _forged("rows of its inputs")
        return feeds


def _sampled(values: Any, port: JSON) -> Any:
    """Return samples of an input: rows without the batch axis, or what draws its flags."""
    match values:
        case {"shown": bool(shown)} if len(values) == 1:
            return masks.Stretch(shown)
    if not _is_array(values) or values.ndim != len(port["shape"]):
        raise _forged("its samples")
    return values


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "ndim")


def _is_mask(value: Any) -> bool:
    return _is_array(value) and value.dtype == bool and value.ndim == 1


def _raised(error: Any) -> Exception:
    """Return the error that the other side met, as this side would have met it."""
    if not isinstance(error, dict):
        return _forged("an error")
    message, hint, kind = str(error.get("message"))[:_LONGEST], error.get("hint"), error.get("kind")
    if kind is None:
        proposed = edits.from_worker(error.get("edits"))
        return StepError(message, hint=str(hint)[:_LONGEST] if hint else None, edits=proposed)
    name = str(kind) if re.fullmatch(r"[A-Za-z_]\w{0,60}", str(kind)) else "Exception"
    return cast(Exception, type(name, (Exception,), {})(message))


def _forged(what: str) -> StepError:
    return StepError(f"the worker of the source gives {what} in a form that no source has")
