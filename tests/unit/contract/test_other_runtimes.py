# SPDX-License-Identifier: Apache-2.0
"""Runtimes that open what is made for ONNX Runtime: judged by rows of their own, and asked about every definition."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
import pytest
from packager.runtimes import _answers, _kernels, _npm, _questions, _values
from packager.runtimes._answers import Answers
from packager.runtimes._probes import Probe
from packager.runtimes._trials import Trial

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


def test_element_wise_operators_are_tested_with_negative_and_large_numbers() -> None:
    """Every number in ONNX's test of Celu is positive, none in that of Softplus is large."""
    known = _questions.group_by_definition(_questions.list_onnx_tests())
    (celu,) = known["", "Celu", 12]
    assert all((array > 0).all() for array in celu.feeds.values())
    other = celu.with_others()
    assert other is not None and other.types == celu.types
    (x,) = other.feeds.values()
    assert x.min() < -50 and x.max() > 50 and x.dtype == np.float32
    assert known["", "Conv", 11][0].with_others() is None, "its inputs are of several shapes"
    assert known["", "Abs", 13][0].feeds["x"].min() < 0


def test_what_is_mostly_wrong_is_a_no_that_says_so() -> None:
    norm = Probe("", "ReduceL2", 18, "T=float32")
    own = {("", "ReduceL2", 18): {"T=float32": Answers(2, wrong=8)}}
    assert _answers.outcome(norm, Answers(wrong=8), own) == "wrong"
    assert _answers.outcome(norm, Answers(2, wrong=8), own) == "wrong", "right where no axes are given"
    assert _answers.outcome(norm, Answers(wrong=5), own) == "unclear", "too few to be sure"
    assert _answers.outcome(norm, Answers(3, wrong=8), own) == "unclear"
    assert _answers.outcome(norm, Answers(wrong=8, refused=1), own) == "unclear"
    tabled = _kernels.tabulate_kernels({"1.0": {norm.words: "wrong", "ai.onnx Abs 13 T=float32": "ok"}})
    row = {"source": "measured", "opset": {"ai.onnx": 18}, "ir": 8}
    value = {"format": 1, "runtime": "acme", "serial": 1, "versions": {"1.0": row}, "kernels": tabled}
    table = runtime_tables.parse(contracts.canonical.dump(value), "t")
    graph = {"opset": {"ai.onnx": 18}, "ir": 8, "operators": {"ai.onnx": {"ReduceL2": {"18": ["T=float32"]}}}}
    answer = runtime_support.judge_graph(graph, "acme", "1.0", lambda _: table)
    assert answer.outcome == "no"
    assert [reason.message for reason in answer.reasons] == [
        "acme 1.0 answers most tests of ReduceL2-18(T=float32) wrongly"
    ]


def test_an_input_of_values_that_a_version_does_not_keep_is_a_doubt() -> None:
    shipped = runtime_tables.load_shipped("onnxruntime")
    row = dataclasses.replace(shipped.rows["1.31.1"], lacks=("int64",))
    tables = {"onnxruntime": dataclasses.replace(shipped, rows={"1.31.1": row})}
    ids = [{"name": "x", "dtype": "int64", "shape": ["batch", 4]}]

    def judged(ranges: dict[str, list[int]]) -> preflight.Cell:
        made = contracts.read(contracts.derived(inputs=ids, ranges=ranges))
        (cell,) = preflight.judge_version(made, "onnxruntime", "1.31.1", tables.__getitem__)
        return cell

    for ranges in ({}, {"x": [0, 2**40]}):
        cell = judged(ranges)
        assert cell.answer.outcome == "unknown"
        assert [(r.limit, r.subject) for r in cell.answer.reasons] == [("values", "x")]
        assert "32 bits" in cell.answer.reasons[0].message
    assert judged({"x": [0, 30000]}).answer.outcome == "ok"


def test_a_doubt_about_one_operator_is_about_graphs_that_use_it() -> None:
    row = runtime_tables.Row("1.0", "measured", lacks=("nan Relu", "nan Floor", "something newer"))
    graph = contracts.facts("convolution at 18")
    found = [*runtime_support.doubt_values(graph, row, "acme", missing=["x"], large=["n"])]
    assert [(r.subject, r.message) for r in found] == [
        ("x", "acme 1.0 answers wrongly for missing numbers (NaN) in Relu, and `x` may hold such")
    ]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [((), []), ((b"Floor",), ["nan Floor"]), ((b"Relu", b"Max"), ["nan"]), ((b"Gather",), ["int64 Gather"])],
)
def test_values_that_are_not_kept_are_found(wrong: Sequence[bytes], expected: list[str]) -> None:
    def run(trials: Sequence[Trial]) -> list[str]:
        assert all(trial.expected for trial in trials)
        return ["differs" if any(b"\x22" + bytes([len(n)]) + n in t.graph for n in wrong) else "ok" for t in trials]

    assert _values.find_lacks(run) == expected


def test_one_that_keeps_no_value_of_a_kind_lacks_it() -> None:
    assert _values.find_lacks(lambda trials: ["refused"] * len(trials)) == ["int64", "nan"]
