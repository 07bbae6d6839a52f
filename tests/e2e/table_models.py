# SPDX-License-Identifier: Apache-2.0
"""Register models for tables in `sqlite:///mlflow.db` of the folder it runs in: `python table_models.py [NAME...]`.

churn@champion   numbers, a category and a text with words of all scripts; classes with names
churn@accents    the same, with a vectoriser that removes accents: no ONNX operator does
churn@pickled    the first again, as a pickle
trees@champion   a booster of LightGBM on the numbers, with missing values
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import lightgbm
import mlflow
import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests.support import tables

NAMES = ("churn@champion", "churn@accents", "churn@pickled", "trees@champion")
NUMBERS = ["age", "income per year", "visits"]


def pipeline(**text: Any) -> Pipeline:
    parts = [
        ("numbers", StandardScaler(), NUMBERS),
        ("city", OneHotEncoder(handle_unknown="ignore"), ["city"]),
        ("text", TfidfVectorizer(ngram_range=(1, 2), **text), "text"),
    ]
    return Pipeline([("columns", ColumnTransformer(parts)), ("model", LogisticRegression(max_iter=500))])


def register(flavor: Any, name: str, alias: str, model: Any, given: Any, **options: Any) -> None:
    signature = mlflow.models.infer_signature(given, model.predict(given))
    common = {"signature": signature, "registered_model_name": name, "pip_requirements": ["numpy"]}
    with mlflow.start_run():
        made = flavor.log_model(model, name=alias, **common, **options)
    mlflow.MlflowClient().set_registered_model_alias(name, alias, str(made.registered_model_version))


def main() -> None:
    import mlflow.lightgbm
    import mlflow.sklearn

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    known = mlflow.get_experiment_by_name("tables")
    place = known.experiment_id if known else mlflow.create_experiment("tables", artifact_location="artifacts")
    mlflow.set_experiment(experiment_id=place)
    table = tables.frame()
    labels = tables.target(table)
    for name in sys.argv[1:] or NAMES:
        if name == "trees@champion":
            holes = table[NUMBERS].astype(float).mask(np.random.RandomState(1).rand(len(table), 3) < 0.1)
            data = lightgbm.Dataset(holes, (labels == "yes").astype(int))
            model = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, data, 20)
            register(mlflow.lightgbm, "trees", "champion", model, holes)
            continue
        text = {"strip_accents": "unicode"} if name == "churn@accents" else {}
        options = {"serialization_format": "cloudpickle"} if name == "churn@pickled" else {}
        fitted = pipeline(**text).fit(table, labels)
        register(mlflow.sklearn, "churn", name.partition("@")[2], fitted, table, **options)


if __name__ == "__main__":
    main()
