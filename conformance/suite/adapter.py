# SPDX-License-Identifier: Apache-2.0
"""The program under test, seen from the suite: one process group, one line of JSON per message, every wait bounded."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from suite import wire

_LINE = 1 << 30  # bytes of one answer


class AdapterError(Exception):
    """The program broke the protocol, died, or did not answer in time: never what a good runtime does."""


class RefusedError(Exception):
    """The runtime refused, with a sentence. `status` is HTTP's code, or None where there is no HTTP."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class UnavailableError(Exception):
    """The runtime cannot exist on this machine; the reason is the adapter's."""


class Process:
    """An adapter that runs. Close it, always: that ends the whole group, whatever state it is in."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], scratch: Path, memory: int) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.log = scratch / "adapter.log"
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                env=dict(environment),
                cwd=scratch,
                start_new_session=True,
                preexec_fn=_limit(memory),
            )
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._count = 0
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        """The process the suite started."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Return whether the program still runs, and is still read from."""
        return self._process.poll() is None

    def _read(self) -> None:
        assert self._process.stdout
        while line := self._process.stdout.readline(_LINE):
            self._lines.put(line)
        self._lines.put(b"")

    def call(self, operation: str, seconds: float, /, **members: Any) -> dict[str, Any]:
        """Send one message and return the answer. Raises RefusedError, UnavailableError, AdapterError."""
        self._count += 1
        message = json.dumps({"op": operation, "id": self._count, **members}).encode() + b"\n"
        assert self._process.stdin
        try:
            self._process.stdin.write(message)
            self._process.stdin.flush()
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            self.close()  # an answer that comes later would be taken for that of the next question
            raise AdapterError(f"no answer to `{operation}` within {seconds:.0f} s") from None
        except (OSError, ValueError):  # the pipe is broken, or was closed by us
            line = b""
        if not line:
            raise AdapterError(f"the program {self._end()} on `{operation}`: {self.tail()}")
        return self._checked(line, operation)

    def _checked(self, line: bytes, operation: str) -> dict[str, Any]:
        try:
            answer = json.loads(line)
            known = answer["id"] == self._count
            if answer["ok"] is True and known:
                return dict(answer)
            kind, text = answer["error"]["kind"], str(answer["error"]["message"])
        except (ValueError, KeyError, TypeError):
            raise AdapterError(f"the answer to `{operation}` is not of the protocol: {line[:200]!r}") from None
        if kind == "unavailable":
            raise UnavailableError(text)
        if kind == "request" and known:
            raise RefusedError(text)
        raise AdapterError(f"`{operation}` failed: {text}")

    def _end(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(5)
            return f"crashed with {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return "closed its output"

    def infer(self, feeds: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Run one request: numpy arrays by name."""
        answer = self.call("infer", seconds, inputs=wire.pack_all(dict(feeds)))
        try:
            return wire.unpack_all(answer["outputs"])
        except (KeyError, ValueError, AttributeError) as error:
            raise AdapterError(f"the answer to `infer` holds no tensors: {error}") from None

    def tail(self) -> str:
        """Return the end of what the program wrote to stderr."""
        rows = self.log.read_bytes()[-1500:].decode("utf-8", "replace").strip().splitlines()
        return " / ".join(row.strip() for row in rows[-4:]) or "its log is empty"

    def close(self) -> None:
        """End the whole process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe and pipe.close()


def _limit(memory: int) -> Callable[[], None]:
    def apply() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    return apply
