# SPDX-License-Identifier: Apache-2.0
"""Measure one installed version of ONNX Runtime: which graphs it reads, and which operators it runs on which types."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from packager.runtimes.onnxruntime import probes, tables
from packager.runtimes.onnxruntime.probes import Trial

from packager.canonical import JSON
from packager.errors import StepError
from packager.events import Finished, OnEvent, Started, ignore

TRIAL = Path(__file__).with_name("trial.py")
_CLEAN = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONNOUSERSITE": "1"}
_PATIENCE = 600  # seconds for the rest of a file of graphs; loading 11 000 takes 4
GATE = ("ValidateOpsetForDomain", "till opset", "under development", "Unknown model file format version")


def candidates(version: str) -> list[tuple[str, ...]]:
    """Return what to install to measure `version`, the preferred form first: as it is, else with numpy 1.

    The wheels before 1.19 crash on numpy 2 and most do not say so.
    """
    return [(f"onnxruntime=={version}",), (f"onnxruntime=={version}", "numpy<2")]


def about(python: Path) -> JSON:
    """Return what the runtime in an environment says of itself, or None if it cannot run the most trivial graph."""
    if trials(python, [probes.trivial_run()]) != ["ok"]:
        return None
    done = subprocess.run(
        [python, TRIAL, "--about"], capture_output=True, text=True, env=_CLEAN, timeout=_PATIENCE, check=False
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def measure(python: Path, on_event: OnEvent = ignore) -> tuple[JSON, tables.Kernels]:
    """Return the limits of the runtime in an environment (`opset`, `ir`), and what each probe did."""
    label = "probe onnxruntime"
    on_event(Started(label))
    started = time.monotonic()
    limits = _limits(python)
    found = [probe for probe in probes.every() if probe.opset <= limits["opset"].get(probe.domain or "ai.onnx", 0)]
    said = _attempts(python, found)
    on_event(Finished(label, time.monotonic() - started))
    return limits, {name(probe): outcome(text) for probe, text in zip(found, said, strict=True)}


def name(probe: probes.Probe) -> str:
    """Return the words for a probe that knowledge files use."""
    return f"{probe.domain or 'ai.onnx'} {probe.operator} {probe.since} {probe.types}".rstrip()


def outcome(said: str) -> str:
    """Classify what the runtime said: the graph loads, it `lacks` the kernel, it `fails` in another way, or the answer

    depends on the `host`: StringNormalizer wants the locale en_US.UTF-8, which containers rarely have.
    """
    if said == "ok":
        return "ok"
    if "construct locale" in said:
        return "host"
    return "lacks" if "NOT_IMPLEMENTED" in said else "fails"


def _limits(python: Path) -> JSON:
    gates = probes.gates()
    said = dict(zip(gates, trials(python, [Trial(data) for data in gates.values()]), strict=True))
    newest = {key: [v for (k, v), text in said.items() if k == key and text == "ok"] for key, _ in gates}
    if not newest["ai.onnx"] or not newest["ir"]:
        raise StepError(f"the runtime loads nothing: {next(iter(said.values()))}", hint="is it installed completely?")
    return {"opset": {key: max(newest[key]) for key in ("ai.onnx", "ai.onnx.ml") if newest[key]},
            "ir": max(newest["ir"])}  # fmt: skip


def _attempts(python: Path, found: Sequence[probes.Probe]) -> list[str]:
    """Try every probe; one that fails may be fed wrongly, so it is tried again in other ways."""
    said = [""] * len(found)
    waiting = list(range(len(found)))
    for optional, rank in probes.VARIANTS:
        graphs = [Trial(probes.model(found[index], optional=optional, rank=rank)) for index in waiting]
        for index, text in zip(waiting, trials(python, graphs), strict=True):
            said[index] = text if text == "ok" or not said[index] else said[index]
        waiting = [index for index in waiting if outcome(said[index]) == "fails"]
    return said


def trials(python: Path, graphs: Sequence[Trial]) -> list[str]:
    """Load, run and compare every graph in the runtime of an environment; return what it said.

    A graph that kills or hangs the process is `died: …`; those behind it are tried in a new process.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder, "graphs"), Path(folder, "log")
        path.write_bytes(b"".join(trial.packed() for trial in graphs))
        said: dict[int, str] = {}
        while len(said) < len(graphs):
            end = _process([str(python), str(TRIAL), str(path), str(len(said))], log)
            said |= dict(map(json.loads, _whole_lines(log)))
            if len(said) < len(graphs):
                said[len(said)] = f"died: {end}"
        return [said[index] for index in range(len(graphs))]


def _process(command: Sequence[str], log: Path) -> str:
    with log.open("wb") as file:
        try:
            done = subprocess.run(
                command, stdout=file, stderr=subprocess.DEVNULL, env=_CLEAN, cwd=log.parent, timeout=_PATIENCE,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"no answer for {_PATIENCE} s"
    return f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"


def _whole_lines(log: Path) -> list[str]:
    return [row for row in log.read_text("utf-8", "replace").splitlines(keepends=True) if row.endswith("\n")]


def table(version: str, said: JSON, limits: JSON, outcomes: tables.Kernels, pythons: Sequence[str]) -> JSON:
    """Return a table of knowledge with the one measured row; `said` is what `about` returned."""
    numpy = "<2" if said["numpy"].startswith("1.") else ""
    complete = tables.complete(outcomes, limits["opset"]["ai.onnx"])
    row = {"source": "measured", "opset": limits["opset"], "complete": complete,
           "ir": limits["ir"], "numpy": numpy, "python": list(pythons)}  # fmt: skip
    return {"format": 1, "runtime": "onnxruntime", "serial": 0, "versions": {version: row},
            "kernels": tables.kernels({version: outcomes})}  # fmt: skip
