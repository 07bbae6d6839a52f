# SPDX-License-Identifier: Apache-2.0
"""A difference is named by what it means: a constant, an operator, a component, a line; else by its bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from packager import canonical
from packager.formats import safetensors
from packager.release import explain


def graph(operator: str = "Add", weight: float = 1.0, opset: int = 18, name: str = "w") -> bytes:
    ports = [helper.make_tensor_value_info(port, TensorProto.FLOAT, [1]) for port in "xy"]
    made = helper.make_graph(
        [helper.make_node(operator, ["x", name], ["y"], name="n")],
        "g",
        ports[:1],
        ports[1:],
        [numpy_helper.from_array(np.array([weight], np.float32), name)],
    )
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)]).SerializeToString())


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (graph("Mul"), ["`nodes.y.operator` was"]),
        (graph(weight=2.0), ["`constants.w.data` was"]),
        (graph(opset=19), ["`opset.ai.onnx` was 18, is 19"]),
        (graph(name="v"), ["`constants.v` is new", "`constants.w` is gone", "`nodes.y.inputs[1]` was"]),
    ],
    ids=["operator", "weight", "opset", "name"],
)
def test_graphs_are_compared_by_meaning(other: bytes, words: list[str]) -> None:
    said = " ".join(explain.explain("model/model.onnx", graph(), other))
    for word in words:
        assert word in said


def test_a_graph_that_is_none_is_said_to_be_none() -> None:
    assert "no readable `.onnx`" in explain.explain("m.onnx", graph(), b"\xff\xff")[0]


def test_the_same_meaning_in_other_bytes_is_told_by_its_bytes() -> None:
    model = ModelProto.FromString(graph())
    other = bytes(model.SerializeToString()) + b"\xa2\x06\x00"  # an unknown, empty field
    assert explain.explain("m.onnx", graph(), other) == [f"{len(graph())} bytes, are {len(other)}"]


def test_components_are_matched_by_what_names_them() -> None:
    rows = [{"bom-ref": f"pkg:pypi/p{n}@1", "version": "1"} for n in range(50)]
    newer = [{"bom-ref": "pkg:pypi/new@1", "version": "1"}, *rows[:7], {**rows[7], "version": "2"}, *rows[8:]]
    said = explain.explain("sbom.cdx.json", *(canonical.dump({"components": side}) for side in (rows, newer)))
    assert said == [
        '`components.pkg:pypi/new@1` is new: {"bom-ref":"pkg:pypi/new@1","version":"1"}',
        '`components.pkg:pypi/p7@1.version` was "1", is "2"',
    ]


def test_weights_are_named() -> None:
    before, after = bytes(100), bytes(40) + b"\1" + bytes(59)
    assert explain.explain_weights(before, after, [(0, 40, "a"), (40, 80, "b")]) == ["constant `b` differs"]
    assert explain.explain_weights(before, after, []) == ["1 of 100 bytes differ, the first at 40"]


def test_tensors_lines_and_bytes() -> None:
    old, new = (safetensors.dump({"t": ("float32", [1], np.float32([v]).tobytes())}) for v in (1.0, 2.0))
    assert "`t.data` was" in explain.explain("v.safetensors", old, new)[0]
    assert explain.explain("deps/r.txt", b"a\nb\n", b"a\nc\n") == ['line 2 was "b", is "c"']
    assert explain.explain("x.engine", b"abc", b"abd") == ["1 of 3 bytes differ, the first at 2"]


def test_another_order_is_a_difference() -> None:
    rows = [{"name": "a"}, {"name": "b"}]
    assert list(explain.explain_values(rows, rows[::-1], "parts")) == ["`parts` has another order"]


def test_a_flood_is_cut() -> None:
    said = explain.explain("a.json", b"[]", canonical.dump([1] * 100))
    assert len(said) == explain.MOST + 1
    assert said[-1] == "and 92 more"


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(JSONS, JSONS)
def test_nothing_is_said_of_equal_values_and_something_of_others(left: object, right: object) -> None:
    same = canonical.dump(left) == canonical.dump(right)
    assert (not list(explain.explain_values(left, right))) == same
