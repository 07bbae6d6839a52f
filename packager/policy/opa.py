# SPDX-License-Identifier: Apache-2.0
"""Open Policy Agent itself as the judge, where it is installed and a profile says so.

It gets no environment, and neither clock, network nor chance among its built-ins; a time comes as a value. Every error
of a built-in ends the evaluation (`--strict-builtin-errors`).
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packager.errors import StepError, UsageError

_SECONDS = 20
_MEMORY = 4 << 30  # addresses, of which Go's runtime reserves many
_KEPT_AWAY = frozenset(
    (
        "http.send",
        "net.lookup_ip_addr",
        "opa.runtime",
        "rand.intn",
        "uuid.rfc4122",
        "time.now_ns",
        "trace",
        "print",
        "internal.print",
        "rego.metadata.chain",
        "rego.metadata.rule",
        "rego.parse_module",
    )
)


def answer(text: str, name: str, document: Mapping[str, Any], now: int | None) -> dict[str, Any]:
    """Return the document of the package `main`. Raises UsageError for what `opa` refuses, StepError without it."""
    program = shutil.which("opa")
    if program is None:
        raise StepError(
            f"`{name}` is to be judged by Open Policy Agent, and there is no `opa` here",
            hint="put it on PATH, or leave `opa: true` out of the profile",
        )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "policy.rego").write_text(text)
        (place / "input.json").write_text(json.dumps(document))
        (place / "capabilities.json").write_text(json.dumps(_capabilities(program, clock=now is not None)))
        query = "data.main" + ("" if now is None else f" with time.now_ns as {now}")
        told = _run(
            program,
            "eval",
            "--strict-builtin-errors",
            "--capabilities",
            str(place / "capabilities.json"),
            "--format",
            "json",
            "--timeout",
            f"{_SECONDS}s",
            "--data",
            str(place / "policy.rego"),
            "--input",
            str(place / "input.json"),
            query,
        )
    if told.get("errors"):
        first = told["errors"][0]
        line = first.get("location", {}).get("row", 0)
        raise UsageError(f"`{name}` is refused by `opa`: line {line}: {first.get('message', '?'):.300}")
    found = told["result"][0]["expressions"][0]["value"] if told.get("result") else {}
    return found if isinstance(found, dict) else {}


def _capabilities(program: str, *, clock: bool) -> dict[str, Any]:
    told = _run(program, "capabilities", "--current")
    unwanted = _KEPT_AWAY - ({"time.now_ns"} if clock else set())
    told["builtins"] = [item for item in told["builtins"] if item["name"] not in unwanted]
    return {**told, "allow_net": []}


def _run(program: str, *words: str) -> dict[str, Any]:
    """Run `opa` for one JSON document. Raises StepError."""
    try:
        with subprocess.Popen(
            [program, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
        ) as process:
            resource.prlimit(process.pid, resource.RLIMIT_AS, (_MEMORY, _MEMORY))
            try:
                out, _ = process.communicate(timeout=2 * _SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise StepError(f"`opa` takes longer than {2 * _SECONDS} s") from None
        found: dict[str, Any] = json.loads(out)
    except (OSError, ValueError) as error:
        raise StepError(f"`opa` gives no answer: {error}") from None
    return found
