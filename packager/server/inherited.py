# SPDX-License-Identifier: Apache-2.0
"""What a process gets from its supervisor: the listening socket that all share, and a line to each other.

The process says one byte when it is ready. When the line ends, the supervisor is gone and the process drains.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from packager.server import places

READY = b"r"


@dataclass(frozen=True, slots=True)
class Inherited:
    """File descriptors. `standby`: others serve meanwhile, so listen only when ready."""

    listener: int
    line: int
    standby: bool = False

    def watch(self, stop: asyncio.Event) -> None:
        """Set `stop` when the supervisor is gone. Call in the event loop."""
        asyncio.get_running_loop().add_reader(self.line, self._heard, stop)

    def _heard(self, stop: asyncio.Event) -> None:
        asyncio.get_running_loop().remove_reader(self.line)
        stop.set()

    def ready(self) -> None:
        """Tell the supervisor."""
        with suppress(BrokenPipeError):  # `watch` tells of it
            os.write(self.line, READY)

    def leave(self) -> None:
        """Accept no further connections; the others keep the socket.

        Nothing can be lost on the way: a connection is either taken before or stays in the queue for the others.
        """
        shared = os.fstat(self.listener).st_ino
        places.silence([number for number in _descriptors() if _inode(number) == shared])


def _descriptors() -> list[int]:
    return [int(path.name) for path in Path("/proc/self/fd").iterdir()]


def _inode(descriptor: int) -> int:
    try:
        return os.fstat(descriptor).st_ino
    except OSError:  # the descriptor of the listing itself
        return 0
