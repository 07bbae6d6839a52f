# SPDX-License-Identifier: Apache-2.0
"""Run the server process: listen, load the model, serve, drain, stop.

granian runs embedded, in this process and event loop, not as its usual supervisor with worker processes. Measured
with 2.8.7 on two busy cores: one keep-alive client, binary tensors, a minimal application, p50 in ms of four
interleaved rounds, resident memory in MB:

| | tiny MLP | CNN, 12 KB | 602 KB in and out | memory |
| --- | --- | --- | --- | --- |
| embedded | 0.20-0.35 | 0.24-0.38 | 1.38-1.54 | 78 |
| supervisor and one worker | 0.20-0.37 | 0.24-0.40 | 1.35-1.49 | 75 + 33 |

Latency does not decide. Embedded wins on the rest: a model that does not load or a port that is taken ends this
process with its exit code and message, not a worker below a supervisor; SIGTERM arrives where the in-flight count
is, so that readiness turns off first; counters live in one process; nothing is spawned, so neither `sys.path` nor the
configuration has to reach a child. granian calls the mode experimental, so its version belongs in the installation's
lock. One process is one Python interpreter: `supervisor` runs several on one socket, and replaces them.

On SIGTERM or SIGINT it ends as `ending` describes, after `drain` seconds at most, or at a second signal.
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

from packager.server.admission.admission import Limits
from packager.server.config import Config
from packager.server.errors import StartError
from packager.server.execution.engine import Engine, ExecutionSettings
from packager.server.execution.session import Session, WarmUp
from packager.server.grpc.service import Credentials, GrpcServer, preload_grpc
from packager.server.http.app import App
from packager.server.http.auth import Guard
from packager.server.http.proxies import Proxies
from packager.server.knobs import Knobs, read_default
from packager.server.process import host_limits
from packager.server.process.ending import Ending, max_connection_age
from packager.server.process.granian_server import ListenerServer
from packager.server.process.inherited_sockets import READY, Inherited
from packager.server.process.listeners import address_error, check_port_free
from packager.server.process.systemd import Systemd
from packager.server.telemetry import logs
from packager.server.telemetry.logs import log_event
from packager.server.telemetry.traces import Collector

_HEADER_BYTES = 2**16

Loaded: TypeAlias = tuple[Session, WarmUp]
Permission: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve. `drain` and `quiet` are in seconds, see `ending`."""

    host: str
    port: int
    execution: ExecutionSettings
    drain: float
    log_level: str
    limits: Limits
    quiet: float = read_default("server.quiet")
    grpc_port: int | None = None
    log_format: str = "json"
    knobs: Knobs = field(default_factory=Knobs)
    tls: Credentials | None = None
    guard: Guard = field(default_factory=Guard)
    proxies: Proxies = field(default_factory=Proxies)
    inherited: Inherited | None = None
    collector: Collector | None = None
    systemd: Systemd = field(default_factory=Systemd)
    page: bool = True


async def serve(config: Config, settings: Settings) -> None:
    """Serve until a signal, or until the supervisor is gone. Raises StartError.

    Threads and connections may outlive this: the caller ends the process without waiting for them.
    """
    own, systemd = settings.inherited, settings.systemd
    if config.generation and settings.grpc_port is not None:
        raise StartError("a model that generates text is not served over gRPC", hint="leave `server.grpc_port` out")
    address, port = _address(settings)
    engine = Engine(config, settings.limits, settings.execution, settings.knobs, settings.collector)
    server = _server(App(engine, settings.guard, settings.proxies, page=settings.page), address, settings)
    stop = _signals()
    if own:
        own.watch(stop)
    log_event(
        "starting",
        host=address,
        port=port,
        model=config.name,
        version=config.version,
        digest=config.digest,
        target=config.target,
        artefact=str(config.artefact),
        knobs=settings.knobs.digest,
        workers=settings.execution.workers,
        **asdict(host_limits.read_allowance()),
    )
    stopping = asyncio.create_task(stop.wait())
    loaded: Loaded | None = None
    if own and own.standby:
        if settings.grpc_port is not None:
            await asyncio.to_thread(preload_grpc)  # so that gRPC starts at once when this process may listen
        loaded = await _load(engine, own.wait_to_listen, stopping)
        if loaded is None:
            return
    grpc = _start_grpc(engine, address, settings)
    listening = asyncio.create_task(_serve_http(server))
    alive = asyncio.create_task(systemd.keep_alive())
    loaded = loaded or await _load(engine, None, listening, stopping)
    if loaded is not None:
        _log_ready(*loaded)
        if own:
            own.send(READY)
        systemd.notify("READY=1", f"STATUS=serving {config.name} {config.version} ({config.digest})")
        await asyncio.wait((listening, stopping), return_when=asyncio.FIRST_COMPLETED)
    if listening.done():
        raise listening.exception() or StartError("the HTTP server stopped by itself")
    stop.clear()
    systemd.notify("STOPPING=1")
    ending = Ending(engine, settings.drain, settings.quiet, port, own, passed=systemd.listener is not None)
    await _drain(ending, server, grpc, listening, stop)
    alive.cancel()


def _address(settings: Settings) -> tuple[str, int]:
    """Return the address of HTTP: the inherited one, systemd's, or a free one. Raises StartError."""
    if settings.inherited:
        return settings.host, settings.port
    if settings.systemd.listener is not None:
        return settings.systemd.listener_address()
    return check_port_free(settings.host, settings.port), settings.port


def _start_grpc(engine: Engine, address: str, settings: Settings) -> GrpcServer | None:
    """Start the gRPC server if the settings have a port for it. Raises StartError."""
    if settings.grpc_port is None:
        return None
    if settings.inherited is None:
        check_port_free(settings.host, settings.grpc_port)
    grpc = GrpcServer(
        engine,
        settings.guard,
        address,
        settings.grpc_port,
        tls=settings.tls,
        max_connection_age=max_connection_age(settings.drain),
        shared=settings.inherited is not None,
    )
    grpc.start()
    return grpc


class _LiteralPath(type(Path())):  # type: ignore[misc]
    """A path that is never resolved: `/proc/self/fd/N`, an inherited secret, resolves to a name that does not exist."""

    def resolve(self, strict: bool = False) -> _LiteralPath:
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
                header_read_timeout=int(limits.read_timeout * 1000), max_buffer_size=_HEADER_BYTES
            ),
            log_level=level,
            log_dictconfig=logs.configure_logging(settings.log_level, settings.log_format),
            ssl_cert=_LiteralPath(tls.certificate) if tls else None,
            ssl_key=_LiteralPath(tls.key) if tls else None,
            ssl_ca=_LiteralPath(tls.client_ca) if tls and tls.client_ca else None,
            ssl_client_verify=bool(tls and tls.client_ca),
        )
    except OSError as error:  # ssl.SSLError is one
        raise StartError(f"the certificate, its key or the clients' CA cannot be used: {error}") from None
    own = settings.inherited
    server.listener = os.dup(own.listener) if own else settings.systemd.listener
    return server


async def _serve_http(server: Any) -> None:
    try:
        await server.serve()
    except OSError as error:  # the port was taken after the check
        raise address_error(server.bind_addr, server.bind_port, error) from None


def _signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _wait_for(awaited: Coroutine[Any, Any, object], *ends: asyncio.Task[Any]) -> asyncio.Task[Any] | None:
    """Return the task of `awaited` when it is done, or None when one of `ends` is done first."""
    task = asyncio.create_task(awaited)
    await asyncio.wait((task, *ends), return_when=asyncio.FIRST_COMPLETED)
    return task if task.done() else None


async def _load(engine: Engine, may_serve: Permission | None, *ends: asyncio.Task[Any]) -> Loaded | None:
    """Return the model when it is ready and `may_serve` returned; None when one of `ends` is done first."""
    loaded = await _wait_for(engine.load(), *ends)
    if loaded is None:
        return None
    found: Loaded = loaded.result()
    if may_serve is not None and await _wait_for(may_serve(), *ends) is None:
        return None
    return found


def _log_ready(session: Session, warm_up: WarmUp) -> None:
    log_event(
        "ready",
        runtime_version=session.version,
        provider=session.provider,
        run_ms=round(warm_up.seconds * 1000, 3),
        inline_bytes=warm_up.inline_bytes,
    )


async def _drain(
    ending: Ending, server: Any, grpc: GrpcServer | None, listening: asyncio.Task[Any], stop: asyncio.Event
) -> None:
    """Answer the open requests, then close; all of it within `drain` seconds, or until `stop` is set again."""
    started, engine = time.perf_counter(), ending.engine
    log_event("draining", in_flight=engine.admission.in_flight, drain_s=ending.drain)
    second_signal = asyncio.create_task(stop.wait())
    closing = asyncio.create_task(_close(ending, server, grpc, listening))
    await asyncio.wait((closing, second_signal), timeout=ending.drain, return_when=asyncio.FIRST_COMPLETED)
    engine.metrics.flush()
    log_event(
        "stopped",
        logging.INFO if closing.done() else logging.WARNING,
        abandoned=engine.admission.in_flight,
        took_s=round(time.perf_counter() - started, 3),
    )


async def _close(ending: Ending, server: Any, grpc: GrpcServer | None, listening: asyncio.Task[Any]) -> None:
    await ending.finish_requests(grpc)
    if grpc is not None:
        await asyncio.to_thread(grpc.stop, ending.drain)
    server.stop()
    await asyncio.wait((listening,))
