# SPDX-License-Identifier: Apache-2.0
"""What a runtime's optimiser does to binary64: factors beside a matrix product keep their 53 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest

from packager.exporters._sklearn.builder import Builder, Value

THIRD = 1.0 / 3.0


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize(
    "write",
    [
        lambda builder, value, matrix: builder.mul(builder.matmul(value, matrix), THIRD),
        lambda builder, value, matrix: builder.div(builder.matmul(value, matrix), 1.0 / THIRD),
        lambda builder, value, matrix: builder.matmul(builder.mul(value, THIRD), matrix),
        lambda builder, value, matrix: builder.matmul(builder.div(value, [1.0 / THIRD]), matrix),
    ],
)
def test_a_factor_beside_a_product_is_not_rounded(width: int, write: Callable[[Builder, Value, Any], Value]) -> None:
    matrix = np.random.default_rng(0).normal(size=(width, width))
    rows = np.random.default_rng(1).normal(size=(50, width))
    builder = Builder(18, ["x", "y"])
    given = Value("x", "float64", width)
    graph = builder.model([(given, "x")], [(write(builder, given, matrix), "y", 2)])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": rows})[0], rows @ matrix / 3, rtol=1e-13, atol=1e-15)
