# SPDX-License-Identifier: Apache-2.0
"""Graphs that lie, bloat or recurse are refused, each for its own reason; honest ones of every kind are not."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from packager.errors import PackagerError, StepError
from packager.graph import check as graphcheck
from packager.graph import tensors
from tests.support.breadth import examples

SIZES = {"w.bin": 64}
ADD = helper.make_node("Add", ["x", "w"], ["y"])


def graph(nodes: Sequence[Any] = (ADD,), constants: Sequence[Any] = (), name: str = "g") -> Any:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in "xy")
    return helper.make_graph(list(nodes), name, [x], [y], list(constants))


def model(nodes: Sequence[Any] = (ADD,), constants: Sequence[Any] = (), **more: Any) -> Any:
    return helper.make_model(graph(nodes, constants), opset_imports=[helper.make_opsetid("", 17)], **more)


def check(made: Any, *domains: str) -> None:
    graphcheck.check_bytes(memoryview(made.SerializeToString()), SIZES.get, domains)


def refusal(made: Any, *domains: str) -> str:
    with pytest.raises(StepError) as caught:
        check(made, *domains)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message


def weights(size: int = 4, name: str = "w") -> Any:
    return numpy_helper.from_array(np.zeros(size, np.float32), name)


def outside(dims: Sequence[int] = (4,), kind: int = TensorProto.FLOAT, name: str = "w", **entries: str) -> Any:
    made = TensorProto(name=name, data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "w.bin", **entries}.items():
        made.external_data.add(key=key, value=value)
    return made


def shape(*extents: int, kind: Any = np.int64) -> Any:
    return numpy_helper.from_array(np.array(extents, kind), "shape")


def test_honest_graphs_pass() -> None:
    check(model(constants=[weights()]))
    check(model(constants=[outside(offset="48", length="16")]))
    check(model(constants=[outside([16])]), "com.microsoft")  # without a length: the rest of the file
    tied = [outside(offset="0", length="16"), outside(offset="0", length="16", name="v")]
    check(model(constants=tied))
    check(model([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")]), "com.microsoft")


@pytest.mark.parametrize("kind", [*TensorProto.DataType.values()][1:])
def test_every_type_of_every_encoding_passes(kind: int) -> None:
    """What onnx itself writes, in its typed fields and as raw data."""
    if kind in (TensorProto.STRING, *(27, 28)):
        check(model(constants=[helper.make_tensor("w", TensorProto.STRING, [2], [b"a", b"\xff"])]))
        return
    values = np.zeros(3, helper.tensor_dtype_to_np_dtype(kind))
    check(model(constants=[numpy_helper.from_array(values, "w")]))
    check(model(constants=[helper.make_tensor("w", kind, [3], [0, 0, 0])]))


LIES: dict[str, tuple[Callable[[], Any], str]] = {
    "elsewhere": (lambda: outside(location="../w.bin"), "absolute or leaves its directory"),
    "absolute": (lambda: outside(location="/etc/passwd"), "absolute or leaves its directory"),
    "backslash": (lambda: outside(location="..\\w.bin"), "not portable"),
    "device": (lambda: outside(location="nul"), "not portable"),
    "not there": (lambda: outside(location="v.bin"), "not a regular file of the model"),
    "too long": (lambda: outside([17], length="68"), "needs 68 bytes"),
    "behind the end": (lambda: outside(offset="56", length="16"), "needs 16 bytes"),
    "another length": (lambda: outside(length="20"), "needs 16 bytes"),
    "huge length": (lambda: outside(length=str(2**62)), "expected a whole number"),
    "negative offset": (lambda: outside(offset="-8"), "expected a whole number"),
    "odd digits": (lambda: outside(offset="١"), "expected a whole number"),
    "huge dimensions": (lambda: outside([2**31, 2**31]), "2147483648x2147483648"),
    "overflowing dimensions": (lambda: outside([2**32, 2**32, 0]), "more than any file holds"),
    "negative dimension": (lambda: outside([-4]), "negative dimension"),
    "unknown key": (lambda: outside(__class__="x"), "other keys"),
    "unknown type": (lambda: outside(kind=99), "unknown type 99"),
    "text outside": (lambda: outside(kind=TensorProto.STRING), "of text"),
    "many axes": (lambda: outside([1] * 65), "more than 64"),
}


@pytest.mark.parametrize("lie", LIES)
def test_tensors_that_lie_are_refused(lie: str) -> None:
    tensor, words = LIES[lie]
    assert words in refusal(model(constants=[tensor()]))
    constant = helper.make_node("Constant", [], ["c"], value=tensor())
    assert words in refusal(model([constant, ADD])), "inside a node as well"


def test_data_that_contradicts_its_dimensions() -> None:
    made = weights()
    made.dims[:] = [5]
    assert "5 elements need: 16 for 20" in refusal(model(constants=[made]))
    typed = helper.make_tensor("w", TensorProto.INT64, [2], [1, 2])
    typed.dims[:] = [3]
    assert "3 elements need: 2 for 3" in refusal(model(constants=[typed]))
    both = outside()
    both.raw_data = bytes(16)
    assert "inside and outside" in refusal(model(constants=[both]))
    assert "overlap at byte 8" in refusal(
        model(constants=[outside(length="16"), outside(offset="8", length="16", name="v")])
    )


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real.bin").write_bytes(bytes(16))
    (tmp_path / "w.bin").symlink_to("real.bin")
    (tmp_path / "linked").symlink_to(".")
    for location in ("w.bin", "linked/real.bin"):
        (tmp_path / "m.onnx").write_bytes(model(constants=[outside(location=location)]).SerializeToString())
        with pytest.raises(StepError, match="not a regular file"):
            graphcheck.check(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(model(constants=[outside(location="real.bin")]).SerializeToString())
    graphcheck.check(tmp_path / "m.onnx")


def made_of(kind: str, inputs: Sequence[str], **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, ["y"], **attributes)


BOMBS: dict[str, tuple[Any, Any]] = {
    "ConstantOfShape": (made_of("ConstantOfShape", ["shape"]), shape(2**20, 2**20)),
    "Expand": (made_of("Expand", ["x", "shape"]), shape(2**20, 2**20)),
    "Tile": (made_of("Tile", ["x", "shape"]), shape(2**40)),
    "Resize": (made_of("Resize", ["x", "", "", "shape"]), shape(2**40)),
    "Upsample": (made_of("Upsample", ["x", "shape"]), shape(1e6, 1e6, kind=np.float32)),
    "Pad": (made_of("Pad", ["x", "shape"]), shape(0, 2**40)),
    "OneHot": (made_of("OneHot", ["x", "shape", "v"]), shape(2**40)),
    "RandomNormal": (made_of("RandomNormal", [], shape=[2**20, 2**20]), shape(1)),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_small_file_cannot_need_a_terabyte(kind: str) -> None:
    node, constant = BOMBS[kind]
    assert f"a `{kind}` makes more than" in refusal(model([node], [constant]))


def test_constants_are_followed() -> None:
    """Through Constant nodes, copies, casts, into subgraphs and out of typed fields."""
    far = [
        helper.make_node("Constant", [], ["a"], value_ints=[2**20, 2**20]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Cast", ["b"], ["c"], to=7),
    ]
    bomb = helper.make_node("ConstantOfShape", ["c"], ["z"])
    inner = helper.make_graph([bomb], "then", [], [helper.make_tensor_value_info("z", 1, None)])
    assert "ConstantOfShape" in refusal(
        model([*far, helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)])
    )
    typed = helper.make_tensor("shape", TensorProto.INT64, [2], [2**20, 2**20])
    assert "ConstantOfShape" in refusal(model([made_of("ConstantOfShape", ["shape"])], [typed]))
    bounds = [
        helper.make_tensor(name, TensorProto.INT64, [], [value]) for name, value in (("a", 0), ("b", 2**40), ("c", 1))
    ]
    assert "Range" in refusal(model([made_of("Range", ["a", "b", "c"])], bounds))
    check(model([made_of("ConstantOfShape", ["shape"])], [shape(2**10, 2**10)]))


def test_operators_of_other_domains() -> None:
    evil = model([helper.make_node("Evil", ["x"], ["y"], domain="com.evil")])
    assert "`Evil` is of the domain `com.evil`" in refusal(evil)
    assert "com.evil" in refusal(evil, "com.microsoft")
    body = [helper.make_node("Evil", ["a"], ["b"], domain="com.evil")]
    function = helper.make_function("local", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    hidden = model([helper.make_node("F", ["x"], ["y"], domain="local")], functions=[function])
    assert "com.evil" in refusal(hidden), "inside a function"
    function.node[0].CopyFrom(helper.make_node("Relu", ["a"], ["b"]))
    hidden = model([helper.make_node("F", ["x"], ["y"], domain="local")], functions=[function])
    check(hidden)
    function.domain = ""
    assert "redefines" in refusal(model(functions=[function], constants=[weights()]))


def functions(count: int, calls: int, last: str) -> list[Any]:
    """A chain in which each function calls the next several times."""
    made = []
    for index in range(count):
        callee = f"F{index + 1}" if index + 1 < count else last
        domain = "" if callee == "Relu" else "local"
        names = [f"v{step}" for step in range(calls + 1)]
        body = [helper.make_node(callee, [a], [b], domain=domain) for a, b in itertools.pairwise(names)]
        made.append(
            helper.make_function("local", f"F{index}", ["v0"], [names[-1]], body, [helper.make_opsetid("", 17)])
        )
    return made


def test_functions_that_never_end_or_explode() -> None:
    call = [helper.make_node("F0", ["x"], ["y"], domain="local")]
    check(model(call, functions=functions(10, 2, "Relu")))
    check(model(call, functions=functions(2000, 1, "Relu")))
    assert "more than 250000 nodes" in refusal(model(call, functions=functions(40, 2, "Relu")))
    assert "`F0` calls itself" in refusal(model(call, functions=functions(3, 1, "F0")))


def nested(depth: int) -> Any:
    inner = graph([helper.make_node("Relu", ["x"], ["deep"])], name="g0")
    for level in range(depth):
        node = helper.make_node("If", ["x"], [f"y{level}"], then_branch=inner, else_branch=graph([ADD]))
        inner = graph([node], [weights()], name=f"g{level + 1}")
    return helper.make_model(inner, opset_imports=[helper.make_opsetid("", 17)])


def test_depth() -> None:
    check(nested(10))
    assert "nested deeper than 16" in refusal(nested(17))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: model([ADD, ADD], [weights()]), "two values are named `y`"),
        (lambda: model([helper.make_node("Relu", ["x"], ["x"])]), "two values are named `x`"),
        (lambda: model(constants=[weights(), weights()]), "two constants are named `w`"),
        (lambda: model(functions=functions(1, 1, "Relu") * 2), "two functions have one name"),
    ],
)
def test_two_things_of_one_name(made: Callable[[], Any], words: str) -> None:
    assert words in refusal(made())


def test_two_graphs_in_one_file() -> None:
    data = model(constants=[weights()]).SerializeToString()
    with pytest.raises(StepError, match="twice"):
        graphcheck.check_bytes(memoryview(data + data), SIZES.get)


def test_a_million_nodes_are_refused_without_being_looked_at() -> None:
    one = graph([helper.make_node("Relu", ["x"], ["y"])])
    many = b"".join(onnx_field(1, one.node[0].SerializeToString()) for _ in range(300_000))
    start = time.monotonic()
    with pytest.raises(StepError, match="more than 250000 nodes"):
        graphcheck.check_bytes(memoryview(onnx_field(7, many)), SIZES.get)
    assert time.monotonic() - start < 30


def onnx_field(number: int, data: bytes) -> bytes:
    length, head = len(data), bytes([number << 3 | 2])
    while length > 127:
        head += bytes([length & 127 | 128])
        length >>= 7
    return head + bytes([length]) + data


def test_an_input_of_absurd_size() -> None:
    made = model(constants=[weights()])
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**40
    assert "input `x` has more than" in refusal(made)


@settings(max_examples=examples(150), deadline=None)
@given(st.data())
def test_any_damage_ends_in_our_own_error(data: st.DataObject) -> None:
    whole = bytearray(nested(2).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        graphcheck.check_bytes(memoryview(bytes(whole[: data.draw(st.integers(1, len(whole)))])), SIZES.get)
    except PackagerError as error:
        assert isinstance(error, StepError)


def test_the_checked_sizes_are_those_of_onnx() -> None:
    """A type that onnx adds later must be added here too."""
    assert set(onnx.TensorProto.DataType.values()) - {0} == tensors._BITS.keys() | {TensorProto.STRING}


@pytest.mark.slow
def test_what_onnx_tests_itself_with_passes() -> None:
    """Every model of onnx's own node tests, but those of its preview domains, which must be declared."""
    from onnx.backend.test.case.node import collect_testcases

    passed = 0
    for case in collect_testcases(None):
        data = memoryview(case.model.SerializeToString())
        graphcheck.check_bytes(data, SIZES.get, {"ai.onnx.preview", "ai.onnx.preview.training"})
        passed += 1
    assert passed > 1000
