# SPDX-License-Identifier: Apache-2.0
"""For authors of adapters: subclass `Adapter`, call `run`. The protocol itself is in ../README.md.

stdout belongs to the protocol: what the runtime prints there is sent to stderr instead.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from typing import Any

import numpy as np

from suite import wire


class UnavailableError(Exception):
    """Raised if the machine lacks a device, driver or library: the cell is skipped with this reason."""


class BadRequestError(Exception):
    """The request was refused, as it should be; the message is what the client reads."""


class BrokenRuntimeError(Exception):
    """The runtime failed where it should have answered or refused, such as HTTP 500."""


class Adapter:
    """One runtime. Every method gets the message of the suite and returns the members of the answer."""

    def hello(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return `runtime` and `version`, as the runtime itself reports them."""
        raise NotImplementedError

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        """Open `message["model"]`; return `pid`, `device`, `provider`, and for a server its `endpoints`."""
        raise NotImplementedError

    def metadata(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return `inputs` and `outputs` as the runtime sees them: name, dtype, shape (-1 where it varies)."""
        raise NotImplementedError

    def infer(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """Answer one request: numpy arrays by name."""
        raise NotImplementedError

    def stop(self) -> dict[str, Any]:
        """Release everything; a server's exit `code` and `seconds`."""
        return {}


def run(adapter: Adapter) -> None:
    """Answer messages until `stop` or the end of stdin, then stop the runtime and end."""
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    stopped = False
    try:
        for line in source:
            message = json.loads(line)
            answer = _answer(adapter, message)
            stopped = message.get("op") == "stop"
            answers.write(json.dumps({"id": message.get("id"), **answer}).encode("utf-8") + b"\n")
            if stopped:
                return
    finally:
        if not stopped:  # the suite went away: leave no server behind
            adapter.stop()


def _answer(adapter: Adapter, message: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"ok": True, **_perform(adapter, message)}
    except UnavailableError as error:
        return _error("unavailable", error)
    except BrokenRuntimeError as error:
        return _error("failed", error)
    except BadRequestError as error:
        return _error("request", error)
    except Exception as error:  # each runtime has its own tree of exceptions, and a bad request may raise any of them
        return _error("request" if message.get("op") == "infer" else "failed", error)


def _error(kind: str, error: Exception) -> dict[str, Any]:
    text = str(error).strip() or type(error).__name__
    return {"ok": False, "error": {"kind": kind, "message": text[:2000]}}


def _perform(adapter: Adapter, message: dict[str, Any]) -> dict[str, Any]:
    operation = message.get("op")
    if operation == "hello":
        python, pid = platform.python_version(), os.getpid()
        return {"protocol": 1, "python": python, "numpy": np.__version__, "pid": pid, **adapter.hello(message)}
    if operation == "infer":
        return {"outputs": wire.pack_all(adapter.infer(wire.unpack_all(message["inputs"])))}
    if operation == "bench":
        return {"seconds": _bench(adapter, wire.unpack_all(message["inputs"]), message["runs"], message["seconds"])}
    if operation in ("load", "metadata"):
        return dict(getattr(adapter, operation)(message))
    if operation == "stop":
        return dict(adapter.stop())
    raise BadRequestError(f"unknown operation {operation!r}")


def _bench(adapter: Adapter, feeds: dict[str, Any], runs: int, seconds: float) -> list[float]:
    """Time single runs, at most `runs` of them and about `seconds` in all."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < runs and (not times or time.perf_counter() < end):
        started = time.perf_counter()
        adapter.infer(feeds)
        times.append(time.perf_counter() - started)
    return times
