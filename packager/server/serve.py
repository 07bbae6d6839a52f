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
lock. One process is one Python interpreter: scale a host by running more of them behind a balancer.

Order on SIGTERM or SIGINT: readiness answers 503; requests in flight finish, new ones are served with
`connection: close`; when none is left the listener closes, granian closes idle connections and finishes busy ones;
exit. All of it ends after `drain` seconds, or at a second signal.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server

from packager.server import logs
from packager.server.app import App
from packager.server.config import Config
from packager.server.errors import StartError, quote
from packager.server.gate import Limits
from packager.server.knobs import Knobs
from packager.server.logs import event
from packager.server.rpc import Rpc
from packager.server.systemd import Supervisor

_HEAD_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve: where, with what, for how long. `drain` is in seconds."""

    host: str
    port: int
    threads: int
    workers: int
    drain: float
    log_level: str
    limits: Limits
    grpc_port: int | None = None
    log_format: str = "json"
    knobs: Knobs = field(default_factory=Knobs)
    tls: tuple[Path, Path] | None = None
    supervisor: Supervisor = field(default_factory=Supervisor)


async def serve(config: Config, settings: Settings) -> None:
    """Serve until a signal. Raises StartError.

    Threads and connections may outlive this: the caller ends the process without waiting for them.
    """
    supervisor = settings.supervisor
    if supervisor.listener is None:
        address, port = claim(settings.host, settings.port), settings.port
    else:
        address, port = supervisor.local()
    app = App(config, settings.limits, settings.workers, settings.knobs)
    rpc = _rpc(app, address, settings)
    server = supervisor.adopt(_server(app, address, settings))
    stop = _signals()
    event(
        "starting", host=address, port=port, model=config.name, version=config.version,
        digest=config.digest, target=config.target, artefact=str(config.artefact), knobs=settings.knobs.digest,
    )  # fmt: skip
    listening = asyncio.create_task(_listen(server))
    stopping = asyncio.create_task(stop.wait())
    alive = asyncio.create_task(supervisor.keep_alive())
    if await _load(app, settings, listening, stopping):
        supervisor.tell("READY=1", f"STATUS=serving {config.name} {config.version} ({config.digest})")
        await asyncio.wait((listening, stopping), return_when=asyncio.FIRST_COMPLETED)
    if listening.done():
        raise listening.exception() or StartError("the HTTP server stopped by itself")
    stop.clear()
    supervisor.tell("STOPPING=1")
    await _drain(app, server, rpc, listening, stop, settings.drain)
    alive.cancel()


def _rpc(app: App, address: str, settings: Settings) -> Rpc | None:
    """Open the gRPC side beside HTTP, where it was asked for. Raises StartError."""
    if settings.grpc_port is None:
        return None
    claim(settings.host, settings.grpc_port)
    rpc = Rpc(app, address, settings.grpc_port, settings.limits, settings.workers)
    rpc.start()
    return rpc


def claim(host: str, port: int) -> str:
    """Return the numeric address of `host`, having made sure that `port` is free there. Raises StartError.

    granian listens with SO_REUSEPORT, which lets a second server take half of the connections of a first in
    silence; a listener without it, bound for a moment, finds out.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # One listener has one address: of a name with several, clients most likely try the IPv4 one.
        family, kind, number, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise _unavailable(host, port, error) from None
    return str(address[0])


def _unavailable(host: str, port: int, error: OSError) -> StartError:
    hint = None
    if error.errno == errno.EADDRINUSE:
        hint = f"`ss -ltnp sport = :{port}` shows who has it; or choose another `--port`"
    elif error.errno == errno.EACCES:
        hint = "ports below 1024 need a privilege; choose a higher `--port`"
    return StartError(f"cannot listen on {quote(f'{host}:{port}')}: {error.strerror}", code=3, hint=hint)


class _Here(type(Path())):  # type: ignore[misc]
    """A path taken as it is: `/proc/self/fd/N`, an inherited secret, would resolve to a name that does not exist."""

    def resolve(self, strict: bool = False) -> _Here:
        return self


def _server(app: App, address: str, settings: Settings) -> Any:
    limits = settings.limits
    certificate, key = map(_Here, settings.tls) if settings.tls else (None, None)
    level = LogLevels.debug if settings.log_level == "debug" else LogLevels.error
    return Server(
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
        ssl_cert=certificate,
        ssl_key=key,
    )  # fmt: skip


async def _listen(server: Any) -> None:
    try:
        await server.serve()
    except OSError as error:  # the port was taken after we looked
        raise _unavailable(server.bind_addr, server.bind_port, error) from None


def _signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _load(app: App, settings: Settings, *ends: asyncio.Task[Any]) -> bool:
    """Return True when the model is ready, False when one of `ends` came first."""
    loading = asyncio.create_task(app.load(settings.threads))
    await asyncio.wait((loading, *ends), return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        return False
    session, warm_up = loading.result()
    event(
        "ready", runtime_version=session.version, provider=session.provider,
        run_ms=round(warm_up.seconds * 1000, 3), inline_bytes=warm_up.inline_bytes,
    )  # fmt: skip
    return True


async def _drain(
    app: App, server: Any, rpc: Rpc | None, listening: asyncio.Task[Any], stop: asyncio.Event, seconds: float
) -> None:  # fmt: skip
    """Finish what is in flight, then close; all of it within `seconds`, or until `stop` is set again."""
    started = time.perf_counter()
    event("draining", in_flight=app.in_flight, drain_s=seconds)
    hurry = asyncio.create_task(stop.wait())
    ending = asyncio.create_task(_end(app, server, rpc, listening, seconds))
    await asyncio.wait((ending, hurry), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    event(
        "stopped", logging.INFO if ending.done() else logging.WARNING,
        abandoned=app.in_flight, took_s=round(time.perf_counter() - started, 3),
    )  # fmt: skip


async def _end(app: App, server: Any, rpc: Rpc | None, listening: asyncio.Task[Any], seconds: float) -> None:
    await app.drain()
    if rpc is not None:
        await asyncio.to_thread(rpc.stop, seconds)
    server.stop()
    await asyncio.wait((listening,))
