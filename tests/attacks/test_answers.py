# SPDX-License-Identifier: Apache-2.0
"""Results of workers are untrusted: malformed facts end a step with one sentence, never with a bug."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packager.policies import coverage, parity

from packager import canonical, plugins
from packager.actions.runner import _facts
from packager.build import measured_facts
from packager.contract import contract, derivation
from packager.errors import PackagerError, StepError
from packager.exporters import _toys
from packager.recipe import recipe
from packager.sandbox.process import Outcome
from packager.sandbox.sandbox import Limits
from packager.steps import trial
from tests.support import contracts

RECIPE = recipe.parse(contracts.RECIPE.encode(), "bundle.yaml", plugins.list_names("runtimes"))
STRANGE = [
    None,
    True,
    -1,
    2**70,
    1.5,
    "",
    "x" * 300,
    "../../x",
    "\x1b[2J",
    [],
    {},
    [[]],
    {"a": 1},
    [None],
    float(10**300),
]
CASE = {
    "name": "batch=1",
    "fill": "random",
    "lengths": {"batch": 1},
    "outputs": {
        "y": {
            "dtype": "float32",
            "shape": [1, 2],
            "max_abs": 0.5,
            "max_rel": 1.0,
            "not_finite": 0,
            "reduced": "none",
            "frontier": [{"difference": 0.5, "magnitude": 1.0, "index": [0, 1], "expected": 1.0, "got": 1.5}],
        }
    },
}
MEASURED = {
    "cases": [CASE],
    "shortened": {"batch": 4},
    "kinds": {"y": {"words": None, "case": "batch=1", "rounding": 1e-6}},
    "coverage": {"leaves": {"reached": 3, "of": 9}},
}


def exported() -> Any:
    graph = {**contracts.facts("convolution at 18"), "activations": {"bytes": 4096, "unknown": 0}}
    return {"interface": contracts.interface(), "ranges": {"x": [0, 1]}, "graph": graph, "nondeterministic": []}


def answered(step: str, facts: Any) -> Any:
    """Return what the main process takes from a worker that answers `facts`."""
    outcome = Outcome(code=0, answer=json.dumps({"facts": facts}).encode(), log=b"")
    return _facts(step, outcome, Limits(1 << 30, 60))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container inside a value with every key or index of it."""
    for key, member in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield value, key
        yield from places(member)


def spoiled(facts: Any, seed: int) -> Any:
    """Return facts with one to three members removed, replaced or added."""
    chance, made = random.Random(seed), copy.deepcopy(facts)
    for _ in range(chance.randint(1, 3)):
        holder, key = chance.choice(list(places(made)))
        match chance.randint(0, 2):
            case 0:
                del holder[key]
            case 1:
                holder[key] = chance.choice(STRANGE)
            case 2 if isinstance(holder, dict):
                holder[chance.choice(["extra", "", "..", "min"])] = chance.choice(STRANGE)
        if not list(places(made)):
            return made
    return made


def test_honest_facts_are_taken() -> None:
    assert answered("export", exported()) == exported()
    assert answered("measure", MEASURED) == MEASURED


@pytest.mark.parametrize("kind", plugins.list_names("exporters"))
def test_a_trial_of_a_kind_that_has_no_toy_is_taken(kind: str, tmp_path: Path) -> None:
    if _toys.toy_writer(kind) is None:
        found = trial.run({}, tmp_path, {"tools": {}, "kind": kind})
        assert answered("trial", found) == found


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_corrupted_export_facts_are_refused_or_give_a_contract(first: int) -> None:
    refused = 0
    for seed in range(first, first + 100):
        try:
            taken = answered("export", spoiled(exported(), seed))
        except StepError as error:
            assert "\n" not in error.message
            refused += 1
            continue
        paths = {target.name: "model/model.onnx" for target in RECIPE.targets()}
        with contextlib.suppress(PackagerError):
            promise = derivation.derive(RECIPE, taken, paths, {}, {name: {} for name in paths})
            contract.parse(canonical.dump(promise), "contract.json")
    assert refused > 50


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_corrupted_measurement_facts_are_refused_or_judged(first: int) -> None:
    refused = 0
    for seed in range(first, first + 100):
        try:
            taken = answered("measure", spoiled(MEASURED, seed))
        except StepError:
            refused += 1
            continue
        target = {**taken, "precision": "fp32", "unmeasured": None, "tolerance": {"y": {"atol": 1e-5, "rtol": 1e-4}}}
        with contextlib.suppress(StepError):
            measured_facts.check_cases(taken["cases"], ["y"])
            list(parity.check({"targets": {"cpu": target}}))
        list(coverage.check({"targets": {"cpu": target}}, least={}))
    assert refused > 50


@pytest.mark.parametrize("step", ["compile", "scan", "read_code", "trial", "look"])
def test_every_step_says_what_it_may_answer(step: str) -> None:
    for strange in (None, 7, "x", [], [{}], {"a": {"b": 1}}):
        with pytest.raises(StepError, match="answered what it cannot find"):
            answered(step, strange)
