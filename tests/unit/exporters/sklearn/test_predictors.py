# SPDX-License-Identifier: Apache-2.0
"""Every predictor of the library and its graph, side by side on rows that neither was fitted on."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn import base, utils
from sklearn.exceptions import ConvergenceWarning

from packager.errors import StepError
from tests.unit.exporters.sklearn import cases
from tests.unit.exporters.written import difference

METHODS = ("predict", "predict_proba", "decision_function", "score_samples")


def fitted(case: cases.Case) -> Any:
    given, targets = cases.training(case.data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore")
        return case.make().fit(given, *([targets] if targets is not None else []))


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_a_graph_answers_as_its_estimator(case: cases.Case) -> None:
    model = fitted(case)
    fresh = cases.fresh(case.data)
    methods = case.methods or [method for method in METHODS if hasattr(model, method)]
    assert methods
    found = {method: difference(model, fresh, method, case.opset) for method in methods}
    allowed = {method: 0 if method == "predict" and case.labels else case.tolerance for method in methods}
    assert all(found[method] <= allowed[method] for method in methods), found


@pytest.mark.parametrize("case", cases.REFUSED_CASES, ids=lambda case: case.name)
def test_what_has_no_graph_is_refused_by_name(case: cases.Case) -> None:
    model = fitted(case)
    for method in case.methods:
        with pytest.raises(StepError, match=case.names):
            difference(model, cases.fresh(case.data), method)


def test_every_predictor_of_the_library_has_a_verdict() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = {name for kind in ("classifier", "regressor", "cluster") for name, _ in utils.all_estimators(kind)}
        known |= {name for name, kind in utils.all_estimators() if issubclass(kind, base.OutlierMixin)}
    tried = {type(part).__name__ for case in cases.CASES for part in [case.make()]}
    unknown = known - tried - cases.TREES - set(cases.WITHOUT_PREDICTIONS)
    assert not unknown
    assert not [name for name in cases.WITHOUT_PREDICTIONS if name in tried]


@pytest.mark.parametrize("name", cases.WITHOUT_PREDICTIONS)
def test_clusterers_that_know_no_new_rows_are_refused(name: str) -> None:
    kind = dict(utils.all_estimators("cluster"))[name]
    assert not hasattr(kind, "predict")
    with pytest.raises(StepError, match=name):
        difference(kind(), np.zeros((2, 3)), "predict")
