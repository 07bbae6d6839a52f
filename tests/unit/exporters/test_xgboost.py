# SPDX-License-Identifier: Apache-2.0
"""XGBoost in MLflow's form and in bare files: measured at its own thresholds, with missing values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

from packager.errors import StepError
from tests import tables
from tests.unit.exporters.conftest import detected, opened

TABLE = tables.frame(600)[["age", "income per year", "visits"]]
HOLES = TABLE.astype(float).mask(np.random.RandomState(1).rand(*TABLE.shape) < 0.1)
TWO = (TABLE.age + TABLE.visits > 50).astype(int)
THREE = TABLE.visits % 3
OPTIONS = {"n_estimators": 12, "max_depth": 4, "n_jobs": 1}


def trained(objective: str, answer: Any, **options: Any) -> Any:
    return xgboost.train({"objective": objective, **options}, xgboost.DMatrix(HOLES, answer), 10)


MODELS: dict[str, Callable[[], Any]] = {
    "two classes": lambda: xgboost.XGBClassifier(**OPTIONS).fit(HOLES, TWO),
    "three classes": lambda: xgboost.XGBClassifier(**OPTIONS).fit(TABLE, THREE),
    "numbers": lambda: xgboost.XGBRegressor(**OPTIONS).fit(HOLES, TABLE.visits),
    "random forest": lambda: xgboost.XGBRFRegressor(**OPTIONS).fit(HOLES, TABLE.visits),
    "counts": lambda: xgboost.XGBRegressor(objective="count:poisson", **OPTIONS).fit(HOLES, TABLE.visits),
    "stopped early": lambda: xgboost.XGBClassifier(early_stopping_rounds=2, n_jobs=1).fit(
        TABLE[:300], TWO[:300], eval_set=[(TABLE[300:], 1 - TWO[300:])], verbose=False
    ),
    "booster": lambda: trained("binary:logistic", TWO, base_score=0.3),
    "booster of classes": lambda: trained("multi:softmax", THREE, num_class=3),
    "booster of numbers": lambda: trained("reg:squarederror", TABLE.visits),
}


@pytest.mark.parametrize("name", MODELS)
def test_labels_are_equal_and_numbers_agree(name: str, tmp_path: Path) -> None:
    source = tables.saved(tmp_path / "model", "xgboost", MODELS[name](), HOLES, TWO)
    assert detected(source) == ("xgboost", "model.ubj")
    found = tables.measured(source, tmp_path / "graph")
    assert found.worst.get("label", 0) == 0
    assert max(found.worst.values()) <= (1e-4 if "prediction" in found.worst else 3e-7)
    assert [port["name"] for port in found.facts["interface"]["inputs"]] == list(TABLE)


def test_thresholds_and_their_neighbours_are_measured_and_nan_is_missing(tmp_path: Path) -> None:
    model = MODELS["two classes"]()
    source = opened(tables.saved(tmp_path / "model", "xgboost", model, HOLES, TWO))
    rows = source.samples()["age"].reshape(-1)
    splits = model.get_booster().trees_to_dataframe().query("Feature == 'age'").Split.astype("float32")
    assert {value for t in splits for value in np.nextafter(t, np.float32([-np.inf, np.inf]))} <= set(rows)
    assert np.isnan(rows).any()


@pytest.mark.parametrize("ending", ["ubj", "json"])
def test_a_bare_file(ending: str, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    model = xgboost.XGBClassifier(**OPTIONS).fit(HOLES.to_numpy(), TWO)
    model.save_model(tmp_path / "source" / f"m.{ending}")
    found = tables.measured(tmp_path / "source", tmp_path / "graph")
    assert found.facts["interface"]["inputs"] == [{"name": "input", "dtype": "float64", "shape": ["batch", 3]}]
    assert found.worst["label"] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"booster": "dart"}, "`dart`"), ({"booster": "gblinear", "max_depth": None}, "`gblinear`"),
        ({"objective": "binary:hinge"}, "`binary:hinge`"),
    ],
)  # fmt: skip
def test_what_onnx_cannot_hold_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    xgboost.XGBRegressor(**{**OPTIONS, **options}).fit(TABLE, TWO).save_model(tmp_path / "m.ubj")
    with pytest.raises(StepError, match=words):
        opened(tmp_path)


def test_categories_and_broken_files_are_refused(tmp_path: Path) -> None:
    table = TABLE.assign(visits=TABLE.visits.astype("category"))
    xgboost.XGBRegressor(enable_categorical=True, **OPTIONS).fit(table, TWO).save_model(tmp_path / "m.ubj")
    with pytest.raises(StepError, match="splits on categories"):
        opened(tmp_path)
    (tmp_path / "m.ubj").write_bytes(b"{L\x00")
    with pytest.raises(StepError, match="cannot be opened by XGBoost"):
        opened(tmp_path)
