# SPDX-License-Identifier: Apache-2.0
"""What becomes of one model: exported, measured as a build measures it, then compared on inputs of another seed.

right           the measurement holds, and so do fresh inputs
refused-clear   one sentence with a remedy
refused-poor    a foreign message, no remedy, or a parity finding for an honest export
wrong           the measurement holds, fresh inputs do not
crash           anything that is no answer
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from packager import exporters
from packager.errors import PackagerError
from packager.exporters import Port, Wishes
from packager.graphs import graph
from packager.recipe import Tolerance
from packager.steps import _cases, _compare, export, measure
from policies import deterministic, parity
from tests.unit.exporters.conftest import detected

OPSET, IR = 18, 8
FOREIGN = re.compile(r"site-packages|Traceback|0x[0-9a-f]{6}|[a-z]\w*(?:Error|Exception): |github\.com|open an issue")


@dataclass(frozen=True)
class Verdict:
    """One row of the table."""

    family: str
    model: str
    verdict: str
    max_abs: float | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {
            "family": self.family, "model": self.model, "verdict": self.verdict, "max_abs": self.max_abs,
            "reason": self.reason,
        }  # fmt: skip


@dataclass(frozen=True)
class Built:
    """A source, its graph opened on onnxruntime, and what callers may send."""

    source: Any
    session: Any
    accepted: Any
    outputs: list[str]
    random: list[str]

    def cases(self, seed: int) -> list[Any]:
        samples = exporters.samples_of(self.source)
        ranges, found = self.accepted["ranges"], []
        for case in _cases.cases(self.accepted, samples, exporters.work_of(self.source)):
            feeds = _cases.feeds(self.accepted, ranges, case, seed, samples)
            expected = _cases.attempt("source", case, self.source.run, feeds, self.accepted)
            got = _cases.attempt("artefact", case, self.session.run, feeds, self.accepted)
            compared = {n: _compare.compare(a, b) for n, a, b in zip(self.outputs, expected, got, strict=True)}
            found.append({"name": case.name, "outputs": compared})
        return found


def built(source: Path, folder: Path, **params: Any) -> Built:
    """Do what the step `export` does, and open the result."""
    kind, payload = detected(source)
    opened = exporters.exporter(kind).load(source, payload, Wishes.from_params(params))
    model = graph.canonicalise(opened.to_onnx(OPSET), opset=OPSET, ir=IR)
    accepted = export.describe_inputs(exporters.probed(opened, model))
    export.state_outputs(model, export.observe(opened, accepted, 0))
    outputs, random = [value.name for value in model.graph.output], graph.nondeterministic(model)
    accepted |= {"outputs": [Port(*graph.port(value)).to_json() for value in model.graph.output]}
    graph.write(model, folder)
    return Built(opened, measure.open_session("onnxruntime", folder / graph.FILE), accepted, outputs, random)


def judged(family: str, name: str, source: Path, folder: Path, **params: Any) -> Verdict:
    """Return what becomes of a source."""
    try:
        model = built(source, folder, **params)
        refused = next((f.message for f in deterministic.check({"nondeterministic": model.random})), None)
        if refused:
            return Verdict(family, name, "refused-clear", None, refused)
        first = _finding(model, model.cases(0))
        if first:
            return Verdict(family, name, "refused-poor", None, first)
        fresh = [case for seed in (11, 12) for case in model.cases(seed)]
        second = _finding(model, fresh)
        return Verdict(family, name, "wrong" if second else "right", _largest(fresh), second or "")
    except PackagerError as error:
        clear = error.hint and not FOREIGN.search(error.message)
        return Verdict(family, name, "refused-clear" if clear else "refused-poor", None, str(error.message))
    except Exception:
        return Verdict(family, name, "crash", None, traceback.format_exc().strip().splitlines()[-1])


def _finding(model: Built, cases: list[Any]) -> str | None:
    tolerance = {name: Tolerance().to_json() for name in model.outputs}
    target = {"unmeasured": None, "cases": cases, "tolerance": tolerance}
    return next((finding.message for finding in parity.check({"targets": {"cpu": target}})), None)


def _largest(cases: list[Any]) -> float:
    found = [output.get("max_abs", output.get("unequal", 0)) for case in cases for output in case["outputs"].values()]
    return float(np.max(found, initial=0.0))
