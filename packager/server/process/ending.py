# SPDX-License-Identifier: Apache-2.0
"""Graceful shutdown: end a server without losing a request (docs/adr/190).

| | HTTP | gRPC |
| --- | --- | --- |
| on a signal | readiness is 503, every answer has `connection: close` | readiness is false |
| until `quiet` seconds pass without a request | requests are served as before | the same |
| then accepting stops | connections in the accept queue are answered | the same; connections end by age |
| then the server closes | | |

Load balancers send requests until they notice, which takes them seconds, and these arrive on new connections. Probes
and scrapes are not counted, because they never stop. Where other processes serve in the place of this one, accepting
stops at once. All of it takes `drain` seconds at most: accepting stops early enough for the open requests, a second
before the end over HTTP, and the age of a connection earlier over gRPC.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from packager.server.execution.engine import Engine
from packager.server.grpc.service import GrpcServer
from packager.server.process import listeners
from packager.server.process.inherited_sockets import Inherited

_LAST_SECONDS = 1.0  # for a request on a connection that was accepted last, after others took over
_SETTLE_SECONDS = 0.3  # the same after no request came for `quiet` seconds
_AGE_SECONDS = 10.0


def max_connection_age(drain: float) -> float:
    """Return how old a gRPC connection may get, in seconds."""
    return min(_AGE_SECONDS, max(drain / 2, 1.0))


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a server. `drain`, `quiet`: seconds; `port`: where HTTP listens.

    `own`: what a supervisor passed; `passed`: systemd passed the listener.
    """

    engine: Engine
    drain: float
    quiet: float
    port: int
    own: Inherited | None
    passed: bool

    async def finish_requests(self, grpc: GrpcServer | None) -> None:
        """Turn readiness off, stop accepting, and return when every request is answered."""
        self.engine.start_draining()
        if self.own:
            self.own.announce_end()
        await asyncio.gather(self._finish_http(), *([] if grpc is None else [self._finish_grpc(grpc)]))

    async def _finish_http(self) -> None:
        await self._wait_for_last_request(self.drain - self._reserved_seconds)
        others = self.own is not None and self.own.others.is_set()
        if self.own:
            descriptors = self.own.listener_descriptors()
        else:
            descriptors = await asyncio.to_thread(listeners.sockets_on_port, self.port, listening=True)
        if others:
            listeners.detach_listeners(descriptors)
        else:
            await listeners.stop_accepting(descriptors, exclusive=not (self.own or self.passed))
        await self.engine.admission.wait_idle(_LAST_SECONDS if others else _SETTLE_SECONDS)

    async def _finish_grpc(self, grpc: GrpcServer) -> None:
        await self._wait_for_last_request(self.drain - self._reserved_seconds - max_connection_age(self.drain))
        await grpc.stop_accepting()
        await self.engine.admission.wait_idle(0)

    @property
    def _reserved_seconds(self) -> float:
        """Seconds that are kept for the last answers."""
        return min(_LAST_SECONDS, self.drain / 4)

    async def _wait_for_last_request(self, seconds: float) -> None:
        """Return when no request comes any more, others serve, or `seconds` have passed."""
        ends: list[asyncio.Task[Any]] = [
            asyncio.create_task(self.engine.admission.wait_idle(self.quiet if self.engine.loaded else 0.0))
        ]
        if self.own:
            ends.append(asyncio.create_task(self.own.others.wait()))
        await asyncio.wait(ends, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
