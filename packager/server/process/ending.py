# SPDX-License-Identifier: Apache-2.0
"""How a server ends without losing a request (docs/adr/190).

| | HTTP | gRPC |
| --- | --- | --- |
| a signal | readiness is 503, every answer says `connection: close` | readiness is false |
| until nobody came for `quiet` seconds | whoever comes is served as before | the same |
| then the listener is left | whom the kernel took is accepted and answered | the same; connections end by age |
| then all is closed | | |

Balancers send requests until they notice, which takes them seconds, and what they send arrives on new connections.
Probes and scrapes are not counted: they go on for ever. Where other processes serve in the place of this one, the
listener is left to them at once. All of it takes `drain` seconds at most: newcomers are turned away early enough for
those who are there, a second before the end over HTTP, and the age of a connection earlier over gRPC.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from packager.server.execution.engine import Engine
from packager.server.grpc.service import Rpc
from packager.server.process import listeners as places
from packager.server.process.inherited import Inherited

_LAST_SECONDS = 1.0  # for whom was accepted last; to ask, after others took over
_SETTLE_SECONDS = 0.3  # for whom was accepted last, to ask, after nobody came any more
_AGE_SECONDS = 10.0


def age(drain: float) -> float:
    """Return how old a gRPC connection gets, in seconds."""
    return min(_AGE_SECONDS, max(drain / 2, 1.0))


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a server. `drain`, `quiet`: seconds. `own`: what a supervisor passed; `passed`: systemd the listener.

    `port` is where HTTP listens.
    """

    engine: Engine
    drain: float
    quiet: float
    port: int
    own: Inherited | None
    passed: bool

    async def leave(self, rpc: Rpc | None) -> None:
        """Turn readiness off; return when there is nobody left to answer."""
        self.engine.begin_to_drain()
        if self.own:
            self.own.end()
        await asyncio.gather(self._leave_http(), *([] if rpc is None else [self._leave_grpc(rpc)]))

    async def _leave_http(self) -> None:
        await self._newcomers(self.drain - self._least)
        others = self.own is not None and self.own.others.is_set()
        if self.own:
            listeners = self.own.descriptors()
        else:
            listeners = await asyncio.to_thread(places.held, self.port, listening=True)
        if others:
            places.silence(listeners)
        else:
            await places.leave(listeners, ours=not (self.own or self.passed))
        await self.engine.gate.quiet(_LAST_SECONDS if others else _SETTLE_SECONDS)

    async def _leave_grpc(self, rpc: Rpc) -> None:
        await self._newcomers(self.drain - self._least - age(self.drain))
        await rpc.leave()
        await self.engine.gate.quiet(0)

    @property
    def _least(self) -> float:
        """Seconds that are kept for the last answers."""
        return min(_LAST_SECONDS, self.drain / 4)

    async def _newcomers(self, seconds: float) -> None:
        """Return when nobody comes any more, others serve, or `seconds` have passed."""
        ends: list[asyncio.Task[Any]] = [
            asyncio.create_task(self.engine.gate.quiet(self.quiet if self.engine.loaded else 0.0))
        ]
        if self.own:
            ends.append(asyncio.create_task(self.own.others.wait()))
        await asyncio.wait(ends, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
