# SPDX-License-Identifier: Apache-2.0
"""Boosting as a step of a scikit-learn pipeline: exact trees, whoever grew them and whatever stands before them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from packager.errors import PackagerError
from packager.exporters._trees import lightgbm as lightgbm_trees
from packager.exporters._trees.ensemble import Columns
from packager.steps import export
from tests.support import tables
from tests.support.breadth import some_of
from tests.unit.exporters.conftest import detected

TABLE = tables.frame()
NAMES = tables.target(TABLE)
YES = (NAMES == "yes").astype(int)
THREE = (TABLE.visits % 3).to_numpy()
NUMBERS = TABLE[["age", "income per year"]].astype(float)
HOLES = NUMBERS.mask(np.random.RandomState(1).rand(*NUMBERS.shape) < 0.1)
QUIET = {"verbose": -1, "n_jobs": 1, "n_estimators": 15, "min_child_samples": 5}
XGB = {"n_jobs": 1, "n_estimators": 15}


def columns(model: Any, *, dense: bool = False) -> Pipeline:
    """Numbers, a category with unseen ones, and text of all scripts, in front of a booster."""
    parts = [
        ("numbers", StandardScaler(), ["age", "income per year", "visits"]),
        ("city", OneHotEncoder(handle_unknown="ignore"), ["city"]),
        ("text", TfidfVectorizer(ngram_range=(1, 2)), "text"),
    ]
    return Pipeline([("columns", ColumnTransformer(parts, sparse_threshold=0 if dense else 0.3)), ("model", model)])


FITTED = {
    "xgboost behind text": lambda: (columns(xgboost.XGBClassifier(**XGB), dense=True).fit(TABLE, YES), TABLE),
    "lightgbm behind text": lambda: (columns(lightgbm.LGBMClassifier(**QUIET), dense=True).fit(TABLE, NAMES), TABLE),
    "histograms behind text": lambda: (
        columns(HistGradientBoostingClassifier(max_iter=10), dense=True).fit(TABLE, NAMES),
        TABLE,
    ),
    "xgboost of three": lambda: (
        make_pipeline(StandardScaler(), xgboost.XGBClassifier(**XGB)).fit(HOLES, THREE),
        HOLES,
    ),
    "lightgbm of three": lambda: (make_pipeline(lightgbm.LGBMClassifier(**QUIET)).fit(HOLES, THREE), HOLES),
    "xgboost of numbers": lambda: (
        make_pipeline(StandardScaler(), xgboost.XGBRegressor(**XGB)).fit(HOLES, TABLE.visits),
        HOLES,
    ),
    "xgboost of counts": lambda: (
        make_pipeline(xgboost.XGBRegressor(objective="count:poisson", **XGB)).fit(HOLES, TABLE.visits),
        HOLES,
    ),
    "xgboost forest": lambda: (make_pipeline(xgboost.XGBRFClassifier(**XGB)).fit(HOLES, YES), HOLES),
    "lightgbm of numbers": lambda: (
        make_pipeline(StandardScaler(), lightgbm.LGBMRegressor(**QUIET)).fit(HOLES, TABLE.visits),
        HOLES,
    ),
    "lightgbm of counts": lambda: (
        make_pipeline(lightgbm.LGBMRegressor(objective="poisson", **QUIET)).fit(HOLES, TABLE.visits),
        HOLES,
    ),
    "lightgbm forest": lambda: (
        make_pipeline(lightgbm.LGBMClassifier(boosting_type="rf", bagging_freq=1, bagging_fraction=0.7, **QUIET)).fit(
            HOLES, NAMES
        ),
        HOLES,
    ),
    "histograms of numbers": lambda: (
        make_pipeline(StandardScaler(), HistGradientBoostingRegressor(max_iter=10)).fit(HOLES, TABLE.visits),
        HOLES,
    ),
    "boosted numbers": lambda: (
        make_pipeline(StandardScaler(), GradientBoostingRegressor(n_estimators=10)).fit(NUMBERS, TABLE.visits),
        NUMBERS,
    ),
    "calibrated": lambda: (
        make_pipeline(CalibratedClassifierCV(lightgbm.LGBMClassifier(**QUIET), cv=2)).fit(NUMBERS, YES),
        NUMBERS,
    ),
    "calibrated margins": lambda: (
        make_pipeline(CalibratedClassifierCV(GradientBoostingClassifier(n_estimators=5), cv=2)).fit(NUMBERS, YES),
        NUMBERS,
    ),
    "stacked": lambda: (
        make_pipeline(
            StandardScaler(),
            StackingClassifier(
                [
                    ("x", xgboost.XGBClassifier(**XGB)),
                    ("l", lightgbm.LGBMClassifier(**QUIET)),
                    ("h", RandomForestClassifier(5, random_state=0)),
                ],
                LogisticRegression(),
                cv=2,
            ),
        ).fit(NUMBERS, YES),
        NUMBERS,
    ),
    "stacked numbers": lambda: (
        make_pipeline(
            StackingRegressor(
                [("x", xgboost.XGBRegressor(**XGB)), ("l", lightgbm.LGBMRegressor(**QUIET))], LinearRegression(), cv=2
            )
        ).fit(NUMBERS, TABLE.visits),
        NUMBERS,
    ),
    "voting": lambda: (
        make_pipeline(
            VotingClassifier(
                [("x", xgboost.XGBClassifier(**XGB)), ("l", lightgbm.LGBMClassifier(**QUIET))], voting="soft"
            )
        ).fit(NUMBERS, YES),
        NUMBERS,
    ),
}


def write(folder: Path, model: Any, given: Any) -> Path:
    return tables.saved(
        folder / "model", "sklearn", model, given, model.predict(given), serialization_format="cloudpickle"
    )


SLOW = (
    "histograms behind text",
    "lightgbm behind text",
    "xgboost behind text",
    "stacked",
    "calibrated margins",
    "xgboost of three",
    "xgboost forest",
    "boosted numbers",
    "histograms of numbers",
    "stacked numbers",
)  # test_boosted_models.py has every kind of tree and booster by default


@pytest.mark.parametrize("name", some_of(FITTED, *(name for name in FITTED if name not in SLOW)))
def test_labels_are_equal_and_numbers_close(name: str, tmp_path: Path) -> None:
    model, given = FITTED[name]()
    result = tables.measured(write(tmp_path, model, given), tmp_path / "out")
    assert result.worst.pop("label", 0) == 0
    scale = max(1.0, float(np.abs(np.asarray(model.predict(given) if "prediction" in result.worst else 1.0)).max()))
    assert max(result.worst.values()) <= 1e-5 * scale


def test_an_objective_of_ones_own_is_refused(tmp_path: Path) -> None:
    model = lightgbm.LGBMClassifier(objective=squares, **QUIET)
    fitted = make_pipeline(StandardScaler(), model).fit(HOLES, YES)
    kind, payload = detected(source := write(tmp_path, fitted, HOLES))
    with pytest.raises(PackagerError, match="custom objective"):
        export.run({"source": source}, tmp_path / "out", {"kind": kind, "payload": payload, **tables.LEVEL})


def squares(answer: Any, raw: Any) -> tuple[Any, Any]:
    return raw - answer, np.ones_like(raw)


def test_missing_as_zero_follows_zero() -> None:
    columns = Columns(1)
    assert lightgbm_trees._rule(columns, [], 0, 1.5, 0) == (0, 1.5, True)
    assert lightgbm_trees._rule(columns, [], 0, -1.5, 2) == (0, -1.5, False)
    assert lightgbm_trees._rule(columns, [], 0, -1.5, 8 | 2) == (0, -1.5, True)
    assert lightgbm_trees._rule(columns, [], 0, 0.0, 8)[1] > 0
