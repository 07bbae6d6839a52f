# SPDX-License-Identifier: Apache-2.0
"""The model behind the protocol: open it by its runtime's name, check it, warm it up, learn where to run it.

A request runs in the event loop when that is sure to be short, since a hop to another thread costs about 0.2 ms;
otherwise on a thread, so that health checks and other requests go on. Which it is depends on its size: warm-up runs
the model on the bundle's reference inputs (`trial`), repeated to larger and larger shapes, until a run takes a
millisecond, and remembers the largest input that stayed below. (A model whose time depends on the values can deceive
it; the first run that is long after all moves every later one to a thread.)
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from packager.server.config import Config
from packager.server.errors import StartError, quote
from packager.server.execution.warm_up import Trial
from packager.server.protocol.interface import Interface, Tensor
from packager.server.protocol.tensors import Array
from packager.server.telemetry.logs import event

INLINE_SECONDS = 0.001
INLINE_BYTES = 2**20
# A tensor's bytes come with a JSON document of this size or so; inline limits are compared with whole bodies.
_DOCUMENT_BYTES = 1024
_TIMED_RUNS = 3


class Port(Protocol):
    """An input or output as the runtime sees it; a size it leaves open is a name or None."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int | str | None, ...]: ...


class Session(Protocol):
    """What a runtime offers: `packager.runtimes.<name>.session.open_session(path, threads=…, device=…)` returns one.

    `run` may be called from several threads at once, takes every input by name and returns every output in the
    order of `outputs`.
    """

    @property
    def inputs(self) -> Sequence[Port]: ...
    @property
    def outputs(self) -> Sequence[Port]: ...
    @property
    def provider(self) -> str: ...
    @property
    def version(self) -> str: ...
    def run(self, feeds: dict[str, Array]) -> list[Array]: ...


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What warm-up learned: seconds of a run of the smallest shapes, bytes of body up to which to run inline."""

    seconds: float
    inline_bytes: int


def load(config: Config, threads: int) -> Session:
    """Open the artefact and hold it against the interface. Raises StartError."""
    session = open_artefact(config.runtime, config.artefact, threads, config.device)
    check(session.inputs, session.outputs, config.interface)
    return session


def open_artefact(runtime: str, path: Path, threads: int, device: str) -> Session:
    """Open what a runtime compiled. Raises StartError."""
    module = f"packager.runtimes.{runtime.replace('-', '_')}.session"
    try:
        open_session = importlib.import_module(module).open_session
    except ImportError as error:
        raise StartError(
            f"runtime {quote(runtime)} cannot be imported: {error}", hint="install the bundle again"
        ) from None

    try:
        session: Session = open_session(path, threads=threads, device=device)
    except Exception as error:  # every runtime has its own exceptions; here they all mean the same
        reason = str(error).strip().splitlines()
        raise StartError(f"{runtime} cannot load {quote(path)}: {' '.join(reason)[:500]}") from error
    return session


def check(inputs: Sequence[Port], outputs: Sequence[Port], interface: Interface) -> None:
    """Hold what an artefact has against what is promised. Raises StartError."""
    _check(inputs, interface.inputs, "input")
    _check(outputs, interface.outputs, "output")


def _check(actual: Sequence[Port], promised: Sequence[Tensor], role: str) -> None:
    ports = {port.name: port for port in actual}
    if ports.keys() != {tensor.name for tensor in promised}:
        names = ", ".join(tensor.name for tensor in promised)
        raise StartError(f"artefact: expected {role}s {quote(names)}, got {quote(', '.join(ports))}")
    for tensor in promised:
        port = ports[tensor.name]
        if port.dtype != tensor.dtype or not _fits(port.shape, tensor.shape):
            raise StartError(
                f"artefact: expected {role} {quote(tensor.name)} to be {tensor.dtype} {list(tensor.shape)}, "
                f"got {port.dtype} {list(port.shape)}"
            )


def _fits(actual: Sequence[int | str | None], promised: Sequence[int | str]) -> bool:
    """Tell whether no fixed size contradicts another; a promise may fix or name what the artefact leaves open."""
    return len(actual) == len(promised) and all(
        size == expected
        for size, expected in zip(actual, promised, strict=True)
        if isinstance(size, int) and isinstance(expected, int)
    )


def warm_up(session: Session, trial: Trial) -> WarmUp:
    """Run the smallest shapes, then larger ones while they stay short. Raises StartError if the smallest fail."""
    feeds = trial.smallest()
    try:
        seconds = _measure(session, feeds)
    except Exception as error:
        raise StartError(f"the model fails on its smallest inputs: {str(error).strip()[:500]}") from error
    limit = 0
    scale = 1
    spent = seconds
    while spent < INLINE_SECONDS:
        limit = _size(feeds) + _DOCUMENT_BYTES
        scale *= 2
        if trial.size(scale) == trial.size(scale // 2):
            return WarmUp(seconds, INLINE_BYTES)
        if trial.size(scale) > INLINE_BYTES:
            break
        larger = trial.grown(scale)
        feeds = larger
        spent = _probe(session, feeds)
    return WarmUp(seconds, min(limit, INLINE_BYTES))


def _probe(session: Session, feeds: dict[str, Array]) -> float:
    try:
        return _measure(session, feeds)
    except Exception as error:  # a length that was not measured may be no valid question: it only ends the search
        event("warm-up stopped early", logging.WARNING, reason=str(error).strip()[:500])
        return float("inf")


def _measure(session: Session, feeds: dict[str, Array]) -> float:
    """Return the least seconds of a run, after one that does not count: a busy host only ever adds."""
    session.run(feeds)
    times = []
    for _ in range(_TIMED_RUNS):
        started = time.perf_counter()
        session.run(feeds)
        times.append(time.perf_counter() - started)
    return min(times)


def works(session: Session, trial: Trial) -> bool:
    """Tell whether the model still runs the smallest inputs, as it did at the start."""
    try:
        session.run(trial.smallest())
    except Exception as error:  # every runtime has its own exceptions
        event("self-test", logging.ERROR, reason=str(error).strip()[:500])
        return False
    return True


def _size(feeds: dict[str, Array]) -> int:
    return sum(array.nbytes for array in feeds.values())
