# SPDX-License-Identifier: Apache-2.0
"""Public bug reports of models for tables, re-enacted: each is right now, or refused with the reason.

The number of a report is that of the repository named beside it; what was wrong or refused without a word is said.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.matrix import estimators
from tests.matrix.test_models import row

pytestmark = pytest.mark.slow

REPORTS = {
    "onnx/sklearn-onnx#804, #958: fractions were cut off": "whole number first, logistic",
    "onnx/sklearn-onnx#958: built, and 211 of 400 labels were wrong": "whole number first, RidgeClassifier",
    "onnx/sklearn-onnx#958, three classes": "whole number first, LinearSVC",
    "onnx/sklearn-onnx#1047: every column was cast to a flag": "flag first, forest",
    "onnx/sklearn-onnx#926, #982, #1133": "impute whole and fraction",
    "onnx/sklearn-onnx#1192: built, and 70 of 5000 rows fell into another leaf": "histogram on doubles",
    "onnx/sklearn-onnx#767, #718, #1153": "columns called label and prediction",
    "onnx/sklearn-onnx#767, names of constants": "columns called one, classes, constant",
    "onnx/sklearn-onnx#1151": "isotonic calibration of a forest",
    "onnx/sklearn-onnx#1071, #717": "soft voting, weights as a list",
    "onnx/sklearn-onnx#786, #817": "stacking, passthrough, text labels",
    "onnx/sklearn-onnx#548, #733": "isolation forest",
    "onnx/sklearn-onnx#548, k-means": "scaler and k-means",
    "multi-output, a linear model": "multi-output logistic",
    "multi-output, a forest": "multi-output forest",
    "multi-output, a network": "multi-label MLP",
    "onnx/sklearn-onnx#609, #1040": "function log1p",
    "skops-dev/skops#498, mlflow/mlflow#18759": "k nearest",
    "onnx/sklearn-onnx#611": "k nearest by distance",
    "skops-dev/skops#498, mlflow/mlflow#24208": "select k best",
    "onnx/sklearn-onnx#1152": "columns selected by dtype",
    "onnx/sklearn-onnx#681": "impute categories that are None",
    "onnx/sklearn-onnx#681, NaN": "impute missing categories",
    "onnx/sklearn-onnx#1047, #320: flags": "one-hot of flags",
    "onnx/sklearn-onnx#320: bins": "bins, one-hot",
    "a transformed target": "target transformed by log",
    "a tuned threshold": "tuned threshold",
    "one versus one with text labels": "one versus one, text labels",
    "SGD with the modified Huber loss": "SGD modified Huber, three classes",
    "a Gaussian process that classifies": "Gaussian process classifier",
    "polynomials of doubles": "polynomial of doubles",
    "stacking over SVC": "stacking of SVC",
    "an indicator of missing values before a power transform": "impute, indicator, power, MLP",
    "chi2": "select by chi2",
    "splines": "splines",
    "categories of histogram boosting": "histogram, categories from dtype",
}


@pytest.mark.parametrize("report", REPORTS)
def test_a_reported_model_is_right(report: str, tmp_path: Path) -> None:
    name = REPORTS[report]
    found = row(name, estimators.PIPELINES[name], tmp_path)
    assert found.verdict == "right", found
