# SPDX-License-Identifier: Apache-2.0
"""The protocol of systemd: take its listener, notify it of readiness, and feed its watchdog.

Environment variables announce it (sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3)); without them nothing here
has any effect.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packager.server.errors import StartError, quote

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")
_FIRST = 3  # the first descriptor that is passed


@dataclass(frozen=True, slots=True)
class Systemd:
    """What systemd requested. `interval` is in seconds, `listener` a descriptor; None: not requested."""

    address: str | None = None
    interval: float | None = None
    listener: int | None = None

    @staticmethod
    def from_environment(environment: Mapping[str, str], pid: int) -> Systemd:
        """Read the variables, except those meant for another process. Raises StartError."""
        own = environment.get("LISTEN_PID") == str(pid)
        count = environment.get("LISTEN_FDS", "0") if own else "0"
        if count not in ("0", "1"):
            raise StartError(f"expected one listener from the supervisor, got {quote(count)}")
        watched = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        microseconds = environment.get("WATCHDOG_USEC", "") if watched else ""
        interval = int(microseconds) / 2e6 if microseconds.isdecimal() and int(microseconds) else None
        return Systemd(environment.get("NOTIFY_SOCKET") or None, interval, _FIRST if count == "1" else None)

    def notify(self, *lines: str) -> None:
        """Send lines to systemd. A failure is ignored: it is no reason to stop serving."""
        if self.address is None:
            return
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
                connection.sendto("\n".join(lines).encode(), address)
        except OSError:
            return

    async def keep_alive(self) -> None:
        """Feed the watchdog twice per its interval; this stops when the event loop does."""
        while self.interval is not None:
            self.notify("WATCHDOG=1")
            await asyncio.sleep(self.interval)

    def listener_address(self) -> tuple[str, int]:
        """Return address and port of the listener. Raises StartError if it is none for TCP."""
        try:
            with socket.socket(fileno=socket.dup(self.listener)) as found:  # type: ignore[arg-type]
                address: Any = found.getsockname()
        except OSError as error:
            raise StartError(f"the supervisor's listener is not usable: {error.strerror}", code=3) from None
        if found.family not in (socket.AF_INET, socket.AF_INET6):
            raise StartError("expected a TCP listener from the supervisor", code=3)
        return str(address[0]), int(address[1])
