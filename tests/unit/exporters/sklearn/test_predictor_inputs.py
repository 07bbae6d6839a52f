# SPDX-License-Identifier: Apache-2.0
"""Predictors on data frames of mixed types, behind encoders, and on labels of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import (
    calibration,
    compose,
    ensemble,
    linear_model,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    pipeline,
    preprocessing,
    svm,
)

from packager.errors import StepError
from tests.unit.exporters.sklearn import cases
from tests.unit.exporters.written import difference

METHODS = ("predict", "predict_proba", "decision_function")


def frame(seed: int, count: int) -> pd.DataFrame:
    rows = cases.rows_of("two", seed, count)
    return pd.DataFrame(
        {
            "length": rows[:, 0],
            "age": np.round(rows[:, 1] * 10).astype("int64"),
            "member": rows[:, 2] > 0,
            "height": rows[:, 3].astype("float32"),
        }
    )


def wholes(data: pd.DataFrame) -> Any:
    return (data["length"] + data["age"] / 10 + data["member"] > 1).to_numpy().astype(int)


def _by_name() -> Any:
    columns = compose.make_column_transformer(
        (preprocessing.StandardScaler(), ["height", "length"]),
        (preprocessing.StandardScaler(with_mean=False), ["member"]),
    )
    return pipeline.make_pipeline(columns, svm.SVC())


def _near() -> Any:
    return pipeline.make_pipeline(preprocessing.StandardScaler(), neighbors.KNeighborsClassifier(5, weights="distance"))


MIXED = {
    "linear": linear_model.LogisticRegression,
    "vectors": svm.SVC,
    "bayes": naive_bayes.GaussianNB,
    "near": _near,
    "names": _by_name,
    "bag": lambda: ensemble.BaggingClassifier(linear_model.LogisticRegression(), max_features=2, random_state=0),
    "boost": lambda: ensemble.AdaBoostClassifier(linear_model.LogisticRegression(), n_estimators=4),
    "vote": lambda: ensemble.VotingClassifier([("a", _by_name()), ("b", naive_bayes.GaussianNB())]),
    "stack": lambda: ensemble.StackingClassifier([("a", _by_name()), ("b", _near())], passthrough=True, cv=3),
    "calibrated": lambda: calibration.CalibratedClassifierCV(_by_name(), method="isotonic", cv=3),
    "pairs": lambda: multiclass.OneVsOneClassifier(svm.LinearSVC()),
}


@pytest.mark.parametrize("name", MIXED)
def test_columns_of_unlike_types_are_read_as_numpy_reads_them(name: str) -> None:
    given = frame(1, 160)
    model = MIXED[name]().fit(given, wholes(given))
    for method in (method for method in METHODS if hasattr(model, method)):
        assert difference(model, frame(2, 2000), method) <= (0 if method == "predict" else 1e-7), method


LABELS = {
    "large": np.array([1 << 40, -3, 7]),
    "whole doubles": np.array([2.0, 0.0, -1.0]),
    "text as objects": np.array(["b", "a", "\u00e9"], dtype=object),
}
LABELLED = {
    "linear": linear_model.LogisticRegression,
    "near": neighbors.KNeighborsClassifier,
    "vectors": svm.SVC,
    "boost": lambda: ensemble.AdaBoostClassifier(linear_model.LogisticRegression(), n_estimators=4),
    "vote": lambda: ensemble.VotingClassifier([("a", svm.SVC()), ("b", naive_bayes.GaussianNB())]),
    "stack": lambda: ensemble.StackingClassifier([("a", svm.SVC()), ("b", naive_bayes.GaussianNB())], cv=3),
    "rest": lambda: multiclass.OneVsRestClassifier(linear_model.LogisticRegression()),
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("name", LABELLED)
def test_labels_come_back_as_they_are(name: str, labels: str) -> None:
    given, targets = cases.training("three")
    model = LABELLED[name]().fit(given, LABELS[labels][(targets - 1) // 2])
    assert difference(model, cases.fresh("three"), "predict") == 0


def test_outputs_with_unlike_labels_are_refused() -> None:
    given, three = cases.training("three")
    targets = np.empty((len(three), 2), dtype=object)
    targets[:, 0], targets[:, 1] = three, np.where(three > 1, "yes", "no")
    model = multioutput.MultiOutputClassifier(linear_model.LogisticRegression())
    model.classes_ = []
    model.estimators_ = [
        linear_model.LogisticRegression().fit(given, three),
        linear_model.LogisticRegression().fit(given, targets[:, 1].astype(str)),
    ]
    with pytest.raises(StepError, match="MultiOutputClassifier"):
        difference(model, given, "predict")


def test_text_goes_through_members_that_encode_it() -> None:
    given = frame(1, 160)[["length"]].assign(tree=cases.training("text")[1])
    fresh = frame(2, 2000)[["length"]].assign(tree=np.resize(["spruce", "alder", "yew"], 2000))
    codes = compose.make_column_transformer(
        (preprocessing.OneHotEncoder(handle_unknown="ignore"), ["tree"]), (preprocessing.StandardScaler(), ["length"])
    )
    inner = pipeline.make_pipeline(codes, linear_model.LogisticRegression())
    model = ensemble.VotingClassifier([("a", inner), ("b", inner)], voting="soft", weights=[1, 2])
    assert difference(model.fit(given, (given["length"] > 0).to_numpy()), fresh, "predict_proba") <= 1e-7
