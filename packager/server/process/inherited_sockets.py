# SPDX-License-Identifier: Apache-2.0
"""What a server process inherits from its supervisor: the shared listening socket, and a channel to each other.

One byte is one message. The process sends that its model is loaded (only where it has to wait), that it is ready, and
that it received a signal to end. It receives that it may listen, and that other processes serve in its place. When the
channel closes, the supervisor is gone and the process drains.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass, field

from packager.server.process import listeners

LOADED, READY, ENDING = b"l", b"R", b"e"  # sent by the process
LISTEN, OTHERS = b"L", b"o"  # sent by the supervisor
OLD_READY = b"r"  # of servers that read no messages
WAITS = "PACKAGER_SERVER_WAITS"  # environment: wait for LISTEN. Older servers ignore it and listen when loaded.


@dataclass(slots=True)
class Inherited:
    """File descriptors. `standby`: listen only when ready; `waits`: and not before LISTEN is received.

    `others` is set when other processes serve in the place of this one.
    """

    listener: int
    channel: int
    standby: bool = False
    waits: bool = False
    others: asyncio.Event = field(default_factory=asyncio.Event)
    _listen: asyncio.Event = field(default_factory=asyncio.Event)
    _ending: bool = False

    def watch(self, stop: asyncio.Event) -> None:
        """Receive messages, and set `stop` when the supervisor is gone. Call in the event loop."""
        asyncio.get_running_loop().add_reader(self.channel, self._receive, stop)

    def _receive(self, stop: asyncio.Event) -> None:
        with suppress(OSError):
            messages = os.read(self.channel, 16)
            if LISTEN in messages:
                self._listen.set()
            if OTHERS in messages:
                self.others.set()
            if messages:
                return
        asyncio.get_running_loop().remove_reader(self.channel)
        if not self._ending:
            stop.set()

    def announce_end(self) -> None:
        """Send that this process ends; the supervisor answers OTHERS when others serve in its place."""
        self._ending = True
        self.send(ENDING)

    async def wait_to_listen(self) -> None:
        """Return when a process whose model is loaded may listen."""
        if self.waits:
            self.send(LOADED)
            await self._listen.wait()

    def send(self, message: bytes) -> None:
        """Send a message to the supervisor."""
        with suppress(BrokenPipeError):  # `watch` notices it
            os.write(self.channel, message)

    def listener_descriptors(self) -> list[int]:
        """Return the descriptors of this process that name the shared listener."""
        return listeners.duplicates_of(self.listener)
