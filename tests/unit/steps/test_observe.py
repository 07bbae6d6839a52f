# SPDX-License-Identifier: Apache-2.0
"""Shapes of outputs are those that runs return, at real lengths and not at tiny ones alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto as T
from onnx import helper as h

from packager.exporters import ExportOptions
from packager.exporters import onnx as exporter
from packager.graph import canonicalise
from packager.recipe.lengths import Lengths
from packager.steps import _outputs
from packager.steps._inputs import describe_inputs
from tests.unit.exporters.test_described import saved


@pytest.mark.parametrize("stated", [[], ["n"], ["n", 1, 4], None])
def test_a_length_that_shrinks_is_not_taken_for_one(stated: Any, tmp_path: Path) -> None:
    """A recogniser's stride of 8: widths 1 to 8 all give one column; the statement of the file is wrong, too."""
    nodes = [
        h.make_node("MaxPool", ["x"], ["p"], kernel_shape=[8], strides=[8], ceil_mode=1),
        h.make_node("Relu", ["p"], ["y"]),
    ]
    path = saved(tmp_path, nodes, {"x": (T.FLOAT, ["n", 4, "width"])}, {"y": (T.FLOAT, stated)})
    source = exporter.load(path.parent, path.name, ExportOptions(dynamic={"width": (1, 512)}))
    model = source.to_onnx(17)
    accepted = describe_inputs(source.interface)
    _outputs.correct_output_shapes(model, _outputs.observe(source, accepted, 0))
    assert canonicalise.read_port(model.graph.output[0])[2] == ("n", 4, "ceil(width/8)")
    (answer,) = source.run({"x": np.zeros((2, 4, 320), "float32")})
    assert answer.shape == (2, 4, 40)


def test_two_stepped_axes_are_distinguished(tmp_path: Path) -> None:
    path = saved(
        tmp_path, [h.make_node("Relu", ["x"], ["y"])], {"x": (T.FLOAT, ["n", "height", "width"])}, {"y": (T.FLOAT, [1])}
    )
    limits = {"height": Lengths(32, None, 32), "width": Lengths(32, None, 32)}
    source = exporter.load(path.parent, path.name, ExportOptions(limits=limits))
    model = source.to_onnx(17)
    _outputs.correct_output_shapes(model, _outputs.observe(source, describe_inputs(source.interface), 0))
    assert canonicalise.read_port(model.graph.output[0])[2] == ("n", "height", "width")


def test_four_free_axes_do_not_multiply(tmp_path: Path) -> None:
    """Lengths around 200 of every axis are 127 million elements of an input: shapes are seen at fewer."""
    nodes = [h.make_node("Concat", ["x", "x"], ["y"], axis=3)]
    path = saved(tmp_path, nodes, {"x": (T.FLOAT, ["n", "a", "b", "c"])}, {"y": (T.FLOAT, ["n", "a", "b", None])})
    source = exporter.load(path.parent, path.name, ExportOptions(dynamic=dict.fromkeys("nabc", (1, 512))))
    model = source.to_onnx(17)
    seen = _outputs.observe(source, describe_inputs(source.interface), 0)
    assert max(np.prod(list(run.lengths.values())) for run in seen) <= 1 << 20
    assert len({run.lengths["c"] for run in seen}) >= 4, "a formula is told from another by several lengths"
    _outputs.correct_output_shapes(model, seen)
    assert canonicalise.read_port(model.graph.output[0])[2] == ("n", "a", "b", "2*c")
