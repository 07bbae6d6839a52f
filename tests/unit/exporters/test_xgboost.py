# SPDX-License-Identifier: Apache-2.0
"""XGBoost in MLflow's form and in bare files: measured at its own thresholds, with missing values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import xgboost

from packager.errors import StepError
from tests.support import tables
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


def test_thresholds_and_neighbours_are_measured(tmp_path: Path) -> None:
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


def test_flags_are_columns_like_others(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    table = TABLE[["age"]].assign(old=TABLE.age > 45)
    model = xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(table, TWO)
    model.save_model(tmp_path / "source" / "ind.ubj")
    assert tables.measured(tmp_path / "source", tmp_path / "graph").worst["label"] == 0


def without_values(path: Path, target: Path) -> None:
    """Write a model as XGBoost before 3.1 did: codes of categories alone."""
    learner = json.loads(path.read_text())
    learner["learner"]["gradient_booster"]["model"].pop("cats")
    target.write_text(json.dumps(learner))


def test_bare_codes_are_refused_for_data_frames(tmp_path: Path) -> None:
    table = TABLE.assign(visits=TABLE.visits.astype("category"))
    model = xgboost.XGBRegressor(enable_categorical=True, max_cat_to_onehot=1, **OPTIONS).fit(table, TWO)
    source = tables.saved(tmp_path / "model", "xgboost", model, table, TWO, model_format="json")
    assert tables.measured(source, tmp_path / "graph").worst["prediction"] < 1e-6
    (tmp_path / "bare").mkdir()
    without_values(source / "model.json", tmp_path / "bare" / "model.json")
    found = opened(tmp_path / "bare")
    feeds = {name: TABLE[name].to_numpy("float64").reshape(-1, 1) for name in TABLE}
    session = onnxruntime.InferenceSession(found.to_onnx(18).SerializeToString())
    assert np.abs(session.run(None, feeds)[0].reshape(-1) - model.predict(table)).max() < 1e-6
    without_values(source / "model.json", source / "model.json")
    with pytest.raises(StepError, match="holds only codes of the categories of column `visits`"):
        opened(source)


def test_an_empty_text_is_a_missing_category(tmp_path: Path) -> None:
    city = pd.Series(np.resize(["b", "a", None, "c"], len(TABLE)), dtype="category")
    answer = np.resize([1.0, -1.0, 9.0, 2.0], len(TABLE))
    table = TABLE.assign(city=city)
    model = xgboost.XGBRegressor(enable_categorical=True, max_cat_to_onehot=1, **OPTIONS).fit(table, answer)
    done = tables.measured(tables.saved(tmp_path / "model", "xgboost", model, table, answer), tmp_path / "graph")
    assert done.worst["prediction"] < 1e-5
    found = opened(tmp_path / "model")
    assert all("" in values["city"] for values in (found.samples(), found.rows()["one column at its edges"]))
    feeds = {name: table[name].to_numpy("float64").reshape(-1, 1) for name in TABLE}
    feeds["city"] = np.array(["" if pd.isna(item) else item for item in city], object).reshape(-1, 1)
    assert np.abs(found.run(feeds)[0].reshape(-1) - model.predict(table)).max() < 1e-6


def test_truncated_categories_and_broken_files_are_refused(tmp_path: Path) -> None:
    city = tables.frame(600).city.astype("category")
    model = xgboost.XGBRegressor(enable_categorical=True, **OPTIONS).fit(TABLE.assign(city=city), TWO)
    model.save_model(tmp_path / "m.ubj")
    with pytest.raises(StepError, match="not ASCII"):
        opened(tmp_path)
    (tmp_path / "m.ubj").write_bytes(b"{L\x00")
    with pytest.raises(StepError, match="cannot be opened by XGBoost"):
        opened(tmp_path)
