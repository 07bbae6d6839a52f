# SPDX-License-Identifier: Apache-2.0
"""The ids that a table of the graph has rows for are the range of the input that brings them."""

from __future__ import annotations

import onnx
import pytest

from packager.exporters import Port
from packager.exporters._interface import indices

HEAD = '<ir_version: 8, opset_import: ["" : 18]> g (float[n, 3] ids) => (float[n, 3, 2] y) <float[9, 2] table, float[5, 2] small>'
FORMS = {
    "direct": "i = Cast <to = 7> (ids)  y = Gather (table, i)",
    "reshaped": "flat = Flatten (ids)  i = Cast <to = 6> (flat)  y = Gather <axis = 0> (table, i)",
    "counting from the end": """
        i = Cast <to = 7> (ids)  zero = Constant <value = int64 {0}> ()  rows = Constant <value = int64 {9}> ()
        below = Less (i, zero)  wrapped = Add (i, rows)  chosen = Where (below, wrapped, i)  y = Gather (table, chosen)""",
    "the smallest of two": "i = Cast <to = 7> (ids)  a = Gather (table, i)  b = Gather (small, i)  y = Add (a, b)",
}
OTHERS = {
    "shifted": "i = Cast <to = 7> (ids)  one = Constant <value = int64 {1}> ()  j = Add (i, one)  y = Gather (table, j)",
    "one column of several": """
        zero = Constant <value = int64[1] {0}> ()  one = Constant <value = int64[1] {1}> ()
        part = Slice (ids, zero, one, one)  i = Cast <to = 7> (part)  y = Gather (table, i)""",
    "a table that is computed": "i = Cast <to = 7> (ids)  t = Relu (ids)  y = Gather (t, i)",
    "never as an index": "z = Relu (ids)  a = Unsqueeze (z, z)  y = Identity (a)",
}


def bounds(body: str, stated: tuple[float, float] | None = None) -> tuple[float, float] | None:
    model = onnx.parser.parse_model(f"{HEAD} {{ {body} }}")
    for name, rows in (("table", 9), ("small", 5)):
        model.graph.initializer.append(
            onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [rows, 2], [0.0] * rows * 2)
        )
    (found,) = indices.bound_indices([Port("ids", "float32", ("batch", 3), stated)], model)
    return found.range


@pytest.mark.parametrize("form", FORMS)
def test_the_rows_of_a_table_are_the_range_of_its_ids(form: str) -> None:
    assert bounds(FORMS[form]) == ((0, 4) if "two" in form else (0, 8))


@pytest.mark.parametrize("form", OTHERS)
def test_nothing_is_said_of_what_arrives_changed(form: str) -> None:
    assert bounds(OTHERS[form]) is None


def test_the_recipes_own_range_stays() -> None:
    assert bounds(FORMS["direct"], (1, 4)) == (1, 4)
