# SPDX-License-Identifier: Apache-2.0
"""A release process's end of the pipes to its driver: models come in, questions and rows go out.

Threads may ask at the same time; one thread reads, so that neither end ever waits for the other to read.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import BinaryIO

from packager import canonical
from packager.canonical import JSON
from packager.errors import SourceError


class Channel:
    """Lines of JSON from and to the driver."""

    def __init__(self, jobs: BinaryIO, answers: BinaryIO) -> None:
        self._jobs, self._answers = jobs, answers
        self._models: queue.SimpleQueue[JSON] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._asked: dict[int, Future[JSON]] = {}
        self._count = 0
        threading.Thread(target=self._read, name="driver", daemon=True).start()

    def models(self) -> Iterator[JSON]:
        """Yield models until the driver closes the input."""
        while (value := self._models.get()) is not None:
            yield value

    def tell(self, value: JSON) -> None:
        """Send one line."""
        line = canonical.dump(value) + b"\n"
        with self._lock:
            while line:
                line = line[self._answers.write(line) or 0 :]

    def ask(self, value: JSON) -> JSON:
        """Send a request, wait for its answer and return it. Raises SourceError where it is cancelled."""
        future: Future[JSON] = Future()
        with self._lock:
            self._count += 1
            number = self._count
            self._asked[number] = future
        self.tell({"perform": value, "number": number})
        return future.result()

    def cancel(self) -> None:
        """Give up a request: its answers are no longer waited for."""
        with self._lock:
            left, self._asked = self._asked, {}
        for future in left.values():
            future.set_exception(SourceError("the step was cancelled on the cluster", hint="release again to go on"))
        if left:
            self.tell({"cancelled": True})

    def _read(self) -> None:
        for line in self._jobs:
            value = json.loads(line)
            if "performed" not in value:
                self._models.put(value)
                continue
            with self._lock:
                future = self._asked.pop(value["number"], None)
            if future is not None:
                future.set_result(value["performed"])
        self._models.put(None)
