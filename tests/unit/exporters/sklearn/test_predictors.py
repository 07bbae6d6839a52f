# SPDX-License-Identifier: Apache-2.0
"""Every predictor of the library and its graph, side by side on rows that neither was fitted on."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn import base, neighbors, utils
from sklearn.exceptions import ConvergenceWarning

from packager.errors import StepError
from packager.exporters._sklearn.critical import critical_rows, tied_rows
from tests.support.breadth import first_of_each
from tests.unit.exporters.sklearn import cases
from tests.unit.exporters.written import difference

TIE = 1e-12
METHODS = ("predict", "predict_proba", "decision_function", "score_samples")


def kind_of(case: cases.Case) -> str:
    """Return what a case is of: an estimator, or an operator set of several."""
    return case.name.partition("-")[0] if case.opset == 18 else f"opset {case.opset}"


def fitted(case: cases.Case) -> Any:
    given, targets = cases.training(case.data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore")
        return case.make().fit(given, *([targets] if targets is not None else []))


@pytest.mark.parametrize("case", first_of_each(cases.CASES, kind_of), ids=lambda case: case.name)
def test_a_graph_answers_as_its_estimator(case: cases.Case) -> None:
    model = fitted(case)
    fresh = cases.fresh(case.data)
    methods = case.methods or [method for method in METHODS if hasattr(model, method)]
    assert methods
    found = {method: differs(case, model, fresh, method) for method in methods}
    near = critical_rows(model) if cases.is_continuous(case.data) else None
    if near is not None:
        found = {method: max(found[method], differs(case, model, near, method)) for method in methods}
    allowed = {method: 0 if method == "predict" and case.labels else case.tolerance for method in methods}
    assert all(found[method] <= allowed[method] for method in methods), found


def differs(case: cases.Case, model: Any, rows: Any, method: str) -> float:
    """Return the largest difference; of labels only where two scores are no tie within what processors round."""
    if method == "predict" and case.labels and "predict_proba" in (case.methods or METHODS):
        scores = getattr(model, "predict_proba", lambda given: [])(rows)
        if isinstance(scores, np.ndarray) and scores.ndim == 2 and scores.shape[1] > 1:
            first, second = np.sort(scores, axis=1)[:, -1], np.sort(scores, axis=1)[:, -2]
            rows = rows[~(first - second <= TIE)]
    return difference(model, rows, method, case.opset)


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


# -- critical rows


def test_critical_rows_part_two_answers_closely() -> None:
    """Between two classes the neighbouring rows that are suggested fall on either side of the plane."""
    model = fitted(next(case for case in cases.LINEAR if case.name == "LogisticRegression-two"))
    near = critical_rows(model)
    assert near is not None
    labels = model.predict(near).reshape(-1, 2)
    assert (labels[:, 0] != labels[:, 1]).all()
    assert np.abs(model.decision_function(near)).max() < 1e-4


@pytest.mark.parametrize(
    "name", ["KMeans", "IsotonicRegression-line", "SVC-rbf-two", "KNeighborsRegressor-uniform-number"]
)
def test_critical_rows_lie_where_answers_change(name: str) -> None:
    model = fitted(next(case for case in cases.CASES if case.name == name))
    near = critical_rows(model)
    assert near is not None
    assert near.shape[1] == model.n_features_in_ if hasattr(model, "n_features_in_") else 1
    answers = model.predict(near)
    assert len(np.unique(answers)) > 1


def test_rows_with_ambiguous_neighbours_are_found() -> None:
    points = np.array([[0.0], [2.0], [10.0]])
    model = neighbors.KNeighborsClassifier(1).fit(points, [0, 1, 1])
    assert tied_rows(model, np.array([[1.0], [1.1], [9.0]])).tolist() == [True, False, False]


@pytest.mark.parametrize("algorithm", ["kd_tree", "ball_tree", "brute"])
@pytest.mark.parametrize("count", [1, 5])
def test_only_ambiguous_neighbours_may_differ(algorithm: str, count: int) -> None:
    """On a coarse grid with twins of other classes many rows have no definite neighbours; all others agree."""
    given, targets = cases.training("text")
    model = neighbors.KNeighborsClassifier(count, algorithm=algorithm).fit(np.round(given), targets)
    fresh = np.round(cases.fresh("text"))
    unclear = tied_rows(model, fresh)
    assert 0.05 < unclear.mean() < 0.95
    assert difference(model, fresh[~unclear], "predict_proba") <= 1e-7
    assert difference(model, fresh[unclear], "predict") < 0.1 * unclear.sum()
