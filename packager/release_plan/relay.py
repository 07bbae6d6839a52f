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
class _Asked:
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
        self._asked: dict[int, _Asked] = {}
        self._count = 0

    @property
    def answers(self) -> BinaryIO:
        """What to wait for before `read`."""
        return self._gateway.answers

    def ask(self, process: object, message: Mapping[str, JSON], model: str, reply: Reply) -> None:
        """Pass a request of a process on; the answer goes to `reply`."""
        label = f"{model}: {message['perform']['request']['label']}"
        self._count += 1
        self._asked[self._count] = _Asked(process, message["number"], label, time.monotonic(), reply)
        self._on_event(Started(label))
        self._gateway.send({"id": self._count, "label": label, **message["perform"]})

    def read(self) -> None:
        """Hand out the answers that are there. Raises SourceError where the gateway has ended."""
        for message in self._gateway.read():
            asked = self._asked.get(message["id"])
            if asked is None:
                continue  # its process is gone
            if "note" in message:
                self._on_event(Warned(escape.line(message["note"])))
                continue
            del self._asked[message["id"]]
            seconds = time.monotonic() - asked.began
            self._on_event(Finished(asked.label, seconds))
            asked.reply({"number": asked.number, "performed": message["answer"]})

    def drop(self, process: object) -> None:
        """Cancel what a process asked for: it is gone, or one of its steps failed."""
        numbers = [number for number, asked in self._asked.items() if asked.process is process]
        for number in numbers:
            asked = self._asked.pop(number)
            self._on_event(Finished(asked.label, time.monotonic() - asked.began))
        if numbers:
            self._gateway.send({"cancel": numbers})

    def close(self) -> None:
        """Cancel everything."""
        self._gateway.close()
