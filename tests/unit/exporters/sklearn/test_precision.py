# SPDX-License-Identifier: Apache-2.0
"""What a runtime's optimiser does to binary64: factors beside a matrix product keep their 53 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PowerTransformer
from sklearn.svm import SVR

from packager.errors import StepError
from packager.exporters._sklearn.builder import Builder, Value
from tests.unit.exporters.written import difference

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


def test_trees_behind_inexact_functions_are_refused() -> None:
    given = np.random.default_rng(0).standard_normal((300, 2))
    answer = given[:, 0] > given[:, 1]

    def behind(function: Any, model: Any) -> Any:
        return make_pipeline(FunctionTransformer(function), model).fit(given, answer)

    forest = RandomForestClassifier(5, random_state=0)
    assert difference(behind(np.expm1, forest), given, "predict_proba") == 0.0
    for function, rows in ((np.expm1, given.astype("float32")), (np.tanh, given)):
        with pytest.raises(StepError, match=f"trees stand behind `{function.__name__}` of {rows.dtype} numbers"):
            difference(behind(function, forest), rows, "predict_proba")
    linear = behind(np.tanh, LogisticRegression())
    assert difference(linear, given.astype("float32"), "predict_proba") <= 1e-6


def test_rounding_powers_are_refused_and_empty_svr_is_constant() -> None:
    given = 1_700_000_000 + np.random.default_rng(0).integers(0, 1e7, (300, 1)).astype("float64")
    power = PowerTransformer().fit(given)
    power.lambdas_, power._scaler.mean_ = np.array([-1.14]), np.array([0.875])
    power._scaler.scale_ = np.array([4.7e-14])  # as a fit on such stamps leaves it
    with pytest.raises(StepError, match="differ in their last digits only"):
        difference(power, given, "transform")
    constant = SVR(epsilon=10.0).fit(given, np.zeros(300))
    assert not len(constant.support_) and difference(constant, given, "predict") == 0.0
