# SPDX-License-Identifier: Apache-2.0
"""Try graph after graph in the interpreter of an environment, in a process that may die: its death is an answer too.

A runtime has a program for it, started as `PYTHON PROGRAM FILE FIRST [OUT]`. FILE holds records: four big-endian
numbers (three lengths, and a relative tolerance in millionths), a graph in the form that the program reads, its inputs
as an `.npz` (none: load it only), what it should give as an `.npz` of `0`, `1`, … (none: anything). The program prints
one JSON line `[index, "ok"]` or `[index, "message"]` for each record from FIRST on; what it makes of a record, if
it makes something, it leaves in OUT under the index.

A runtime under test is foreign code: where bubblewrap works it has no network, reads the system and writes only to the
folder of its trials, which holds copies of the graphs; everywhere that folder is its home.
"""

from __future__ import annotations

import functools
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

from packager.sandbox import sandbox

CLEAN = {  # without `ORT_DISABLE_TELEMETRY` before its import, ONNX Runtime keeps an identity in the home directory
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "PYTHONNOUSERSITE": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = subprocess.run(
            _confine([str(python), str(program), "--about"], [folder]),
            capture_output=True,
            text=True,
            env=_environment(folder),
            cwd=folder,
            timeout=PATIENCE,
            check=False,
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
            end = _process(_confine(command, [path.parent, *([out] if out else [])]), log)
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
                env=_environment(log.parent),
                cwd=log.parent,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no answer for {PATIENCE} s"
    signal = -done.returncode if done.returncode < 0 else done.returncode - 128  # as bubblewrap reports one
    return f"signal {signal}" if signal > 0 else f"exit status {done.returncode}"


def _environment(folder: Path) -> dict[str, str]:
    return {**CLEAN, "HOME": str(folder), "TMPDIR": str(folder)}


def _confine(command: Sequence[str], writable: Sequence[Path]) -> list[str]:
    """Return a command without a network, that writes only to some folders; as it is where bubblewrap does not work."""
    wrapper = _find_wrapper()
    if wrapper is None:
        return [*command]
    seen = [Path(command[0]).parent.parent, Path(command[1]).parent]  # may lie in a memory file system below /dev
    options = [word for path in seen for word in ("--ro-bind", str(path), str(path))]
    options += [word for path in writable for word in ("--bind", str(path), str(path))]
    return [*wrapper, *options, "--chdir", str(writable[0]), "--", *command]


@functools.cache
def _find_wrapper() -> tuple[str, ...] | None:
    """Return the call of bubblewrap, None where there is none that works."""
    found = sandbox.find_bubblewrap()
    if found is None:
        return None
    spaces = ("--unshare-net", "--unshare-ipc", "--unshare-pid", "--die-with-parent", "--cap-drop", "ALL")
    call = (found, *spaces, "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc")
    done = subprocess.run([*call, "--", "/bin/true"], capture_output=True, check=False, timeout=PATIENCE)
    return call if done.returncode == 0 else None


def _whole_lines(log: Path) -> list[str]:
    return [row for row in log.read_text("utf-8", "replace").splitlines(keepends=True) if row.endswith("\n")]
