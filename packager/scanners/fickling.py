# SPDX-License-Identifier: Apache-2.0
"""fickling: traces a pickle without running it and judges what it would do.

Its judgements that call every class outside of the standard library unsafe are left out: they refuse each honest model.
What remains are imports and calls that are dangerous by name, but for the names on our own list, streams that are
malformed or grow without end, and attempts to switch scanners off. An opcode that it does not know is written as one it
knows.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import pickletools
import re
from pathlib import Path
from typing import Any

from packager import scanners
from packager.errors import MissingToolError
from packager.scanners._allowlist import ALLOWED

TOOLCHAIN = ("fickling",)
EXTRA = "scan"
_BINBYTES8 = 0x8E
_IMPORT = re.compile(r"from ([\w.]+) import (\w+)")
_LIMITS = {"max_opcodes": 100_000_000, "max_memo_size": 10_000_000, "max_stack_depth": 1_000_000}
"""A vocabulary of 100,000 words is no attack; how long it reads, and in how much memory, is bounded from outside."""
_TOO_STRICT = frozenset({"NonStandardImports", "OvertlyBadEvals", "UnusedVariables"})


def scan(file: Path) -> list[str]:
    """Return what a file would do that no data does. Raises its PickleDecodeError for what is no pickle."""
    try:
        tool, reader = (importlib.import_module(f"fickling.{name}") for name in ("analysis", "fickle"))
    except ImportError as error:
        raise MissingToolError("fickling", EXTRA) from error
    vars(reader)["DEFAULT_INTERPRETER_LIMITS"] = reader.InterpreterLimits(**_LIMITS)
    kinds = [kind for kind in tool.Analysis.ALL if type(kind).__name__ not in _TOO_STRICT]
    analyzer = tool.Analyzer(kinds)
    found: list[str] = []
    for name, data in scanners.find_pickles(file):
        stack = list(reader.StackedPickle.load(io.BytesIO(_readable(data))))
        if not stack:
            raise ValueError(f"`{name}` holds no pickle")
        for pickled in stack:
            found += _worse(tool, tool.check_safety(pickled, analyzer=analyzer))
    return sorted(set(found))


def _readable(data: bytes) -> bytes:
    """Return a pickle with each bytearray written as bytes, in as many bytes: the one is unknown to fickling 0.1."""
    readable, stream = bytearray(data), io.BytesIO(data)
    with contextlib.suppress(ValueError):  # what is no pickle any more is its business, not ours
        while stream.tell() < len(data):
            for code, _, position in pickletools.genops(stream):
                if code.name == "BYTEARRAY8" and position is not None:
                    readable[position] = _BINBYTES8
    return bytes(readable)


def _worse(tool: Any, results: Any) -> list[str]:
    bad = [item for item in results.results if item.severity > tool.Severity.LIKELY_SAFE]
    return [str(item).partition("\n")[0][:200] for item in bad if not _is_allowed(item.trigger or "")]


def _is_allowed(trigger: str) -> bool:
    """Say whether a judgement is about the import of a name that was looked at one by one and found harmless."""
    found = _IMPORT.fullmatch(trigger)
    return found is not None and found.groups() in ALLOWED
