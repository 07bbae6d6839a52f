# SPDX-License-Identifier: Apache-2.0
"""LightGBM in MLflow's forms and in bare files: measured at its own thresholds, with missing values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnxruntime
import pytest

from packager.errors import StepError
from tests.support import tables
from tests.unit.exporters.conftest import detected, opened

TABLE = tables.frame(600)[["age", "income per year", "visits"]]
HOLES = TABLE.astype(float).mask(np.random.RandomState(1).rand(*TABLE.shape) < 0.1)
TWO = (TABLE.age + TABLE.visits > 50).astype(int)
THREE = TABLE.visits % 3
NAMED = np.where(TWO == 1, "yes", "no").astype(object)
OPTIONS: dict[str, Any] = {"n_estimators": 12, "verbose": -1, "n_jobs": 1}


def trained(objective: str, answer: Any, given: Any = HOLES, categorical: Any = "auto", **options: Any) -> Any:
    data = lightgbm.Dataset(given, answer, categorical_feature=categorical)
    return lightgbm.train({"objective": objective, "verbose": -1, "num_threads": 1, **options}, data, 10)


def stopped() -> Any:
    stop = lightgbm.early_stopping(2, verbose=False)
    model = lightgbm.LGBMClassifier(verbose=-1, n_jobs=1)
    return model.fit(TABLE[:300], TWO[:300], eval_set=[(TABLE[300:], 1 - TWO[300:])], callbacks=[stop])


FOREST = {"boosting_type": "rf", "subsample": 0.5, "subsample_freq": 1}
MODELS: dict[str, Callable[[], Any]] = {
    "named classes": lambda: lightgbm.LGBMClassifier(**OPTIONS).fit(HOLES, NAMED),
    "three classes": lambda: lightgbm.LGBMClassifier(**OPTIONS).fit(TABLE, THREE),
    "numbers": lambda: lightgbm.LGBMRegressor(**OPTIONS).fit(HOLES, TABLE.visits),
    "trained without holes": lambda: lightgbm.LGBMRegressor(**OPTIONS).fit(TABLE - 10, TABLE.visits),
    "random forest": lambda: lightgbm.LGBMRegressor(**FOREST, **OPTIONS).fit(HOLES, TABLE.visits),
    "leaves all positive": stopped,
    "booster": lambda: trained("binary", TWO),
    "booster of classes": lambda: trained("multiclass", THREE, num_class=3),
    "categories": lambda: trained(
        "regression", TABLE.age, TABLE, ["visits"], min_data_per_group=1, cat_smooth=0, max_cat_to_onehot=1
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_labels_are_equal_and_numbers_agree(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    source = tables.saved(tmp_path / "model", "lightgbm", model, HOLES, TWO)
    payload = "model.skops" if isinstance(model, lightgbm.LGBMModel) else "model.lgb"
    assert detected(source) == ("lightgbm", payload)
    found = tables.measured(source, tmp_path / "graph")
    assert found.worst.get("label", 0) == 0
    assert max(found.worst.values()) <= (1e-4 if "prediction" in found.worst else 3e-7)
    assert [port["name"] for port in found.facts["interface"]["inputs"]] == list(TABLE)


def test_doubles_reach_the_same_leaf_as_in_the_library(tmp_path: Path) -> None:
    """Neighbours of thresholds that are one float32 are two doubles, and lie in two leaves."""
    model = lightgbm.LGBMRegressor(**OPTIONS).fit(HOLES, TABLE.visits)
    source = opened(tables.saved(tmp_path / "model", "lightgbm", model, HOLES, TWO))
    assert {port.dtype for port in source.interface.inputs} == {"float64"}
    stated = model.booster_.trees_to_dataframe().query("split_feature == 'age'").threshold.astype(float).to_numpy()
    beside = np.concatenate([stated, np.nextafter(stated, np.inf)])
    rows = HOLES.fillna(0.0).iloc[np.arange(len(beside)) % len(HOLES)].assign(age=beside)
    feeds = {name: rows[name].to_numpy().reshape(-1, 1) for name in rows}
    session = onnxruntime.InferenceSession(source.to_onnx(18).SerializeToString())
    assert (session.run(None, feeds)[0].reshape(-1) == model.predict(rows).astype("float32")).all()
    rounded = model.predict(rows.astype("float32").astype("float64"))
    assert (rounded != model.predict(rows)).any()


def test_a_bare_text_file_and_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    trained("binary", TWO, HOLES.to_numpy()).save_model(tmp_path / "source" / "m.txt")
    assert tables.measured(tmp_path / "source", tmp_path / "graph").worst["label"] == 0
    model = lightgbm.LGBMClassifier(**OPTIONS).fit(HOLES, NAMED)
    source = tables.saved(tmp_path / "p", "lightgbm", model, HOLES, NAMED, serialization_format="cloudpickle")
    assert detected(source) == ("sklearn-pickle", "model.pkl")
    assert tables.measured(source, tmp_path / "graph2").worst["label"] == 0


def test_raw_categories_are_taken_and_samples_hold_them(tmp_path: Path) -> None:
    table = TABLE.assign(city=tables.frame(600).city, visits=TABLE.visits + 3).astype(
        {"city": "category", "visits": "category"}
    )
    model = lightgbm.LGBMClassifier(**OPTIONS).fit(table, NAMED)
    folder = tables.saved(tmp_path / "model", "lightgbm", model, table, NAMED)
    assert tables.measured(folder, tmp_path / "graph").worst["label"] == 0
    source = opened(folder)
    assert {port.name: port.dtype for port in source.interface.inputs}["city"] == "string"
    assert {port.name: port.dtype for port in source.interface.inputs}["visits"] == "int64"
    samples = source.samples()
    assert set(table.city) <= set(samples["city"].reshape(-1))
    assert set(table.visits) <= set(samples["visits"].reshape(-1))
    assert set(samples["city"].reshape(-1)) - set(table.city), "an unseen city is offered"


def test_codes_are_what_the_library_makes_of_numbers(tmp_path: Path) -> None:
    """It cuts fractions off: 2.9999998 is the category 2, -0.5 is 0, -1 and what is missing are none."""
    booster = trained("regression", TABLE.age, TABLE.astype(float), ["visits"], min_data_per_group=1, cat_smooth=0)
    (tmp_path / "source").mkdir()
    booster.save_model(tmp_path / "source" / "m.txt")
    source = opened(tmp_path / "source")
    rows = (
        TABLE.astype(float).iloc[:9].assign(visits=[2.9999998, -0.5, -1.0, np.nan, 1e300, -1e300, np.inf, 5.0, 2**31])
    )
    feeds = {name.replace(" ", "_"): rows[name].to_numpy().reshape(-1, 1) for name in rows}
    (got,) = onnxruntime.InferenceSession(source.to_onnx(18).SerializeToString()).run(None, feeds)
    assert (got.reshape(-1) == booster.predict(rows).astype("float32")).all()


def test_categories_without_a_column_are_refused(tmp_path: Path) -> None:
    table = TABLE.assign(visits=TABLE.visits.astype("category"), two=TWO.astype("category"))
    booster = trained("regression", TABLE.age, table, ["visits"])
    booster.save_model(tmp_path / "m.lgb")
    with pytest.raises(StepError, match="nothing says which is which"):
        opened(tmp_path)
