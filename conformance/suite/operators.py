# SPDX-License-Identifier: Apache-2.0
"""Run tests of single operators through an adapter, and report the result of each.

    python -m suite.operators CELL.json TESTS OUT.json

TESTS/index.json lists them; each has a folder with `model.onnx`, its `contract.json`, `inputs.npz` and `outputs.npz`.
OUT.json has the runtime's facts, and by name `ok`, `refused: …` (it does not load), `wrong: …` or `died: …`. A test
that kills or hangs the adapter takes no other with it. For libraries: a server is not started once per operator.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from suite import cell, judge
from suite.adapter import AdapterError, Process, RefusedError, UnavailableError
from suite.cell import Cell

SECONDS = 60.0  # for one test; the standard's are tiny


class ServerAdapterError(Exception):
    """The adapter starts a server for every model."""


class Runner:
    """An adapter that is started again whenever a test ended it."""

    def __init__(self, subject: Cell) -> None:
        self._subject = subject
        self._process: Process | None = None
        self.runtime_facts: dict[str, Any] = {}

    def attempt(self, folder: Path, test: Mapping[str, Any]) -> str:
        """Load one model, run it once, compare."""
        try:
            process = self._started()
            loaded = self._load(process, folder)
            if loaded is not None:
                return loaded
            got = process.infer(_arrays(folder / "inputs.npz"), SECONDS)
        except RefusedError as error:
            return f"refused: {error}"
        except AdapterError as error:
            dead = self._process is not None and not self._process.alive
            return f"{'died' if dead else 'wrong'}: {error}"
        return _compare(_arrays(folder / "outputs.npz"), got, test)

    def _started(self) -> Process:
        if self._process is None or not self._process.alive:
            self.close()
            subject = self._subject
            self._process = Process(subject.adapter, subject.environment, subject.scratch, subject.memory)
            self.runtime_facts |= self._process.call("hello", 120)
        return self._process

    def _load(self, process: Process, folder: Path) -> str | None:
        """Return why the model does not load, or None."""
        try:
            report = process.call(
                "load",
                SECONDS,
                model=str(folder / "model.onnx"),
                contract=str(folder / "contract.json"),
                name="operator",
                device=self._subject.device,
                options=dict(self._subject.options),
                threads=1,
            )
        except UnavailableError as error:
            return f"refused: {error}"
        except AdapterError as error:
            return f"{'refused' if process.alive else 'died'}: {error}"
        self.runtime_facts |= {key: report[key] for key in ("runtime", "version") if key in report}
        if report.get("endpoints"):
            raise ServerAdapterError
        return None

    def close(self) -> None:
        """Leave nothing running."""
        if self._process is not None:
            self._process.close()


def _arrays(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def _compare(expected: Mapping[str, Any], got: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    bounds = {"rtol": test["rtol"], "atol": test["atol"]}
    for name, array in expected.items():
        if name not in got:
            return f"wrong: there is no output `{name}`"
        text = array.dtype.kind in "OUS"
        problem = judge.difference(array.astype(object) if text else array, got[name], bounds)[1]
        if problem:
            return f"wrong: {problem}"
    return "ok"


def run(subject: Cell, folder: Path) -> dict[str, Any]:
    """Run all tests of `folder`; return the facts of the runtime, and the results by name."""
    runner = Runner(subject)
    try:
        tests = json.loads((folder / "index.json").read_bytes())
        results = {test["name"]: runner.attempt(folder / test["folder"], test)[:400] for test in tests}
    except ServerAdapterError:
        return {"reason": "its adapter starts a server for every model, and does not report what computes inside"}
    finally:
        runner.close()
    return {
        "runtime": runner.runtime_facts.get("runtime"),
        "version": runner.runtime_facts.get("version"),
        "results": results,
    }


if __name__ == "__main__":
    found = run(cell.read(Path(sys.argv[1])), Path(sys.argv[2]))
    Path(sys.argv[3]).write_text(json.dumps(found))
