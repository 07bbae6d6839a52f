# SPDX-License-Identifier: Apache-2.0
"""What `conform` hands to the suite and takes from others: knob trials, operator reports, stated outputs."""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from packager import canonical
from packager.bundle.bundle import CONTRACT
from packager.bundle.knobs import knob_schema
from packager.conform import knob_trials, operators, programs
from packager.conform.nodetests import NodeTest
from packager.errors import MalformedError, WrongSubjectError
from packager.formats import reference_outputs
from packager.knobs import knobs
from packager.types import Tree
from tests.support import bundles, contracts

FACTS = {"operators": {"ai.onnx": {"Relu": {}, "Gemm": {}, "Mystery": {}}}}
TESTS = [NodeTest("test_relu", "Relu"), NodeTest("test_relu_2", "Relu"), NodeTest("test_gemm", "Gemm")]
ANSWERS = {"runtime": "r", "version": "1", "results": {"test_relu": "ok", "test_gemm": "wrong: 3 elements"}}


def test_trial_value_of_a_knob_is_allowed_and_not_the_default(tmp_path: Path) -> None:
    contract = contracts.derived()
    bundle = bundles.make(bundles.store_in(tmp_path), {CONTRACT: canonical.dump(contract)}, "net", "1.0.0")
    schema = knob_schema(bundle)
    chosen = knob_trials.trial_values(bundle, [*schema, "no.such"])
    assert {"batch.max", "runtime.threads", "log.level", "triton.instances"} <= set(chosen)
    for name, value in chosen.items():
        assert schema[name].allows(value) and value != schema[name].default
    assert chosen["batch.max"] == 7, "below what the contract promises, so that the row above it can be requested"
    document = knob_trials.knob_document(bundle, {"batch.max": 7})
    assert document["values"]["batch.max"] == 7 and document["digest"] != knobs.resolve(schema, bundle.digest).digest


def test_a_report_counts_by_operator_and_reads_back() -> None:
    found = operators.build_report(TESTS, ANSWERS, FACTS)
    assert found["operators"] == {
        "Gemm": {"passed": 0, "skipped": 0, "failed": {"test_gemm": "wrong: 3 elements"}},
        "Relu": {"passed": 1, "skipped": 1, "failed": {}},
    }
    assert found["untested"] == ["Mystery"] and operators.is_report(found)
    first, second = operators.render_lines(found)
    assert "1 pass on r 1, 1 fail, 1 do not apply" in first and "Mystery" in first and "Gemm: test_gemm" in second
    assert operators.render_lines({"reason": "it is a server"}) == ["operators: not tested: it is a server"]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((), []),
        (("operators",), 1),
        (("operators", "Relu"), 1),
        (("operators", "Relu", "failed"), ["x"]),
        (("operators", "Relu", "failed"), {"x": 1}),
        (("operators", "Relu", "passed"), "1"),
        (("untested",), None),
    ],
)
def test_foreign_report_is_validated(place: tuple[str, ...], value: Any) -> None:
    found: Any = {"report": copy.deepcopy(operators.build_report(TESTS, ANSWERS, FACTS))}
    member, path = found, ("report", *place)
    for step in path[:-1]:
        member = member[step]
    member[path[-1]] = value
    assert not operators.is_report(found["report"])


def test_stated_outputs_are_read_only_for_the_bundle_s_inputs(tmp_path: Path) -> None:
    store = bundles.store_in(tmp_path)
    tree = Tree.of({"vectors/inputs/01-a.safetensors": store.put(b"in"), "model/model.onnx": store.put(b"m")})
    stated = reference_outputs.state_outputs(tree, {"outputs.safetensors": b"out", "outputs.json": b"{}"})
    outputs = {"outputs.safetensors": b"out", "outputs.json": b"{}"}
    beside: dict[str, bytes] = {}
    fetch = beside.__getitem__
    assert reference_outputs.read(stated, tree, "x", fetch) == outputs
    bare, contents = reference_outputs.detach_outputs(stated)
    with pytest.raises(MalformedError, match="states no reference outputs"):
        reference_outputs.read(bare, tree, "x", fetch)
    beside |= contents
    assert reference_outputs.read(bare, tree, "x", fetch) == outputs
    assert reference_outputs.state_outputs(tree, outputs) == stated, "a draft holds its contents"
    with pytest.raises(MalformedError, match="the draft states no reference outputs"):
        reference_outputs.detach_outputs(bare)
    other = Tree.of({"vectors/inputs/01-a.safetensors": store.put(b"other")})
    with pytest.raises(WrongSubjectError, match="other inputs than the bundle carries"):
        reference_outputs.read(stated, other, "x", fetch)
    for damage in (
        {"outputs": [{**stated["outputs"][0], "content": "AAAA"}]},
        {"outputs": 3},
        {"outputs": [{**stated["outputs"][0], "name": "../escape.json"}]},
        {"inputs": None},
    ):
        with pytest.raises(MalformedError, match="states no reference outputs"):
            reference_outputs.read({**stated, **damage}, tree, "x", fetch)


def test_the_caller_s_options_of_pytest_do_not_reach_the_suite(tmp_path: Path) -> None:
    given = {**os.environ, "PYTEST_ADDOPTS": "-p missing_plugin", "PYTEST_PLUGINS": "missing_plugin"}
    code, log = programs.run([sys.executable, "-m", "pytest", "--version"], tmp_path, tmp_path, given, 60)
    assert code == 0, log
