# SPDX-License-Identifier: Apache-2.0
"""Evaluate a program in a child process with limits of time and memory.

`evaluate` runs in the parent, `main` in the child, which has no environment and opens nothing. It reads one JSON
document and writes one: the value, or the error.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from packager.policy.language import program
from packager.policy.language.values import RegoError, UndefinedError

SECONDS = 10
MEMORY = 1 << 30
_ANSWER = 1 << 24
_START = "from packager.policy.language import child; child.main()"


def evaluate(
    text: str, document: Mapping[str, Any], now: int | None = None, *, seconds: int = SECONDS, memory: int = MEMORY
) -> dict[str, Any]:
    """Return the values of a program for a document; `now`: the time in nanoseconds, if it may be read.

    Raises UndefinedError where something is absent in a rule that decides, and RegoError for what cannot be evaluated,
    or takes more than `seconds` of processor time (thrice that by the clock) or `memory` bytes.
    """
    request = {"text": text, "document": document, "now": now, "seconds": seconds, "memory": memory}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _START],
            input=json.dumps(request).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            timeout=3 * seconds,
            check=False,
        )
        reply = json.loads(done.stdout[: _ANSWER + 1]) if done.returncode == 0 else {}
    except subprocess.TimeoutExpired:
        reply = {}
    if "silence" in reply:
        raise UndefinedError(reply["silence"])
    if "value" not in reply:
        raise RegoError(reply.get("refused", f"its evaluation takes more than {seconds} s or {memory >> 20} MiB"))
    found: dict[str, Any] = reply["value"]
    return found


def main() -> None:
    """Evaluate one request from standard input and write the reply to standard output."""
    request = json.load(sys.stdin)
    for what, most in (
        (resource.RLIMIT_AS, request["memory"]),
        (resource.RLIMIT_CPU, request["seconds"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(what, (most, most))
    try:
        loaded = program.load(request["text"], clock=request["now"] is not None)
        answer: dict[str, Any] = {"value": program.evaluate(loaded, request["document"], now=request["now"])}
    except UndefinedError as silence:
        answer = {"silence": str(silence)}
    except RegoError as refused:
        answer = {"refused": str(refused)}
    text = json.dumps(answer)
    if len(text) <= _ANSWER:
        sys.stdout.write(text)
