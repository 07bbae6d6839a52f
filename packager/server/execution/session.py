# SPDX-License-Identifier: Apache-2.0
"""Open a model by its runtime's name, check its ports, warm it up, and find the size up to which runs are short.

A request runs in the event loop when its run is sure to be short, since a hop to another thread costs about 0.2 ms;
otherwise on a thread, so that health checks and other requests go on. The size decides: warm-up runs the model on
the bundle's reference inputs (`warm_up`), repeated to larger and larger shapes, until a run takes a millisecond, and
keeps the largest input that stayed below. (Where run time depends on the values, this can be wrong; the first long
run then moves all later ones to threads.)
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
from packager.server.execution.warm_up import WarmUpInputs
from packager.server.protocol.interface import Interface, Tensor
from packager.server.protocol.tensors import Array
from packager.server.telemetry.logs import log_event

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
    """An open model: `packager.runtimes.<name>.session.open_session(path, threads=…, device=…)` returns one.

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
    """The result of warm-up: seconds of a run of the smallest shapes, bytes of body up to which to run inline."""

    seconds: float
    inline_bytes: int


def load(config: Config, threads: int) -> Session:
    """Open the artefact and check it against the interface. Raises StartError."""
    session = open_artefact(config.runtime, config.artefact, threads, config.device)
    check_ports(session.inputs, session.outputs, config.interface)
    return session


def open_artefact(runtime: str, path: Path, threads: int, device: str) -> Session:
    """Open an artefact with its runtime. Raises StartError."""
    module = f"packager.runtimes.{runtime.replace('-', '_')}.session"
    try:
        open_session = importlib.import_module(module).open_session
    except ImportError as error:
        raise StartError(
            f"runtime {quote(runtime)} cannot be imported: {error}", hint="install the bundle again"
        ) from None

    try:
        session: Session = open_session(path, threads=threads, device=device)
    except Exception as error:  # every runtime raises other exceptions
        reason = str(error).strip().splitlines()
        raise StartError(f"{runtime} cannot load {quote(path)}: {' '.join(reason)[:500]}") from error
    return session


def check_ports(inputs: Sequence[Port], outputs: Sequence[Port], interface: Interface) -> None:
    """Check the ports of an artefact against the interface. Raises StartError."""
    _check_role(inputs, interface.inputs, "input")
    _check_role(outputs, interface.outputs, "output")


def _check_role(actual: Sequence[Port], promised: Sequence[Tensor], role: str) -> None:
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
    """Return whether all sizes that both fix agree; the interface may fix sizes that the artefact leaves open."""
    return len(actual) == len(promised) and all(
        size == expected
        for size, expected in zip(actual, promised, strict=True)
        if isinstance(size, int) and isinstance(expected, int)
    )


def warm_up(session: Session, inputs: WarmUpInputs) -> WarmUp:
    """Run the smallest shapes, then larger ones while they stay short. Raises StartError if the smallest fail."""
    feeds = inputs.smallest()
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
        if inputs.size(scale) == inputs.size(scale // 2):
            return WarmUp(seconds, INLINE_BYTES)
        if inputs.size(scale) > INLINE_BYTES:
            break
        larger = inputs.scaled(scale)
        feeds = larger
        spent = _probe(session, feeds)
    return WarmUp(seconds, min(limit, INLINE_BYTES))


def _probe(session: Session, feeds: dict[str, Array]) -> float:
    try:
        return _measure(session, feeds)
    except Exception as error:  # the model may not take a length that was not measured: this only ends the search
        log_event("warm-up stopped early", logging.WARNING, reason=str(error).strip()[:500])
        return float("inf")


def _measure(session: Session, feeds: dict[str, Array]) -> float:
    """Return the least seconds of a run, after one that is not counted: load on the host only ever adds."""
    session.run(feeds)
    times = []
    for _ in range(_TIMED_RUNS):
        started = time.perf_counter()
        session.run(feeds)
        times.append(time.perf_counter() - started)
    return min(times)


def passes_self_test(session: Session, inputs: WarmUpInputs) -> bool:
    """Return whether the model still runs the smallest inputs, as it did at the start."""
    try:
        session.run(inputs.smallest())
    except Exception as error:  # every runtime raises other exceptions
        log_event("self-test", logging.ERROR, reason=str(error).strip()[:500])
        return False
    return True


def _size(feeds: dict[str, Array]) -> int:
    return sum(array.nbytes for array in feeds.values())
