# SPDX-License-Identifier: Apache-2.0
"""LightGBM in MLflow's forms and in bare files: measured at its own thresholds, with missing values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from packager.errors import StepError
from packager.exporters import _lightgbm
from tests import tables
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
}  # fmt: skip


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


def test_thresholds_become_float32_that_decide_the_same() -> None:
    booster = MODELS["numbers"]().booster_
    exact = lightgbm.Booster(model_str=_lightgbm.exact_text(booster.model_to_string()))
    rows = HOLES.astype("float32").astype("float64")
    assert (booster.predict(rows) == exact.predict(rows)).all()
    assert _lightgbm._floor(0.1) == float(np.nextafter(np.float32(0.1), np.float32(0)))
    assert _lightgbm._floor(1.7976931348623157e308) == float(np.finfo("float32").max)
    assert _lightgbm._floor(0.5) == 0.5


def test_a_bare_text_file_and_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    trained("binary", TWO, HOLES.to_numpy()).save_model(tmp_path / "source" / "m.txt")
    assert tables.measured(tmp_path / "source", tmp_path / "graph").worst["label"] == 0
    model = lightgbm.LGBMClassifier(**OPTIONS).fit(HOLES, NAMED)
    source = tables.saved(tmp_path / "p", "lightgbm", model, HOLES, NAMED, serialization_format="cloudpickle")
    assert detected(source) == ("sklearn-pickle", "model.pkl")
    assert tables.measured(source, tmp_path / "graph2").worst["label"] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"linear_tree": True}, "linear models in its leaves"), ({"zero_as_missing": True}, "zeros for missing"),
        ({"objective": "xentropy"}, "`cross_entropy`"),
    ],
)  # fmt: skip
def test_what_onnx_cannot_hold_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    booster = trained(**{"objective": "regression", "answer": TWO, "given": TABLE, **options})
    booster.save_model(tmp_path / "m.lgb")
    with pytest.raises(StepError, match=words):
        opened(tmp_path)
