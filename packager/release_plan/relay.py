# SPDX-License-Identifier: Apache-2.0
"""Between release processes and a cluster: the driver passes requests of its processes on, and answers back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from packager import escape
from packager.canonical import JSON
from packager.cluster.client import Gateway
from packager.events import Finished, OnEvent, Started, Warned

Reply = Callable[[JSON], None]


@dataclass(frozen=True, slots=True)
class _Request:
    """A request under work: by which process and under which number there, and since when."""

    process: object
    number: int
    label: str
    began: float
    reply: Reply


class Relay:
    """Requests of all processes that the gateway works on."""

    def __init__(self, gateway: Gateway, on_event: OnEvent) -> None:
        self._gateway, self._on_event = gateway, on_event
        self._requests: dict[int, _Request] = {}
        self._count = 0

    @property
    def answers(self) -> BinaryIO:
        """What to wait for before `read`."""
        return self._gateway.answers

    def ask(self, process: object, message: Mapping[str, JSON], model: str, reply: Reply) -> None:
        """Pass a request of a process on; the answer goes to `reply`."""
        label = f"{model}: {message['perform']['request']['label']}"
        self._count += 1
        self._requests[self._count] = _Request(process, message["number"], label, time.monotonic(), reply)
        self._on_event(Started(label))
        self._gateway.send({"id": self._count, "label": label, **message["perform"]})

    def read(self) -> None:
        """Hand out the answers that are there. Raises SourceError where the gateway has ended."""
        for message in self._gateway.read():
            request = self._requests.get(message["id"])
            if request is None:
                continue  # its process is gone
            if "note" in message:
                self._on_event(Warned(escape.line(message["note"])))
                continue
            del self._requests[message["id"]]
            seconds = time.monotonic() - request.began
            self._on_event(Finished(request.label, seconds))
            request.reply({"number": request.number, "performed": message["answer"]})

    def drop(self, process: object) -> None:
        """Cancel what a process waits for: it is gone, or one of its steps failed."""
        numbers = [number for number, request in self._requests.items() if request.process is process]
        for number in numbers:
            request = self._requests.pop(number)
            self._on_event(Finished(request.label, time.monotonic() - request.began))
        if numbers:
            self._gateway.send({"cancel": numbers})

    def close(self) -> None:
        """Cancel everything."""
        self._gateway.close()
