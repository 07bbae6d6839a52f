# SPDX-License-Identifier: Apache-2.0
"""The canonical graph: idempotent, free of its author's traces, honest about what it needs, stable in its files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from packager.errors import StepError
from packager.graph import canonicalise, needs

TEXT = """
<ir_version: 10, opset_import: ["local" : 1, "ai.onnx.ml" : 3, "" : 18], producer_name: "somebody",
 doc_string: "trained at /home/ada">
net (float[batch, 4] x) => (float[batch, 4] y)
{
    positive = Constant <value = bool {1}> ()
    z = If (positive) <
        then_branch = yes () => (float[batch, 4] a) { a = Relu(x) },
        else_branch = no () => (float[batch, 4] b) { b = Neg(x) }
    >
    y = local.twice(z)
}
<domain: "local", opset_import: ["" : 18]>
twice (v) => (w) { w = Add(v, v) }
"""


def model() -> Any:
    """A graph with a subgraph and a function, annotated everywhere as torch annotates."""
    found = onnx.parser.parse_model(TEXT)
    for message in canonicalise.walk_messages(found):
        if "metadata_props" in message.DESCRIPTOR.fields_by_name:
            message.metadata_props.add(key="stack_trace", value="/home/ada/secret.py:7")
        if "doc_string" in message.DESCRIPTOR.fields_by_name:
            message.doc_string = "/home/ada"
    return found


def canonical(found: Any, opset: int = 18, ir: int = 8) -> Any:
    return canonicalise.canonicalise(found, opset=opset, ir=ir)


def test_canonicalise_is_idempotent() -> None:
    once = canonical(model()).SerializeToString(deterministic=True)
    twice = canonical(onnx.ModelProto.FromString(once)).SerializeToString(deterministic=True)
    assert once == twice


def test_no_trace_of_the_author_is_left() -> None:
    data = canonical(model()).SerializeToString(deterministic=True)
    for trace in (b"ada", b"secret", b"stack_trace", b"somebody"):
        assert trace not in data


def test_only_used_operator_sets_stay_in_order() -> None:
    found = canonical(model())
    assert [(entry.domain, entry.version) for entry in found.opset_import] == [("", 18), ("local", 1)]
    assert found.ir_version == 8
    onnx.checker.check_model(found)


def test_facts_name_what_a_runtime_must_know() -> None:
    found = canonicalise.list_facts(canonical(model()))
    assert found["opset"] == {"ai.onnx": 18, "local": 1}
    operators = needs.list_needs(canonical(model()))["operators"]
    assert {domain: sorted(names) for domain, names in operators.items()} == {
        "ai.onnx": ["Add", "Constant", "If", "Neg", "Relu"]
    }


def test_a_newer_opset_is_refused() -> None:
    with pytest.raises(StepError, match="the graph needs opset 18, expected at most 17"):
        canonical(model(), opset=17)


def cast_to(kind: int, opset: int) -> Any:
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]), helper.make_tensor_value_info("y", kind, [2])]
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=kind)]
    return helper.make_model(
        helper.make_graph(nodes, "g", ports[:1], ports[1:]), opset_imports=[helper.make_opsetid("", opset)]
    )


@pytest.mark.parametrize(
    ("kind", "needed"), [("FLOAT8E4M3FN", 9), ("INT4", 10), ("FLOAT4E2M1", 11), ("FLOAT8E8M0", 12), ("INT2", 13)]
)
def test_a_newer_type_is_refused_by_name(kind: str, needed: int) -> None:
    found = cast_to(getattr(TensorProto, kind), 25)
    with pytest.raises(StepError, match=f"tensor type {kind}, which needs IR version {needed}, expected at most 8"):
        canonical(found, opset=25)
    assert canonical(found, opset=25, ir=needed).ir_version == needed


def test_random_operators_are_named() -> None:
    found = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[2] x) => (float[2] y)'
        "{ t = Constant <value = bool {1}> () r = Constant <value = float {0.5}> () n = RandomNormalLike(x)"
        " y = Dropout(n, r, t) }"
    )
    assert canonicalise.find_nondeterministic(found) == ["Dropout", "RandomNormalLike"]
    assert canonicalise.find_nondeterministic(model()) == []


def test_typed_data_becomes_raw() -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    port = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    nodes = [helper.make_node("Identity", ["w"], ["y"])]
    found = canonical(
        helper.make_model(
            helper.make_graph(nodes, "g", [], [port], [tensor]), opset_imports=[helper.make_opsetid("", 18)]
        )
    )
    assert found.graph.initializer[0].raw_data == np.array([1, 2, 3], "<f4").tobytes()


# -- files


def chain(sizes: list[int], seed: int = 0) -> Any:
    """A sum of vectors of the given lengths: each is one tensor of the graph."""
    random = np.random.default_rng(seed)
    weights = [numpy_helper.from_array(random.random(n, dtype="float32"), f"w{i}") for i, n in enumerate(sizes)]
    nodes = [helper.make_node("ReduceSum", [f"w{i}"], [f"s{i}"], keepdims=0) for i in range(len(sizes))]
    nodes.append(helper.make_node("Sum", [f"s{i}" for i in range(len(sizes))], ["y"]))
    port = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    return canonical(
        helper.make_model(
            helper.make_graph(nodes, "g", [], [port], weights), opset_imports=[helper.make_opsetid("", 18)]
        )
    )


SIZES = [700_000, 10, 900_000, 500_000, 500_000]


def test_a_small_graph_is_one_file(tmp_path: Path) -> None:
    canonicalise.write(chain([1000, 2000]), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_large_tensors_leave_the_file_and_come_back(tmp_path: Path) -> None:
    expected = chain(SIZES)
    canonicalise.write(chain(SIZES), tmp_path, shard_bytes=4 << 20)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["model.onnx", "weights-0001.bin", "weights-0002.bin", "weights-0003.bin"]
    assert all(path.stat().st_nlink == 1 and not path.is_symlink() for path in tmp_path.iterdir())
    found = canonicalise.read(tmp_path / "model.onnx")
    for before, after in zip(expected.graph.initializer, found.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(before), numpy_helper.to_array(after))
    (got,) = onnxruntime.InferenceSession(str(tmp_path / "model.onnx")).run(None, {})
    total = sum(numpy_helper.to_array(tensor).sum(dtype="float64") for tensor in expected.graph.initializer)
    assert got == pytest.approx(total, rel=1e-5)


def test_writing_what_was_read_writes_the_same(tmp_path: Path) -> None:
    canonicalise.write(chain(SIZES), tmp_path / "a", shard_bytes=4 << 20)
    again = canonical(canonicalise.read(tmp_path / "a" / "model.onnx"))
    canonicalise.write(again, tmp_path / "b", shard_bytes=4 << 20)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_only_the_shard_of_a_changed_tensor_changes(tmp_path: Path) -> None:
    canonicalise.write(chain(SIZES), tmp_path / "a", shard_bytes=4 << 20)
    changed = chain(SIZES)
    weights = numpy_helper.to_array(changed.graph.initializer[4]) + np.float32(1)
    changed.graph.initializer[4].raw_data = weights.tobytes()
    canonicalise.write(changed, tmp_path / "b", shard_bytes=4 << 20)
    before, after = files(tmp_path / "a"), files(tmp_path / "b")
    assert [name for name in before if before[name] != after[name]] == ["weights-0003.bin"]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_broken_graph_is_found_when_written(tmp_path: Path) -> None:
    found = chain([10])
    found.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(StepError, match="the graph is not valid ONNX"):
        canonicalise.write(found, tmp_path)


sizes = st.lists(st.integers(1, 50_000), max_size=30)


@given(sizes, st.integers(1, 60_000))
def test_the_law_of_shards(lengths: list[int], limit: int) -> None:
    """In order, on pages, without overlap, within the limit unless one tensor is larger, and no file is empty."""
    waiting = iter(lengths)
    for offsets in canonicalise.cut_shards(lengths, limit):
        placed = [(offset, next(waiting)) for offset in offsets]
        assert placed and all(offset % canonicalise.ALIGN == 0 for offset, _ in placed)
        assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(placed))
        assert sum(placed[-1]) <= limit or len(placed) == 1
    assert next(waiting, None) is None


@given(sizes, sizes, st.integers(1, 60_000))
def test_a_cut_depends_only_on_what_came_before(lengths: list[int], more: list[int], limit: int) -> None:
    short, long = canonicalise.cut_shards(lengths, limit), canonicalise.cut_shards(lengths + more, limit)
    assert long[: max(len(short) - 1, 0)] == short[:-1]
    assert not short or long[len(short) - 1][: len(short[-1])] == short[-1]
