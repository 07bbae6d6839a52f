# SPDX-License-Identifier: Apache-2.0
"""Run Open Policy Agent, where it is installed and a profile says `opa: true`.

It gets no environment, and no built-ins for clock, network or randomness; the time is passed as a value. Every error of
a built-in ends the evaluation (`--strict-builtin-errors`).
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
_WITHHELD = frozenset(
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


def evaluate(text: str, name: str, document: Mapping[str, Any], now: int | None) -> dict[str, Any]:
    """Return the document of the package `main`. Raises UsageError for what `opa` refuses, StepError without it."""
    program = shutil.which("opa")
    if program is None:
        raise StepError(
            f"`{name}` needs Open Policy Agent, but `opa` is not installed",
            hint="put it on PATH, or leave `opa: true` out of the profile",
        )
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "policy.rego").write_text(text)
        (scratch / "input.json").write_text(json.dumps(document))
        (scratch / "capabilities.json").write_text(json.dumps(_capabilities(program, clock=now is not None)))
        query = "data.main" + ("" if now is None else f" with time.now_ns as {now}")
        output = _run(
            program,
            "eval",
            "--strict-builtin-errors",
            "--capabilities",
            str(scratch / "capabilities.json"),
            "--format",
            "json",
            "--timeout",
            f"{_SECONDS}s",
            "--data",
            str(scratch / "policy.rego"),
            "--input",
            str(scratch / "input.json"),
            query,
        )
    if output.get("errors"):
        first = output["errors"][0]
        line = first.get("location", {}).get("row", 0)
        raise UsageError(f"`{name}` is refused by `opa`: line {line}: {first.get('message', '?'):.300}")
    found = output["result"][0]["expressions"][0]["value"] if output.get("result") else {}
    return found if isinstance(found, dict) else {}


def _capabilities(program: str, *, clock: bool) -> dict[str, Any]:
    known = _run(program, "capabilities", "--current")
    withheld = _WITHHELD - ({"time.now_ns"} if clock else set())
    known["builtins"] = [item for item in known["builtins"] if item["name"] not in withheld]
    return {**known, "allow_net": []}


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
                raise StepError(f"`opa` ran longer than {2 * _SECONDS} s") from None
        found: dict[str, Any] = json.loads(out)
    except (OSError, ValueError) as error:
        raise StepError(f"`opa` gives no answer: {error}") from None
    return found
