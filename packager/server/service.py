# SPDX-License-Identifier: Apache-2.0
"""The life of the server process: listen, load, serve, drain, stop.

granian runs embedded, in this process and event loop, not as its usual supervisor with worker processes. Measured
with 2.8.7 on two busy cores: one keep-alive client, binary tensors, a minimal application, p50 in ms of four
interleaved rounds, resident memory in MB:

| | tiny MLP | CNN, 12 KB | 602 KB in and out | memory |
| --- | --- | --- | --- | --- |
| embedded | 0.20-0.35 | 0.24-0.38 | 1.38-1.54 | 78 |
| supervisor and one worker | 0.20-0.37 | 0.24-0.40 | 1.35-1.49 | 75 + 33 |

Latency does not decide. Embedded wins on what is left: a model that does not load or a port that is taken ends this
process with its exit code and sentence, not a worker below a supervisor; SIGTERM arrives where the in-flight count
is, so that readiness turns off first; counters live in one process; nothing is spawned, so neither `sys.path` nor the
configuration has to reach a child. granian calls the mode experimental, so its version belongs in the installation's
lock. One process is one Python interpreter: `supervisor` runs several on one socket, and replaces them.

On SIGTERM or SIGINT it ends as `ending` says, after `drain` seconds at most, or at a second signal.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels

from packager.server.admission.gate import Limits
from packager.server.config import Config
from packager.server.errors import StartError
from packager.server.execution.engine import Engine, Work
from packager.server.execution.session import Session, WarmUp
from packager.server.grpc.service import Credentials, Rpc, prepare
from packager.server.http.app import App
from packager.server.http.auth import Guard
from packager.server.http.proxies import Proxies
from packager.server.knobs import Knobs
from packager.server.process import host_limits
from packager.server.process.ending import Ending, age
from packager.server.process.granian_server import ListenerServer
from packager.server.process.inherited import READY, Inherited
from packager.server.process.listeners import claim, unavailable
from packager.server.process.systemd import Supervisor
from packager.server.telemetry import logs
from packager.server.telemetry.logs import event
from packager.server.telemetry.traces import Collector

_HEAD_BYTES = 2**16

Loaded: TypeAlias = tuple[Session, WarmUp]
Turn: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve: where, with what, for how long. `drain` and `quiet` are in seconds, as `ending` says."""

    host: str
    port: int
    work: Work
    drain: float
    log_level: str
    limits: Limits
    quiet: float = 1.0
    grpc_port: int | None = None
    log_format: str = "json"
    knobs: Knobs = field(default_factory=Knobs)
    tls: Credentials | None = None
    guard: Guard = field(default_factory=Guard)
    proxies: Proxies = field(default_factory=Proxies)
    inherited: Inherited | None = None
    collector: Collector | None = None
    supervisor: Supervisor = field(default_factory=Supervisor)


async def serve(config: Config, settings: Settings) -> None:
    """Serve until a signal, or until the supervisor is gone. Raises StartError.

    Threads and connections may outlive this: the caller ends the process without waiting for them.
    """
    own, supervisor = settings.inherited, settings.supervisor
    address, port = _place(settings)
    engine = Engine(config, settings.limits, settings.work, settings.knobs, settings.collector)
    server = _server(App(engine, settings.guard, settings.proxies), address, settings)
    stop = _signals()
    if own:
        own.watch(stop)
    event(
        "starting",
        host=address,
        port=port,
        model=config.name,
        version=config.version,
        digest=config.digest,
        target=config.target,
        artefact=str(config.artefact),
        knobs=settings.knobs.digest,
        workers=settings.work.workers,
        **asdict(host_limits.read()),
    )
    stopping = asyncio.create_task(stop.wait())
    loaded: Loaded | None = None
    if own and own.standby:
        if settings.grpc_port is not None:
            await asyncio.to_thread(prepare)  # others may count on this one as soon as it has its turn
        loaded = await _load(engine, own.turn, stopping)
        if loaded is None:
            return
    rpc = _rpc(engine, address, settings)
    listening = asyncio.create_task(_listen(server))
    alive = asyncio.create_task(supervisor.keep_alive())
    loaded = loaded or await _load(engine, None, listening, stopping)
    if loaded is not None:
        _tell_ready(*loaded)
        if own:
            own.say(READY)
        supervisor.tell("READY=1", f"STATUS=serving {config.name} {config.version} ({config.digest})")
        await asyncio.wait((listening, stopping), return_when=asyncio.FIRST_COMPLETED)
    if listening.done():
        raise listening.exception() or StartError("the HTTP server stopped by itself")
    stop.clear()
    supervisor.tell("STOPPING=1")
    ending = Ending(engine, settings.drain, settings.quiet, port, own, passed=supervisor.listener is not None)
    await _drain(ending, server, rpc, listening, stop)
    alive.cancel()


def _place(settings: Settings) -> tuple[str, int]:
    """Return where this process listens, or those that share the socket it was given. Raises StartError."""
    if settings.inherited:
        return settings.host, settings.port
    if settings.supervisor.listener is not None:
        return settings.supervisor.local()
    return claim(settings.host, settings.port), settings.port


def _rpc(engine: Engine, address: str, settings: Settings) -> Rpc | None:
    """Open the gRPC side beside HTTP, where it was asked for. Raises StartError."""
    if settings.grpc_port is None:
        return None
    if settings.inherited is None:
        claim(settings.host, settings.grpc_port)
    rpc = Rpc(
        engine,
        settings.guard,
        address,
        settings.grpc_port,
        tls=settings.tls,
        age=age(settings.drain),
        shared=settings.inherited is not None,
    )
    rpc.start()
    return rpc


class _Here(type(Path())):  # type: ignore[misc]
    """A path taken as it is: `/proc/self/fd/N`, an inherited secret, would resolve to a name that does not exist."""

    def resolve(self, strict: bool = False) -> _Here:
        return self


def _server(app: App, address: str, settings: Settings) -> Any:
    limits, tls = settings.limits, settings.tls
    level = LogLevels.debug if settings.log_level == "debug" else LogLevels.error
    try:
        server = ListenerServer(
            app,
            address=address,
            port=settings.port,
            interface=Interfaces.RSGI,
            http=HTTPModes.http1,
            websockets=False,
            backlog=1024,
            backpressure=limits.connections,
            http1_settings=HTTP1Settings(
                header_read_timeout=int(limits.read_timeout * 1000), max_buffer_size=_HEAD_BYTES
            ),
            log_level=level,
            log_dictconfig=logs.settings(settings.log_level, settings.log_format),
            ssl_cert=_Here(tls.certificate) if tls else None,
            ssl_key=_Here(tls.key) if tls else None,
            ssl_ca=_Here(tls.client_ca) if tls and tls.client_ca else None,
            ssl_client_verify=bool(tls and tls.client_ca),
        )
    except OSError as error:  # ssl.SSLError is one
        raise StartError(f"the certificate, its key or the clients' CA cannot be used: {error}") from None
    own = settings.inherited
    server.listener = os.dup(own.listener) if own else settings.supervisor.listener
    return server


async def _listen(server: Any) -> None:
    try:
        await server.serve()
    except OSError as error:  # the port was taken after we looked
        raise unavailable(server.bind_addr, server.bind_port, error) from None


def _signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _first(wanted: Coroutine[Any, Any, object], *ends: asyncio.Task[Any]) -> asyncio.Task[Any] | None:
    """Return `wanted` done, or None when one of `ends` came first."""
    task = asyncio.create_task(wanted)
    await asyncio.wait((task, *ends), return_when=asyncio.FIRST_COMPLETED)
    return task if task.done() else None


async def _load(engine: Engine, turn: Turn | None, *ends: asyncio.Task[Any]) -> Loaded | None:
    """Return the model when it is ready, and has its `turn` to serve; None when one of `ends` came first."""
    loaded = await _first(engine.load(), *ends)
    if loaded is None:
        return None
    found: Loaded = loaded.result()
    if turn is not None and await _first(turn(), *ends) is None:
        return None
    return found


def _tell_ready(session: Session, warm_up: WarmUp) -> None:
    event(
        "ready",
        runtime_version=session.version,
        provider=session.provider,
        run_ms=round(warm_up.seconds * 1000, 3),
        inline_bytes=warm_up.inline_bytes,
    )


async def _drain(
    ending: Ending, server: Any, rpc: Rpc | None, listening: asyncio.Task[Any], stop: asyncio.Event
) -> None:
    """Answer whoever is there, then close; all of it within `drain`, or until `stop` is set again."""
    started, engine = time.perf_counter(), ending.engine
    event("draining", in_flight=engine.gate.in_flight, drain_s=ending.drain)
    hurry = asyncio.create_task(stop.wait())
    closing = asyncio.create_task(_close(ending, server, rpc, listening))
    await asyncio.wait((closing, hurry), timeout=ending.drain, return_when=asyncio.FIRST_COMPLETED)
    engine.metrics.flush()
    event(
        "stopped",
        logging.INFO if closing.done() else logging.WARNING,
        abandoned=engine.gate.in_flight,
        took_s=round(time.perf_counter() - started, 3),
    )


async def _close(ending: Ending, server: Any, rpc: Rpc | None, listening: asyncio.Task[Any]) -> None:
    await ending.leave(rpc)
    if rpc is not None:
        await asyncio.to_thread(rpc.stop, ending.drain)
    server.stop()
    await asyncio.wait((listening,))
