# SPDX-License-Identifier: Apache-2.0
"""What a process gets from its supervisor: the listening socket that all share, and a line to each other.

One byte is one word. The process says that its model is loaded (only where it was told to wait), that it is ready, and
that it was asked to end. It hears that it may listen, and that others serve in its place. When the line ends, the
supervisor is gone and the process drains.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass, field

from packager.server.process import listeners

LOADED, READY, ENDING = b"l", b"R", b"e"  # said by the process
LISTEN, OTHERS = b"L", b"o"  # said by the supervisor
OLD_READY = b"r"  # of servers that understand no word
WAITS = "PACKAGER_SERVER_WAITS"  # environment: wait for LISTEN. Older servers do not know it and listen when loaded.


@dataclass(slots=True)
class Inherited:
    """File descriptors. `standby`: listen only when ready; `waits`: and not before LISTEN is heard.

    `others` is set when other processes serve in the place of this one.
    """

    listener: int
    line: int
    standby: bool = False
    waits: bool = False
    others: asyncio.Event = field(default_factory=asyncio.Event)
    _listen: asyncio.Event = field(default_factory=asyncio.Event)
    _ending: bool = False

    def watch(self, stop: asyncio.Event) -> None:
        """Set `stop` when the supervisor is gone, and hear its words. Call in the event loop."""
        asyncio.get_running_loop().add_reader(self.line, self._hear, stop)

    def _hear(self, stop: asyncio.Event) -> None:
        with suppress(OSError):
            words = os.read(self.line, 16)
            if LISTEN in words:
                self._listen.set()
            if OTHERS in words:
                self.others.set()
            if words:
                return
        asyncio.get_running_loop().remove_reader(self.line)
        if not self._ending:
            stop.set()

    def end(self) -> None:
        """Tell the supervisor that this process ends; it answers OTHERS when others serve in its place."""
        self._ending = True
        self.say(ENDING)

    async def turn(self) -> None:
        """Return when a process whose model is loaded may listen."""
        if self.waits:
            self.say(LOADED)
            await self._listen.wait()

    def say(self, word: bytes) -> None:
        """Tell the supervisor."""
        with suppress(BrokenPipeError):  # `watch` tells of it
            os.write(self.line, word)

    def descriptors(self) -> list[int]:
        """Return the descriptors of this process that name the shared listener."""
        return listeners.same(self.listener)
