# SPDX-License-Identifier: Apache-2.0
"""What a build says of a recipe, asked stage by stage in this process: the same functions, without workers and lock.

For trying many recipes in little time. What the command line makes of it is tried in `tests/e2e/test_fix.py`.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packager import plugins
from packager.actions.runner import Runner
from packager.build import build, made, measured_facts
from packager.contract import derivation
from packager.edits import Change, apply
from packager.errors import PackagerError, TooNewError
from packager.lock import opset_level, recipe_checks
from packager.policy import engine
from packager.recipe import recipe
from packager.runtime import load_runtime
from packager.sandbox.sandbox import Limits
from packager.steps import export, measure
from packager.store.store import Store
from packager.types import Finding, Result

TODAY = datetime.date(2026, 11, 29)


@dataclass(frozen=True)
class Refusal:
    """Why there is no bundle: what is said first, its hint, and the hint as data."""

    message: str
    hint: str
    changes: tuple[Change, ...]
    findings: Sequence[Finding] = ()


def refusal(folder: Path, text: str) -> Refusal | None:
    """Return why a recipe with its `model.onnx` in a folder would not be built, None if it would."""
    try:
        verdict = _judged(folder, text)
    except PackagerError as error:
        return Refusal(error.message, error.hint or "", error.edits)
    errors = [finding for finding in verdict.findings if finding.level == "error"]
    if not errors:
        return None
    proposed = tuple(edit for finding in errors for edit in finding.edits)
    return Refusal("\n".join(f.message for f in errors), "\n".join(f.hint or "" for f in errors), proposed, errors)


def _judged(folder: Path, text: str) -> engine.Verdict:
    parsed = recipe.parse(text, "bundle.yaml", plugins.list_names("runtimes"))
    profile = engine.load_profile(parsed.policy, folder)
    recipe_checks.check_targets(parsed)
    recipe_checks.check_signature(parsed, "onnx")
    level, options = opset_level.choose_level(parsed, "onnx"), build._export_options(parsed)
    source = {"kind": "onnx", "payload": "model.onnx", **options}
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    try:
        facts = export.run({"source": folder}, out, {**source, "opset": level.opset, "ir": level.ir})
    except TooNewError as error:
        raise opset_level.explain_unsupported_operator(parsed, error) from error
    parsed.check_outputs([output["name"] for output in facts["interface"]["outputs"]])
    _check_gpu(parsed, folder, facts)
    compared = {
        "interface": facts["interface"],
        "ranges": facts["ranges"],
        "runtime": "onnxruntime",
        "path": made.GRAPH,
        "device": "cpu",
    }
    (folder / "out" / "vectors").mkdir()
    found = measure.run({"source": folder, "artefact": out}, folder / "out" / "vectors", {**source, **compared})
    artefacts = [
        made.Artefact(target, build.Tree(), made.GRAPH, {}, Result("", found), None) for target in parsed.targets()
    ]
    derivation.derive(parsed, facts, {target.name: made.GRAPH for target in parsed.targets()})
    measured = measured_facts.list_measured(parsed, Result("", facts), artefacts)
    return engine.judge(profile.only("parity", "coverage", "deterministic"), {"stage": "build", **measured}, TODAY)


def _check_gpu(parsed: recipe.Recipe, folder: Path, facts: object) -> None:
    """Ask for the targets that only a GPU can build, before anything is compiled."""
    place = made.Place(Runner(Store(folder / "store"), Limits(0, 60)), "", Result("", facts), folder, None)
    for target in parsed.targets():
        runtime = load_runtime(target.runtime)
        if runtime.builds_on_gpu and runtime.unmeasurable(target.device):
            build._compiled(parsed, None, place, target, runtime)  # type: ignore[arg-type]


def pasted(text: str, refused: Refusal) -> str:
    """Return the recipe with the hint in it, as the program itself would write it."""
    return apply(text, refused.changes)
