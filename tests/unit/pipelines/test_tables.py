# SPDX-License-Identifier: Apache-2.0
"""Tables from CSV as the source's library answers them: XGBoost, texts with categories, a pipeline of scikit-learn."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import skops.io
import xgboost
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from packager.steps import export
from tests.support.raw_models import LEVEL, Made
from tests.unit.pipelines.test_run import installation, run
from tests.unit.pipelines.test_served import serving

ROWS = 60


def table() -> Any:
    draw = np.random.default_rng(0)
    return pandas.DataFrame(
        {
            "age": draw.integers(18, 80, ROWS).astype(float),
            "income": draw.normal(40, 9, ROWS).round(2),
            "town": draw.choice(["Bern", "Zürich", "Genève"], ROWS),
            "note": draw.choice(["late again", "paid, on time", "naïve «question»"], ROWS),
        }
    )


def right(rows: Any) -> Any:
    return ((rows["age"] > 45) ^ (rows["income"] > 42)).astype(int)


def boosted(source: Path, rows: Any) -> tuple[str, Any]:
    model = xgboost.XGBClassifier(n_estimators=6, max_depth=3, random_state=0).fit(rows, right(rows))
    model.save_model(source / "model.json")
    return "xgboost", model.predict_proba(rows)[:, 1]


def mixed(source: Path, rows: Any) -> tuple[str, Any]:
    columns = make_column_transformer(
        (TfidfVectorizer(), "note"), (OneHotEncoder(), ["town"]), (StandardScaler(), ["age", "income"])
    )
    return plain(source, rows, columns)


def plain(source: Path, rows: Any, first: Any = None) -> tuple[str, Any]:
    model = make_pipeline(first or StandardScaler(), LogisticRegression()).fit(rows, right(rows))
    skops.io.dump(model, source / "model.skops")
    return "sklearn", model.predict_proba(rows)[:, 1]


CASES = {"xgboost": (boosted, ["age", "income"]), "texts": (mixed, None), "sklearn": (plain, ["age", "income"])}


def exported(folder: Path, kind: str, payload: str, inputs: Any) -> Made:
    params = {"kind": kind, "payload": payload, "inputs": inputs, "dynamic": {}, **LEVEL}
    (folder / "graph").mkdir()
    facts = export.run({"source": folder / "source"}, folder / "graph", params)
    return Made(folder / "source", folder / "graph", facts["interface"])


def probabilities(answers: list[dict[str, Any]]) -> list[float]:
    """Return the probability of the class 1, whatever the outputs are called."""
    found = []
    for answer in answers:
        value = next(value for name, value in answer.items() if name.startswith(("prob", "score", "prediction")))
        found.append(value[-1] if isinstance(value, list) else value)
    return found


@pytest.mark.parametrize("case", CASES)
def test_rows_of_csv(case: str, tmp_path: Path) -> None:
    write, wanted = CASES[case]
    rows = table()[wanted] if wanted else table()
    (tmp_path / "source").mkdir()
    kind, expected = write(tmp_path / "source", rows)
    payload = next((tmp_path / "source").iterdir()).name
    types = {"age": "float64", "income": "float64", "town": "string", "note": "string"}
    inputs = {name: {"dtype": types[name], "shape": ["batch", 1]} for name in rows} if kind == "sklearn" else None
    made = exported(tmp_path, kind, payload, inputs)
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerow(rows.columns)
    writer.writerows(rows.itertuples(index=False))
    with serving(made, tmp_path, raw=False) as client:
        status, answer = client.ask("/predict", sink.getvalue().encode(), content_type="text/csv")
        assert status == 200, answer
    np.testing.assert_allclose(probabilities(answer["answers"]), expected, atol=1e-5)
    (tmp_path / "in.csv").write_text(sink.getvalue())
    assert (
        run(installation(tmp_path, made, raw=False), tmp_path / "in.csv", "-o", tmp_path / "out.jsonl")["refused"] == 0
    )
    ran = [json.loads(line)["answer"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(probabilities(ran), expected, atol=1e-5)
