# SPDX-License-Identifier: Apache-2.0
"""What OpenVINO is measured with: questions that make sense, answers told of the right graph, and no hasty `ok`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from packager.runtimes import _answers, _probes, _questions
from packager.runtimes._answers import Answers
from packager.runtimes._probes import Probe
from packager.runtimes.openvino import probe

from tests.support import graphs

RELU = Probe("", "Relu", 14, "T=float32")
KEY = ("", "Relu", 14)


@pytest.mark.parametrize(
    ("seen", "tests", "expected"),
    [
        (Answers(3), {}, "ok"),
        (Answers(3), {"T=float32": Answers(2)}, "ok"),
        (Answers(3, wrong=1), {}, "unclear"),
        (Answers(3, refused=1), {}, "unclear"),
        (Answers(0, wrong=1), {}, "unclear"),  # other values may be right
        (Answers(0, refused=2), {}, "lacks"),
        (Answers(0, refused=2, beside=1), {}, "unclear"),
        (Answers(0, refused=2), {"T=int8": Answers(3, refused=1)}, "unclear"),
        (Answers(0, refused=2, rules=2, beside=1), {}, "lacks"),
        (Answers(), {}, "fails"),
        (Answers(3), {"T=int8": Answers(0, refused=4)}, "ok"),  # those types are not had, and that is all
        (Answers(3), {"T=int8": Answers(0, wrong=4)}, "unclear"),  # a test gave other numbers
        (Answers(3), {"T=float16": Answers(5, refused=1)}, "unclear"),  # it depends on attributes
        (Answers(3), {"T=float32;M=int64": Answers(0, refused=1)}, "unclear"),  # a test that leaves an input out
    ],
)
def test_nothing_is_ok_on_mixed_answers(seen: Answers, tests: dict[str, Answers], expected: str) -> None:
    assert _answers.outcome(RELU, seen, {KEY: tests}) == expected


def test_a_definition_without_tests_is_doubted_with_the_others() -> None:
    old = Probe("", "Resize", 11, "T1=float32;T2=float32")
    mixed = {("", "Resize", 19): {"T1=float32;T2=float32": Answers(20, wrong=3)}}
    assert _answers.outcome(old, Answers(1), mixed) == "unclear"
    assert _answers.outcome(old, Answers(1), {}) == "unclear", "its attributes were not tried"
    assert _answers.outcome(Probe("", "Abs", 13, "T=float32"), Answers(1), {}) == "ok"


def test_failures_not_about_the_operator_are_left_out() -> None:
    seen = Answers()
    seen.note(["loads", "it wants the inputs ['y']", "`x` is a string, which has no numpy form"])
    assert seen == Answers(beside=3)
    seen.note(["OpenVINO cannot convert the graph: -- No conversion rule found for operations: Relu-14"])
    assert seen.refused == 1 and seen.is_settled


def test_a_question_is_put_to_other_types() -> None:
    known = _questions.group_by_definition(_questions.list_onnx_tests())
    asked = _questions.list_questions(Probe("", "Gather", 13, "T=int16;Tind=int32"), known["", "Gather", 13])
    assert asked and all(q.types == "T=int16;Tind=int32" for q in asked)
    assert {q.feeds["data"].dtype for q in asked} == {np.dtype("int16")}
    divided = _questions.list_questions(Probe("", "Div", 14, "T=int32"), known["", "Div", 14])
    assert divided and all(q.feeds["y"].all() for q in divided), "a division by zero would end the process"


def test_every_operator_definition_runs_its_tests() -> None:
    known = _questions.group_by_definition(_questions.list_onnx_tests())
    assert {since for _, name, since in known if name == "Resize"} == {13, 18, 19}
    assert len({question.test for question in known["", "Resize", 19]}) > 20


def test_answers_are_attributed_to_their_graph() -> None:
    """They run together as parts of one model; what is wrong or refused there must not be told of its neighbours."""
    made = [
        graphs.single("Relu", 14),
        graphs.trees(),
        graphs.single("Sigmoid", 13),
        graphs.resized(18, mode="cubic", coordinate_transformation_mode="tf_crop_and_resize"),
        graphs.convolution(18),
    ]
    fair = [trial for trial in _answers.answered(made) if trial]
    lying = dataclasses.replace(fair[0], expected=fair[-1].expected)
    said = probe.trials(Path(sys.executable), [*fair, lying])
    by_graph = {trial.graph: text for trial, text in zip(fair, said, strict=False)}
    for good in (made[0], made[2], made[4]):
        assert by_graph[good.graph] == "ok"
    assert "No conversion rule" in by_graph[made[1].graph]
    assert said[-1].startswith("differs")


def test_a_scalar_stays_one() -> None:
    """OpenVINO refuses a vector of one where it wants a scalar."""
    trial = graphs.nodes(
        13, helper.make_node("Clip", ["x", "low"], ["y"]), x=np.array([1, -2], "float32"), low=np.array(-1, "float32")
    )
    (asked,) = _answers.answered([trial])
    assert asked is not None
    assert probe.trials(Path(sys.executable), [asked]) == ["ok"]


def test_every_probe_says_its_name_as_tables_do() -> None:
    found = _probes.list_probes()
    assert len(found) > 9000 and len({each.words for each in found}) == len(found)
    assert "ai.onnx If 16" in {each.words for each in found}
