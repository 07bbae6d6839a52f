# SPDX-License-Identifier: Apache-2.0
"""CatBoost in MLflow's form and in bare files: measured at its own borders, with missing values and categories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import catboost
import numpy as np
import pytest

from packager.errors import StepError
from tests.support import tables
from tests.unit.exporters.conftest import detected, opened

TABLE = tables.frame(600)[["age", "income per year", "visits", "city"]]
NUMBERS = TABLE[["age", "income per year", "visits"]]
YES = np.where((TABLE.age > 40) ^ (TABLE.city == "par"), "yes", "no").astype(object)
QUIET: dict[str, Any] = {
    "iterations": 8,
    "depth": 4,
    "verbose": False,
    "allow_writing_files": False,
    "thread_count": 1,
}


def trained(given: Any = NUMBERS, **options: Any) -> Any:
    return catboost.CatBoostClassifier(**QUIET, **options).fit(given, YES)


def test_what_mlflow_writes(tmp_path: Path) -> None:
    example = TABLE.drop_duplicates("city")
    model = trained(TABLE, cat_features=["city"], one_hot_max_size=10)
    source = tables.saved(tmp_path / "model", "catboost", model, TABLE, YES, input_example=example)
    assert detected(source) == ("catboost", "model.cb")
    found = tables.measured(source, tmp_path / "graph")
    assert found.worst["label"] == 0
    assert found.worst["probabilities"] < 1e-6
    ports = {port["name"]: port["dtype"] for port in found.facts["interface"]["inputs"]}
    assert ports == {"age": "float64", "income per year": "float64", "visits": "int64", "city": "string"}


@pytest.mark.parametrize(("ending", "options"), [("cbm", {}), ("json", {}), ("cbm", {"grow_policy": "Lossguide"})])
def test_a_bare_file(ending: str, options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    trained(**options).save_model(str(tmp_path / "source" / f"m.{ending}"), format=ending)
    assert detected(tmp_path / "source") == ("catboost", f"m.{ending}")
    found = tables.measured(tmp_path / "source", tmp_path / "graph")
    assert found.worst["label"] == 0
    assert found.worst["probabilities"] < 1e-6


def test_unseen_hashed_categories_are_refused(tmp_path: Path) -> None:
    model = trained(TABLE, cat_features=["city"], one_hot_max_size=10)
    source = tables.saved(tmp_path / "model", "catboost", model, TABLE, YES)
    with pytest.raises(StepError, match="hashes of the categories of column `city`") as caught:
        opened(source)
    assert "input_example" in str(caught.value.hint)


def test_statistics_of_categories_are_refused_by_name(tmp_path: Path) -> None:
    trained(TABLE, cat_features=["city"], one_hot_max_size=2).save_model(str(tmp_path / "m.cbm"))
    with pytest.raises(StepError, match=r"statistics \(`OnlineCtr`\) of categories of `city`"):
        opened(tmp_path)


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.cbm").write_bytes(b"CBM1" + bytes(64))
    with pytest.raises(StepError, match="cannot be opened by CatBoost"):
        opened(tmp_path)
