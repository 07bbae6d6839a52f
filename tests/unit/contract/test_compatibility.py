# SPDX-License-Identifier: Apache-2.0
"""Compatibility: reasons name the limit and the remedy, ranges hold exactly the versions that load, unknown is never ok."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from packager.contract import runtime_support, runtime_tables
from packager.errors import UsageError

VERSIONS = list(runtime_tables.load_shipped("onnxruntime").rows)


def graph(opset: int = 18, ir: int = 8, **operators: Any) -> dict[str, Any]:
    """Return facts; an operator is given as `Pad=("19", "T=float32")`."""
    named = {name: {since: [types]} for name, (since, types) in operators.items()}
    return {"opset": {"ai.onnx": opset}, "ir": ir, "operators": {"ai.onnx": named}}


def test_an_opset_too_new_says_which_would_do() -> None:
    answer = runtime_support.judge_graph(graph(21), "onnxruntime", "1.16.3")
    assert answer.outcome == "no"
    (reason,) = answer.reasons
    assert reason.message == "the graph is of opset 21 (ai.onnx), onnxruntime 1.16.3 reads up to 19"
    assert reason.fix == "re-export at opset 19" and reason.opset == 19


def test_the_opset_proposed_is_one_without_gaps() -> None:
    (reason,) = runtime_support.judge_graph(graph(23), "onnxruntime", "1.15.1").reasons
    assert reason.opset == 18, "1.15.1 opens opset 19 and lacks kernels for it"


def test_a_missing_kernel_is_named_with_types_and_remedies() -> None:
    answer = runtime_support.judge_graph(graph(19, Pad=("19", "T=float32")), "onnxruntime", "1.15.1")
    (reason,) = answer.reasons
    assert reason.message == "onnxruntime 1.15.1 has no kernel for Pad-19(T=float32)"
    assert reason.fix == "re-export at opset 18, or upgrade to onnxruntime 1.16.0"
    assert runtime_support.judge_graph(graph(19, Pad=("19", "T=float32")), "onnxruntime", "1.16.0").outcome == "ok"


def blocks(form: str) -> dict[str, Any]:
    return {**graph(17), "operators": {"com.microsoft": {"MatMulNBits": {"1": [form]}}}}


def test_products_in_blocks_run_where_they_were_right() -> None:
    """1.16.1 to 1.16.3 have the operator, and read zero points of odd numbers of blocks at other places."""
    usual = "T1=float32;bits=4;block=32;zeros=uint8;accuracy=0"
    assert runtime_support.loads_on(blocks(usual), "onnxruntime") == ">=1.17.0"
    assert runtime_support.loads_on(blocks(usual.replace("uint8", "none")), "onnxruntime") == ">=1.16.3"
    assert runtime_support.loads_on(blocks(usual.replace("uint8", "float32")), "onnxruntime") == ">=1.18.0"
    assert runtime_support.loads_on(blocks(usual.replace("accuracy=0", "accuracy=4")), "onnxruntime") == ">=1.17.0"
    (reason,) = runtime_support.judge_graph(blocks(usual), "onnxruntime", "1.16.3").reasons
    assert reason.message == f"onnxruntime 1.16.3 has no kernel for com.microsoft.MatMulNBits-1({usual})"
    assert reason.fix == "upgrade to onnxruntime 1.17.0"
    unmeasured = blocks(usual.replace("block=32", "block=512"))
    assert runtime_support.judge_graph(unmeasured, "onnxruntime", "1.32.0").outcome == "unknown"


def test_all_reasons_are_given() -> None:
    answer = runtime_support.judge_graph(graph(21, 10, Pad=("21", "T=float32")), "onnxruntime", "1.15.1")
    assert {reason.limit for reason in answer.reasons} >= {"opset", "ir"}


@pytest.mark.parametrize(
    "facts",
    [
        graph(Pad=("18", "T=?")),
        graph(Unheard=("18", "T=float32")),
        graph(Pad=("18", "T=complex64")),
        {**graph(), "operators": {"com.microsoft": {"Gelu": {"1": ["?"]}}}},
    ],
)
def test_what_was_not_measured_is_unknown(facts: dict[str, Any]) -> None:
    assert runtime_support.judge_graph(facts, "onnxruntime", "1.20.1").outcome == "unknown"


def test_a_foreign_domain_is_a_no() -> None:
    facts = {**graph(), "operators": {"com.example": {"Magic": {"1": ["?"]}}}}
    assert runtime_support.judge_graph(facts, "onnxruntime", "1.20.1").outcome == "no"


@pytest.mark.parametrize("version", ["1.14.0", "1.99.0", "2.0"])
def test_an_unknown_version_asks_for_a_probe(version: str) -> None:
    answer = runtime_support.judge_graph(graph(), "onnxruntime", version)
    assert answer.outcome == "unknown" and f"probe onnxruntime=={version}" in (answer.reasons[0].fix or "")


def test_an_unmeasured_patch_release_is_as_its_minor() -> None:
    answer = runtime_support.judge_graph(graph(), "onnxruntime", "1.17.2")
    assert (answer.outcome, answer.source) == ("ok", "assumed from 1.17.0")


def test_triton_is_what_is_inside_it_by_either_name() -> None:
    for version in ("23.07", "2.36.0", "2.36"):
        answer = runtime_support.judge_graph(graph(19, Pad=("19", "T=float32")), "triton", version)
        assert answer.outcome == "no" and answer.source == "vendor"
        assert answer.reasons[0].message.endswith("(inside triton 23.07)")
    assert runtime_support.judge_graph(graph(19, Pad=("19", "T=float32")), "triton", "23.10").outcome == "ok"


@pytest.mark.parametrize(
    ("text", "first", "count"),
    [(">=24.04,<24.08", "24.04", 4), (">=2.46,<2.50", "24.05", 4), ("==24.05", "24.05", 1), ("==2.51.*", "24.10", 1)],
)
def test_a_range_of_triton_counts_as_it_is_written(text: str, first: str, count: int) -> None:
    rows = runtime_support.list_promised(runtime_tables.load_shipped("triton"), text)
    assert (rows[0].version, len(rows)) == (first, count)


def test_the_level_of_triton_follows_what_is_inside() -> None:
    assert runtime_support.level_for("triton", ">=24.04") == (18, 8)
    assert runtime_support.level_for("triton", "==23.07") == runtime_support.level_for("onnxruntime", "==1.15.1")
    with pytest.raises(UsageError, match="no known version of triton"):
        runtime_support.level_for("triton", ">=30.01")


OUTCOMES = st.sampled_from(["ok", "no", "unknown"])


@given(st.lists(OUTCOMES, min_size=1, max_size=len(VERSIONS)))
def test_the_widest_range_holds_exactly_what_loads(outcomes: list[Any]) -> None:
    rows = list(zip(VERSIONS, outcomes, strict=False))
    text = runtime_support.join_versions(rows)
    if text is None:
        assert "ok" not in outcomes
    else:
        assert [v for v, _ in rows if SpecifierSet(text).contains(v)] == [v for v, outcome in rows if outcome == "ok"]


@given(st.lists(OUTCOMES, min_size=2, max_size=len(VERSIONS) - 1))
def test_a_table_that_only_grew_says_the_same(outcomes: list[Any]) -> None:
    rows = list(zip(VERSIONS, [*outcomes, "ok"], strict=False))
    assert runtime_support.join_versions(rows) == runtime_support.join_versions([*rows, ("99.0", "ok")])
