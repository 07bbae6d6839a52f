# SPDX-License-Identifier: Apache-2.0
"""The runtime of one cell, started, loaded and reachable through its channels; started again on demand."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any, Protocol

from suite import oip, processes, rpc
from suite.adapter import AdapterError, Process, RefusedError, UnavailableError
from suite.cell import Cell
from suite.contract import Contract
from suite.oip import UnsupportedError

GRACE = 5.0  # seconds that helpers of a server may outlive it


class Channel(Protocol):
    """A way to call the runtime."""

    def infer(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs by name. Raises RefusedError, AdapterError, UnsupportedError."""


class InProcess:
    """The adapter itself answers."""

    def __init__(self, process: Process, seconds: float) -> None:
        self._process, self._seconds = process, seconds

    def infer(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        return self._process.infer(feeds, self._seconds)


class Subject:
    """The runtime under test. `process` is None for an endpoint that is already running."""

    def __init__(self, cell: Cell, contract: Contract) -> None:
        self.cell, self.contract = cell, contract
        self.process: Process | None = None
        self.hello: dict[str, Any] = {}
        self.loaded: dict[str, Any] = {}
        self.seconds_to_load = 0.0
        self.before_knobs: Mapping[str, Any] | None = None  # an answer of the runtime as it was, while knobs are set
        self._channels: dict[str, Channel] = {}

    def start(self, knobs: Mapping[str, Any] | None = None) -> None:
        """Start the adapter and load the model, with other settings than its own if given.

        Raises UnavailableError, AdapterError.
        """
        cell, self._channels = self.cell, {}
        if not cell.adapter:
            self.loaded = {"endpoints": dict(cell.endpoints), "model": cell.options["model"]}
            return
        started = time.monotonic()
        self.process = Process(cell.adapter, cell.environment, cell.scratch, cell.memory)
        self.hello = self.process.call("hello", 120)
        self.loaded = self.process.call(
            "load",
            cell.seconds,
            model=str(cell.model),
            contract=str(cell.contract),
            name=cell.bundle["name"],
            device=cell.device,
            options=dict(cell.options),
            threads=1,
            **({"knobs": dict(knobs)} if knobs else {}),
        )
        self.seconds_to_load = time.monotonic() - started

    def stop(self) -> dict[str, Any]:
        """End the runtime; return its report, and in `left` the processes that did not end."""
        assert self.process
        family = self.alive()
        self._disconnect()
        try:
            report = self.process.call("stop", 90)
            return {**report, "left": self._left(family)}
        finally:
            self.close()

    def _disconnect(self) -> None:
        client = self._channels.get("http")
        if isinstance(client, oip.Http):
            client.disconnect()

    def _left(self, family: list[int]) -> list[int]:
        """Return which of these processes do not end within a moment of the stop; the adapter itself may stay."""
        end = time.monotonic() + GRACE
        while True:
            left = [pid for pid in family if self.process and pid != self.process.pid and processes.family(pid)]
            if not left or time.monotonic() > end:
                return left
            time.sleep(0.05)

    def finish(self) -> None:
        """Let the runtime clean up after itself, then leave nothing running."""
        self._disconnect()
        if self.process:
            with contextlib.suppress(AdapterError, RefusedError, UnavailableError):
                self.process.call("stop", 20)
        self.close()

    def close(self) -> None:
        """Leave nothing running."""
        if self.process:
            self.process.close()

    @property
    def pid(self) -> int:
        """The process that produces the numbers, as the adapter names it."""
        return int(self.loaded.get("pid") or self.hello.get("pid") or 0)

    def alive(self) -> list[int]:
        """Return the living processes of the runtime."""
        return processes.family(self.pid)

    def resident(self) -> int:
        """Return the resident bytes of the runtime's processes."""
        return processes.resident(self.pid)

    @property
    def endpoints(self) -> Mapping[str, Any]:
        """The addresses, empty for an in-process runtime."""
        return self.loaded.get("endpoints") or {}

    @property
    def http(self) -> oip.Http | None:
        """The HTTP client, where there is an HTTP endpoint of the protocol."""
        if "http" not in self.endpoints:
            return None
        found = self.channel("http")
        assert isinstance(found, oip.Http)
        return found

    @property
    def primary(self) -> Channel:
        """The channel on which laws are tested that do not depend on the channel."""
        return self.channel(self.cell.channels[0])

    def channel(self, name: str) -> Channel:
        """Return a channel by name. Raises UnsupportedError when this runtime has none of that name."""
        if name not in self._channels:
            self._channels[name] = self._open(name)
        return self._channels[name]

    def _open(self, name: str) -> Channel:
        endpoints, seconds = self.endpoints, min(60.0, self.cell.seconds)
        model = str(self.loaded.get("model") or self.cell.bundle["name"])
        if name == "adapter":
            if self.process is None:
                raise UnsupportedError("an endpoint has no adapter")
            return InProcess(self.process, seconds)
        if name not in endpoints and not (name == "shm" and "http" in endpoints):
            raise UnsupportedError(f"this runtime has no {name} endpoint")
        if name == "grpc":
            return rpc.Rpc(endpoints, model, self.contract, seconds)
        return self.new_client() if name == "http" else oip.Shared(self.http or self.new_client())

    def new_client(self) -> oip.Http:
        """Return an HTTP client with separate connections."""
        model = str(self.loaded.get("model") or self.cell.bundle["name"])
        return oip.Http(self.endpoints, model, self.contract, min(60.0, self.cell.seconds))
