# SPDX-License-Identifier: Apache-2.0
"""Evaluate a program in a process of its own, bounded in time and memory: `ask` is called here, `main` runs there.

The process has no environment and opens nothing. It reads one JSON document and writes one: the value, or why there is
none.
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


def ask(
    text: str, document: Mapping[str, Any], now: int | None = None, *, seconds: int = SECONDS, memory: int = MEMORY
) -> dict[str, Any]:
    """Return what a program says about a document; `now`: nanoseconds, if it may ask.

    Raises UndefinedError where something is absent in a rule that decides, and Refused for what cannot be evaluated, or takes
    more than `seconds` of a processor (thrice as many by the clock) or `memory` bytes.
    """
    asked = {"text": text, "document": document, "now": now, "seconds": seconds, "memory": memory}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _START],
            input=json.dumps(asked).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            timeout=3 * seconds,
            check=False,
        )
        told = json.loads(done.stdout[: _ANSWER + 1]) if done.returncode == 0 else {}
    except subprocess.TimeoutExpired:
        told = {}
    if "silence" in told:
        raise UndefinedError(told["silence"])
    if "value" not in told:
        raise RegoError(told.get("refused", f"its evaluation takes more than {seconds} s or {memory >> 20} MiB"))
    found: dict[str, Any] = told["value"]
    return found


def main() -> None:
    """Answer one question on the standard streams."""
    asked = json.load(sys.stdin)
    for what, most in (
        (resource.RLIMIT_AS, asked["memory"]),
        (resource.RLIMIT_CPU, asked["seconds"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(what, (most, most))
    try:
        loaded = program.load(asked["text"], clock=asked["now"] is not None)
        answer: dict[str, Any] = {"value": program.evaluate(loaded, asked["document"], now=asked["now"])}
    except UndefinedError as silence:
        answer = {"silence": str(silence)}
    except RegoError as refused:
        answer = {"refused": str(refused)}
    text = json.dumps(answer)
    if len(text) <= _ANSWER:
        sys.stdout.write(text)
