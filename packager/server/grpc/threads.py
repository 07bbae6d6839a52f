# SPDX-License-Identifier: Apache-2.0
"""The thread pool of gRPC calls: each thread takes a call, waits for its message, and answers.

grpcio lets a thread wait for a message without a limit, so that a few clients that send nothing would occupy all
threads. Here a call whose message does not arrive in time is cancelled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_POLL_SECONDS = 0.5


class CallThreads(ThreadPoolExecutor):
    """`count` threads; the message of a call has `seconds` to arrive."""

    def __init__(self, count: int, seconds: float, name: str) -> None:
        super().__init__(count, thread_name_prefix=name)
        self._seconds = seconds
        self._waits: dict[int, tuple[float, Any]] = {}  # by thread: the deadline, and the call to cancel
        threading.Thread(target=self._watch, name=f"{name}-arrivals", daemon=True).start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run grpcio's function that answers a call; the call is among its arguments."""
        return super().submit(self._answer, fn, args, kwargs)

    def _answer(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        me = threading.get_ident()
        event = args[1] if len(args) > 1 else None  # `state.context.run(…, event, …)`, in grpcio 1.66 to 1.85
        call = getattr(event, "call", None)
        if call is not None:
            self._waits[me] = time.monotonic() + self._seconds, call
        try:
            return fn(*args, **kwargs)
        finally:
            self._waits.pop(me, None)

    def message_arrived(self) -> None:
        """Note that the call of the calling thread has its message."""
        self._waits.pop(threading.get_ident(), None)

    def _watch(self) -> None:
        while True:
            time.sleep(_POLL_SECONDS)
            now = time.monotonic()
            for end, call in list(self._waits.values()):
                if now >= end:
                    call.cancel()
