# SPDX-License-Identifier: Apache-2.0
"""Operator coverage: ONNX's own tests of the operators a bundle uses, run where a cell ran; it explains a broken one.

They go through the adapter that drives the runtime's library. A server's engine is tested without the server, by the
adapter of that engine in the server's own environment.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.conform.cells import PlannedCell, RuntimeSelection, plan_cells
from packager.conform.nodetests import NodeTest, select_tests, write
from packager.conform.programs import list_variables, run
from packager.contract.runtime_tables import Tables, load_shipped
from packager.errors import NegativeAnswerError, PackagerError, StepError
from packager.events import OnEvent, ignore
from packager.lock import environments

Program = Callable[[Sequence[str], Path], tuple[int | None, str]]  # runs a module of the suite: arguments, scratch


@dataclass(frozen=True, slots=True)
class Installed:
    """Where `test_operators` finds the suite and keeps environments, and the Python (version or path) it builds on."""

    suite: Path
    cache: Path
    environment: Mapping[str, str]
    python: str | None = None
    seconds: float = 900
    tables: Tables = load_shipped


class Coverage:
    """The tests of one bundle, written once per graph, for all cells of a run."""

    def __init__(self, folder: Path, program: Program) -> None:
        self._folder, self._program = folder, program
        self._written: dict[str, tuple[Path, list[NodeTest]]] = {}
        self._lock = threading.Lock()  # cells run at once, and the tests are collected once

    def of(self, planned: PlannedCell, cell: Path, facts: Mapping[str, JSON]) -> JSON:
        """Run the tests for the graph of `facts` in the environment of a cell, by its cell file; return the report."""
        if not planned.operators:
            return {"reason": f"{planned.runtime} runs compiled artefacts, not graphs of single operators"}
        try:
            folder, found = self._tests(facts)
        except PackagerError as error:
            return {"reason": error.message}
        scratch = cell.parent / "operators"
        scratch.mkdir(exist_ok=True)
        value = json.loads(cell.read_bytes())
        python = value["adapter"][:1] if planned.python else []
        value |= {"adapter": [*python, *planned.operators], "scratch": str(scratch)}
        file, out = scratch / "cell.json", scratch / "operators.json"
        file.write_text(json.dumps(value))
        code, log = self._program(["suite.operators", str(file), str(folder), str(out)], scratch)
        if code:
            return {"reason": f"the tests ended with status {code}: {log[-300:]}"}
        if code is None:
            return {"reason": "the tests did not end in time"}
        answers = json.loads(out.read_bytes())
        return {"reason": answers["reason"]} if "reason" in answers else build_report(found, answers, facts)

    def _tests(self, facts: Mapping[str, JSON]) -> tuple[Path, list[NodeTest]]:
        key = json.dumps([facts["operators"], facts["opset"], facts["ir"]], sort_keys=True)
        with self._lock:
            if key not in self._written:
                folder = self._folder / str(len(self._written))
                folder.mkdir(parents=True)
                found = select_tests(facts)
                write(found, folder)
                self._written[key] = folder, found
            return self._written[key]


def test_operators(
    runtime: str, version: str, target: JSON, facts: Mapping[str, JSON], settings: Installed, on_event: OnEvent = ignore
) -> JSON:
    """Run the tests of a graph's operators on one version of a runtime, without a bundle; return the report.

    `target` is one of the contract's that the runtime runs. Network, unless cached. Raises NegativeAnswerError where
    the version cannot be tested here.
    """
    selection = [RuntimeSelection(runtime, f"=={version}")]
    (planned,) = plan_cells({"runs-on": {}, "targets": {"-": target}}, selection, settings.tables)
    if planned.reason:
        raise NegativeAnswerError(f"{runtime} {version} cannot be tested here: {planned.reason}")
    python = environments.ensure_environment(
        planned.requirements, settings.python or planned.python, settings.cache, on_event
    )
    with tempfile.TemporaryDirectory(prefix="packager-operators-") as folder:
        scratch = Path(folder)
        cell = scratch / "cell.json"
        value = {
            "name": planned.name,
            "bundle": {"name": "operators"},
            "target": "-",
            "runtime": runtime,
            "version": planned.version,
            "device": planned.device,
            "contract": folder,
            "vectors": folder,
            "scratch": folder,
            "adapter": [str(python)],
            "options": dict(planned.options or {}),
            "environment": list_variables(scratch, python, settings.suite),
        }
        cell.write_text(json.dumps(value))

        def program(arguments: Sequence[str], directory: Path) -> tuple[int | None, str]:
            command = [sys.executable, "-P", "-m", *arguments]
            return run(command, directory, settings.suite, settings.environment, settings.seconds)

        return Coverage(scratch / "operators-tests", program).of(planned, cell, facts)


def run_bundle_tests(
    bundle: Bundle, runtime: str, version: str, settings: Installed, on_event: OnEvent = ignore
) -> JSON:
    """Run the tests of the operators that the graph of `bundle` uses on one version of a runtime; return the report.

    Raises StepError where the tests do not run there, and as `test_operators`.
    """
    target = {"runtime": "onnxruntime", "device": "cpu"}  # what is tested are operators of the graph
    found = test_operators(runtime, version, target, bundle.contract.graph, settings, on_event)
    if "reason" in found:
        raise StepError(found["reason"])
    return found


def build_report(found: Sequence[NodeTest], answers: Mapping[str, JSON], facts: Mapping[str, JSON]) -> JSON:
    """Count by operator. `untested` are operators of the graph that the standard has no test for."""
    operators: dict[str, dict[str, JSON]] = {}
    for test in found:
        entry = operators.setdefault(test.operator, {"passed": 0, "skipped": 0, "failed": {}})
        text = answers["results"].get(test.name)
        if text is None:
            entry["skipped"] += 1
        elif text == "ok":
            entry["passed"] += 1
        else:
            entry["failed"][test.name] = text
    used = {name for names in facts["operators"].values() for name in names}
    return {
        "runtime": answers["runtime"],
        "version": answers["version"],
        "operators": dict(sorted(operators.items())),
        "untested": sorted(used - set(operators)),
    }


def is_report(value: JSON) -> bool:
    """Return whether a value from outside is such a report."""
    if not isinstance(value, dict) or isinstance(value.get("reason"), str):
        return isinstance(value, dict)
    entries = value.get("operators")
    return (
        isinstance(entries, dict)
        and isinstance(value.get("untested"), list)
        and all(
            isinstance(entry, dict)
            and isinstance(entry.get("failed"), dict)
            and all(isinstance(entry.get(key), int) for key in ("passed", "skipped"))
            and all(isinstance(text, str) for text in entry["failed"].values())
            for entry in entries.values()
        )
    )


def list_broken(found: Mapping[str, JSON]) -> dict[str, dict[str, str]]:
    """Return the operators of which tests fail, with what was seen in each."""
    return {name: entry["failed"] for name, entry in found.get("operators", {}).items() if entry["failed"]}


def render_lines(found: Mapping[str, JSON]) -> list[str]:
    """Return a report as lines for people: a sum, and up to two tests of each operator that fails."""
    if "operators" not in found:
        return [f"operators: not tested: {found.get('reason')}"]
    entries = found["operators"].values()
    passed, skipped = (sum(entry[key] for entry in entries) for key in ("passed", "skipped"))
    bad = list_broken(found)
    count = sum(map(len, bad.values()))
    untested = f"; ONNX has none for {', '.join(map(str, found['untested']))}" if found["untested"] else ""
    name = f"{found.get('runtime')} {found.get('version')}"
    rows = [f"operators: of ONNX's own tests {passed} pass on {name}, {count} fail, {skipped} do not apply{untested}"]
    for name, failed in bad.items():
        rows += [f"  {name}: {test}: {text[:200]}" for test, text in list(failed.items())[:2]]
        rows += [f"  {name}: and {len(failed) - 2} more"] if len(failed) > 2 else []
    return rows
