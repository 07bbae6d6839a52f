# SPDX-License-Identifier: Apache-2.0
"""Runtimes that open what is made for ONNX Runtime: judged by rows of their own, and asked about every definition."""

from __future__ import annotations

import io

import numpy as np
import pytest
from packager.runtimes import _answers, _npm, _questions
from packager.runtimes._answers import Answers
from packager.runtimes._probes import Probe

from packager.conform import probing
from packager.contract import preflight, runtime_support, runtime_tables
from packager.errors import UsageError
from packager.runtime import load_prober
from tests.support import contracts, graphs


@pytest.mark.parametrize(("runtime", "version"), [("onnxruntime-node", "1.30.0"), ("onnxruntime-web", "1.30.0")])
def test_a_target_for_onnx_runtime_is_judged_elsewhere(runtime: str, version: str) -> None:
    made = contracts.read(contracts.derived())
    (cell,) = preflight.judge_version(made, runtime, version)
    assert (cell.target, cell.answer.outcome, cell.promised) == ("onnxruntime-cpu-fp32", "ok", False)
    (cell,) = preflight.judge_version(contracts.read(contracts.derived(graph="texts")), runtime, version)
    assert cell.answer.outcome == ("ok")


def test_its_own_kernels_count_not_those_of_the_release_it_is_of() -> None:
    """float16 enters no graph under node before 1.20, though the library in the package computes it."""
    half = graphs.facts(graphs.GRAPHS["Round in fp16"]().graph)
    assert runtime_support.judge_graph(half, "onnxruntime", "1.18.0").outcome == "ok"
    assert runtime_support.judge_graph(half, "onnxruntime-node", "1.18.0").outcome == "unknown"
    assert runtime_support.judge_graph(half, "onnxruntime-node", "1.20.1").outcome == "ok"


def test_types_that_cannot_enter_are_unclear() -> None:
    said = {
        "ai.onnx Abs 13 T=float16": "ok",
        "ai.onnx Abs 13 T=float32": "ok",
        "ai.onnx Cast 13 T1=float16;T2=bool": "lacks",
    }
    assert [*_npm.doubt_types(said, ["float16"]).values()] == ["unclear", "ok", "lacks"]


def test_what_opens_is_a_list_of_names() -> None:
    row = {"source": "measured", "opens": ["onnxruntime"]}
    value = {"format": 1, "runtime": "acme", "serial": 1, "versions": {"1.0": row}}
    assert runtime_tables.parse(contracts.canonical.dump(value), "t").rows["1.0"].opens == ("onnxruntime",)


def test_what_is_installed_from_npm_has_no_python() -> None:
    assert probing.list_pythons(load_prober("onnxruntime-web").candidates("1.30.0")[0]) == ()


@pytest.mark.parametrize(("name", "words"), [("onnxruntime-nod", "is not among"), ("triton", "cannot be probed")])
def test_what_cannot_be_probed_says_so(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load_prober(name)
    assert "onnxruntime" in (caught.value.hint or "")


def test_an_older_definition_is_asked_by_the_tests_of_the_newer() -> None:
    """Axes were an attribute of ReduceLogSumExp before opset 18, bounds of Clip before 11."""
    known = _questions.group_by_definition(_questions.list_onnx_tests())
    by_axes = [
        (question, {a.name: list(a.ints) for a in question.model.graph.node[0].attribute})
        for question in known["", "ReduceLogSumExp", 13]
    ]
    assert any(attributes.get("axes") == [1] for _, attributes in by_axes)
    assert all(len(question.model.graph.node[0].input) == 1 == len(question.feeds) for question, _ in by_axes)
    clipped = [{a.name for a in question.model.graph.node[0].attribute} for question in known["", "Clip", 6]]
    assert {"max", "min"} in clipped
    fair = [trial for trial in _answers.answered([known["", "ReduceLogSumExp", 13][0].trial()]) if trial]
    with np.load(io.BytesIO(fair[0].expected)) as arrays:
        assert arrays["0"].size


def test_a_definition_with_an_attribute_that_was_never_tested_is_doubted() -> None:
    tested = {("", "ReduceMean", 18): {"T=float32": Answers(4)}}
    assert _answers.outcome(Probe("", "ReduceMean", 13, "T=float32"), Answers(1), tested) == "unclear"
    assert (
        _answers.outcome(Probe("", "Relu", 13, "T=float32"), Answers(1), {("", "Relu", 14): {"T=float32": Answers(4)}})
        == "ok"
    )
