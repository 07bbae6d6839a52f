# SPDX-License-Identifier: Apache-2.0
"""Prediction against proof: what compatibility says of a graph is what the real runtime does with it.

Every graph is loaded and run by every version in an environment and process of its own.
"""

from __future__ import annotations

import collections
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from packager.runtimes import _answers
from packager.runtimes.onnxruntime import probe
from packager.runtimes.openvino import probe as openvino

from packager.conform import probing
from packager.contract import runtime_support, runtime_tables
from packager.lock import environments
from tests.support import graphs

pytestmark = pytest.mark.slow
VERSIONS = ("1.15.1", "1.16.3", "1.17.3", "1.18.1", "1.20.1", "1.23.2", "1.31.1", "1.32.0")
OPENVINO = ("2024.6.0", "2025.4.1", "2026.4.1")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "packager" / "environments"


def environment(version: str) -> Path:
    numpy = runtime_tables.load_shipped("onnxruntime").rows[version].numpy
    wanted = [f"onnxruntime=={version}", *([f"numpy{numpy}"] if numpy else [])]
    return environments.ensure_environment(wanted, sys.executable, CACHE)


@dataclass
class Confusion:
    """What `compat` says of graphs, by what becomes of them; `wrong` is what it was sure of and is not so."""

    needs: dict[str, Any]
    counts: collections.Counter[tuple[str, bool]] = field(default_factory=collections.Counter)
    wrong: list[tuple[str, str, str, str]] = field(default_factory=list)

    def add(self, runtime: str, version: str, said: Iterable[str]) -> None:
        """Count a version, which said this of each graph, in their order."""
        for (name, needed), word in zip(self.needs.items(), said, strict=True):
            outcome = runtime_support.judge_graph(needed, runtime, version).outcome
            self.counts[outcome, word == "ok"] += 1
            if outcome != "unknown" and (outcome == "ok") != (word == "ok"):
                self.wrong.append((version, name, outcome, word))

    @property
    def unknown(self) -> float:
        """The share of pairs of which `compat` says neither yes nor no."""
        return (self.counts["unknown", True] + self.counts["unknown", False]) / self.counts.total()

    def show(self) -> None:
        print(f"\n{'compat says':12} {'loads and runs':>15} {'does not':>9}")
        for outcome in ("ok", "no", "unknown"):
            print(f"{outcome:12} {self.counts[outcome, True]:15} {self.counts[outcome, False]:9}")


def test_the_verdict_is_what_happens(capsys: pytest.CaptureFixture[str]) -> None:
    built = {name: make() for name, make in graphs.GRAPHS.items()}
    found = Confusion({name: graphs.facts(trial.graph) for name, trial in built.items()})
    for version in VERSIONS:
        python = environment(version)
        assert probe.about(python)["version"] == version
        found.add("onnxruntime", version, probe.trials(python, list(built.values())))
    with capsys.disabled():
        found.show()
    assert not found.wrong
    assert found.counts["no", False] >= 20 and found.counts["ok", True] >= 20
    assert found.unknown <= 0.1


def test_the_verdict_on_openvino_is_what_happens(capsys: pytest.CaptureFixture[str]) -> None:
    """IR of every graph, made here as a build makes it, is opened by each version and gives what ONNX Runtime gives.

    Each graph is asked twice: with the lengths that it states, and with none.
    """
    made = {name: make() for name, make in (graphs.GRAPHS | graphs.FOR_OPENVINO).items()}
    made |= {f"{name}, free": graphs.free(trial) for name, trial in made.items()}
    fair = {name: trial for name, trial in zip(made, _answers.answered([*made.values()]), strict=True) if trial}
    found = Confusion({name: graphs.facts(trial.graph) for name, trial in fair.items()})
    for version in OPENVINO:
        python, about = probing.make_environment("openvino", version, sys.executable, CACHE)
        assert about["version"] == version
        found.add("openvino", version, openvino.trials(python, [*fair.values()]))
    with capsys.disabled():
        found.show()
    assert not found.wrong
    assert found.counts["ok", True] >= 200 and found.counts["no", False] >= 30
    assert found.unknown <= 0.35


def test_a_fix_is_a_fix() -> None:
    """What compat says would help is done, and helps."""
    for opset, version in ((19, "1.15.1"), (22, "1.23.2")):
        make = graphs.shapes if opset == 19 else (lambda n: graphs.single("LpNormalization", n))
        answer = runtime_support.judge_graph(graphs.facts(make(opset).graph), "onnxruntime", version)
        (wanted,) = {reason.opset for reason in answer.reasons}
        assert wanted is not None
        before, after = probe.trials(environment(version), [make(opset), make(wanted)])
        assert before != "ok" and after == "ok"


def test_a_runtime_that_dies_is_reported_and_left_behind() -> None:
    """1.17 on numpy 2 cannot be imported; 1.15 dies at its first array. Neither takes the next graph with it."""
    python = environments.ensure_environment(["onnxruntime==1.15.1", "numpy>=2"], sys.executable, CACHE)
    said = probe.trials(python, [graphs.convolution(18)] * 2)
    assert all(text.startswith("died") for text in said), said
    assert probe.about(python) is None


def test_the_shipped_row_is_what_a_new_measurement_finds() -> None:
    version = "1.20.1"
    limits, outcomes = probe.measure(environment(version))
    row = runtime_tables.load_shipped("onnxruntime").rows[version]
    assert (limits["opset"], limits["ir"]) == (row.opset, row.ir)
    kernels = runtime_tables.load_shipped("onnxruntime").kernels_of(version)
    assert kernels is not None
    for name, outcome in outcomes.items():
        domain, operator, since, types = (*name.split(" ", 3), "")[:4]
        known = kernels.outcomes(domain, operator, since, types, version)
        assert known == "unknown" or (known == "ok") == (outcome == "ok"), name
