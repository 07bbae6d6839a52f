# SPDX-License-Identifier: Apache-2.0
"""The memory of a run: the course of ONNX Runtime's allocator by hand, and beside a process that runs the graph."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from packager.graph import activations, bounds, needs
from tests.benchmarks import bench_memory

MIB = 1 << 20
Node = onnx.NodeProto


def graph(
    nodes: list[Node], shape: list[int], out: list[int | str], **weights: np.ndarray[Any, Any]
) -> onnx.ModelProto:
    """Return a model from `x` to `y`."""
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)]
    held = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    made = helper.make_graph(nodes, "g", ports, outputs, held)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def course(nodes: list[Node], shape: list[int], out: list[int | str], **weights: np.ndarray[Any, Any]) -> list[str]:
    """Return what a run takes (`+`) and gives back (`-`), in MiB."""
    main = bounds.bound(graph(nodes, shape, out, **weights), {}).graph
    sizes = {value.name: activations._bytes(value.type) or 0 for value in (*main.input, *main.value_info, *main.output)}
    last = {name: index for index, node in enumerate(main.node) for name in activations.reads(node)}
    steps = activations._course(main, sizes, last)
    return [f"{'+' if step.taken else '-'}{step.name} {step.size >> 20} {step.kind}" for step in steps]


def make(operator: str, inputs: str, output: str, **attributes: Any) -> Node:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def test_kernels_that_compute_in_place_take_nothing() -> None:
    square = np.ones((512, 512), "float32")
    nodes = [
        make("MatMul", "x w", "a"),
        make("Relu", "a", "b"),  # in place
        make("Erf", "b", "c"),  # not
        make("Add", "c b", "d"),  # takes over c, which ends here
        make("MatMul", "d w", "y"),
    ]
    assert course(nodes, [512, 512], [512, 512], w=square) == [
        "+a 1 value",
        "+c 1 value",
        "-a 1 value",  # b, under its first name
        "+y 1 output",
        "-c 1 value",
    ]


def test_another_shape_of_a_value_is_the_value() -> None:
    nodes = [make("Erf", "x", "a"), make("Reshape", "a s", "b"), make("Erf", "b", "c"), make("Erf", "b", "y")]
    taken = course(nodes, [512, 512], [1024, 256], s=np.array([1024, 256]))
    assert taken == ["+a 1 value", "+c 1 value", "-c 1 value", "+y 1 output", "-a 1 value"]


def test_recurrent_layers_keep_the_gates_of_all_steps() -> None:
    weights = {"w": np.ones((1, 1024, 64), "float32"), "r": np.ones((1, 1024, 256), "float32")}
    lstm = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=256)
    taken = course([lstm], [64, 16, 64], [64, 1, 16, 256], **weights)
    assert taken == ["+y 1 output", "+0 of LSTM 4 scratch", "-0 of LSTM 4 scratch"]


def test_regions_double_and_stay() -> None:
    arena = activations._Arena()
    for name, size in (("a", MIB), ("b", MIB), ("c", MIB)):
        arena.take(name, size)
    assert [region.pieces[0][1] for region in arena.regions] == [MIB, MIB]
    assert sum(region.touched for region in arena.regions) == 3 * MIB, "c lies beside b, in a region of 2 MiB"
    arena.give_back("a")
    arena.give_back("b")
    arena.give_back("c")
    assert [region.pieces for region in arena.regions] == [[[0, MIB, 0]], [[0, 2 * MIB, 0]]]
    arena.take("d", 3 * MIB)
    assert len(arena.regions) == 3 and arena.regions[2].pieces == [[0, 4 * MIB, 1]], "less than half is not cut off"


def test_a_planned_block_has_the_smallest_gap_for_each_value() -> None:
    def step(sign: str, name: str, size: int) -> activations._Step:
        return activations._Step(sign == "+", name, size * MIB, "value")

    words = "+a 1, +b 3, +c 1, -b 3, +d 2, +e 1, -a 1, +f 2"
    steps = [step(word[0], word[1:].split()[0], int(word.split()[1])) for word in words.split(", ")]
    # d and e fill the gap of b; that of a is too small for f
    assert activations._planned(steps) == 7 * MIB


def gelu(name: str, made: str) -> list[Node]:
    """Return Gelu as torch exports it, in an order that ONNX Runtime does not fuse."""
    return [
        make("Div", f"{name} root", f"{made}a"),
        make("Erf", f"{made}a", f"{made}b"),
        make("Add", f"{made}b one", f"{made}c"),
        make("Mul", f"half {made}c", f"{made}d"),
        make("Mul", f"{name} {made}d", made),
    ]


FLOATS = {name: np.array(value, "float32") for name, value in (("root", 2**0.5), ("one", 1.0), ("half", 0.5))}
GRAPHS: dict[str, onnx.ModelProto] = {
    "two products": graph(
        [make("MatMul", "x w", "a"), make("Relu", "a", "b"), make("MatMul", "b v", "y")],
        [1024, 32],
        [1024, 64],
        w=np.ones((32, 4096), "float32"),
        v=np.ones((4096, 64), "float32"),
    ),
    "Gelu": graph(
        [make("MatMul", "x w", "p"), make("Add", "p bias", "a"), *gelu("a", "b"), make("MatMul", "b v", "y")],
        [1024, 64],
        [1024, 64],
        w=np.ones((64, 4096), "float32"),
        v=np.ones((4096, 64), "float32"),
        bias=np.ones(4096, "float32"),
        **FLOATS,
    ),
    "convolutions": graph(
        [
            make("Conv", "x w", "a", pads=[1] * 4),
            make("Relu", "a", "b"),
            make("MaxPool", "b", "c", kernel_shape=[2, 2], strides=[2, 2]),
            make("Conv", "c v", "d", pads=[1] * 4),
            make("Sigmoid", "d", "e"),
            make("GlobalAveragePool", "e", "y"),
        ],
        [4, 16, 128, 128],
        [4, 64, 1, 1],
        w=np.ones((32, 16, 3, 3), "float32"),
        v=np.ones((64, 32, 3, 3), "float32"),
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_process_takes_what_is_estimated(name: str, tmp_path: Path) -> None:
    model = GRAPHS[name]
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    (tmp_path / "graph" / "model").mkdir(parents=True)
    onnx.save(model, tmp_path / "graph" / "model" / "model.onnx")
    port = {"name": "x", "dtype": "float32", "shape": shape}
    facts = {"interface": {"inputs": [port], "dimensions": {}}, "ranges": {}}
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    words = [sys.executable, "-m", "tests.benchmarks.bench_memory", "one", str(tmp_path)]
    done = subprocess.run(words, cwd=bench_memory.ROOT, capture_output=True, text=True, check=True)
    running = json.loads(done.stdout)["running"]
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    peak = weights + needs.list_needs(model, {})["activations"]["working"]
    assert 0.75 * peak <= running <= 1.25 * peak, (running / MIB, peak / MIB)
