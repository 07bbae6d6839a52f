# SPDX-License-Identifier: Apache-2.0
"""Try graph after graph in the interpreter of an environment, in a process that may die: its death is an answer too.

A runtime has a program for it, started as `PYTHON PROGRAM FILE FIRST [OUT]`. FILE holds records: four big-endian
numbers (three lengths, and a relative tolerance in millionths), a graph in the form that the program reads, its inputs
as an `.npz` (none: load it only), what it should give as an `.npz` of `0`, `1`, … (none: anything). The program prints
one JSON line `[index, "ok"]` or `[index, "message"]` for each record from FIRST on; what it makes of a record, if
it makes something, it leaves in OUT under the index.
"""

from __future__ import annotations

import importlib
import io
import json
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLEAN = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONNOUSERSITE": "1"}
PATIENCE = 600  # seconds for the rest of a file of graphs; loading 11 000 takes 4


@dataclass(frozen=True, slots=True)
class Trial:
    """A serialised model; its inputs and what it should give as `.npz` (empty: load only, give anything)."""

    graph: bytes
    feeds: bytes = b""
    expected: bytes = b""
    tolerance: float = 0.0

    def packed(self) -> bytes:
        """Write it as a program of trials reads it."""
        parts = (self.graph, self.feeds, self.expected)
        return struct.pack(">QQQQ", *map(len, parts), round(self.tolerance * 1e6)) + b"".join(parts)


def read_trials(path: Path) -> Iterator[tuple[bytes, bytes, bytes, float]]:
    """Yield graph, inputs, expected outputs and tolerance of every trial in a file."""
    with path.open("rb") as file:
        while head := file.read(32):
            graph, feeds, expected, millionths = struct.unpack(">QQQQ", head)
            yield file.read(graph), file.read(feeds), file.read(expected), millionths / 1e6


def pack_arrays(named: Mapping[str, Any]) -> bytes:
    """Return arrays as the bytes of an `.npz`."""
    file = io.BytesIO()
    importlib.import_module("numpy").savez(file, **named)
    return file.getvalue()


def read_facts(python: Path, program: Path) -> Any:
    """Return the facts that a runtime's program reports of its environment, None if it cannot."""
    done = subprocess.run(
        [python, program, "--about"], capture_output=True, text=True, env=CLEAN, timeout=PATIENCE, check=False
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def run(python: Path, program: Path, graphs: Sequence[Trial], out: Path | None = None) -> list[str]:
    """Try every graph with the program of a runtime in an environment; return the results.

    A graph that kills or hangs the process is `died: …`; those behind it are tried in a new process.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder, "graphs"), Path(folder, "log")
        path.write_bytes(b"".join(trial.packed() for trial in graphs))
        reported: dict[int, str] = {}
        while len(reported) < len(graphs):
            command = [str(python), str(program), str(path), str(len(reported)), *([str(out)] if out else [])]
            end = _process(command, log)
            reported |= dict(map(json.loads, _whole_lines(log)))
            if len(reported) < len(graphs):
                reported[len(reported)] = f"died: {end}"
        return [reported[index] for index in range(len(graphs))]


def _process(command: Sequence[str], log: Path) -> str:
    with log.open("wb") as file:
        try:
            done = subprocess.run(
                command,
                stdout=file,
                stderr=subprocess.DEVNULL,
                env=CLEAN,
                cwd=log.parent,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no answer for {PATIENCE} s"
    return f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"


def _whole_lines(log: Path) -> list[str]:
    return [row for row in log.read_text("utf-8", "replace").splitlines(keepends=True) if row.endswith("\n")]
