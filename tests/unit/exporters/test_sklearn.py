# SPDX-License-Identifier: Apache-2.0
"""scikit-learn in MLflow's forms: measured against the estimator itself, or refused with the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from packager.errors import PackagerError, StepError
from packager.steps import export
from tests.support import tables
from tests.unit.exporters.conftest import detected, opened

TABLE = tables.frame()
LABELS = tables.target(TABLE)
NUMBERS = TABLE[["age", "income per year"]]
HOLES = NUMBERS.mask(np.random.RandomState(1).rand(*NUMBERS.shape) < 0.1)


def pipeline(model: Any, unseen: str = "ignore", **text: Any) -> Pipeline:
    parts = [
        ("numbers", StandardScaler(), ["age", "income per year", "visits"]),
        ("city", OneHotEncoder(handle_unknown=unseen), ["city"]),
        ("text", TfidfVectorizer(**text), "text"),
    ]
    return Pipeline([("columns", ColumnTransformer(parts)), ("model", model)])


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(model: Any, given: Any = TABLE, **options: Any) -> Path:
        answer = model.predict(given) if hasattr(model, "predict") else model.transform(given)
        return tables.saved(tmp_path / "model", "sklearn", model, given, answer, **options)

    return write


LOGISTIC = LogisticRegression(max_iter=500)
FITTED = {
    "logistic": lambda: (pipeline(LOGISTIC).fit(TABLE, LABELS), TABLE),
    "bigrams of all scripts": lambda: (pipeline(LOGISTIC, ngram_range=(1, 2)).fit(TABLE, LABELS), TABLE),
    "pruned n-grams": lambda: (
        pipeline(LOGISTIC, ngram_range=(1, 3), max_features=30, lowercase=False, token_pattern=r"\b\w+\b").fit(
            TABLE, LABELS
        ),
        TABLE,
    ),
    "sublinear": lambda: (pipeline(LOGISTIC, ngram_range=(2, 3), sublinear_tf=True).fit(TABLE, LABELS), TABLE),
    "ascii words": lambda: (pipeline(LOGISTIC, token_pattern="[a-z]+", stop_words="english").fit(TABLE, LABELS), TABLE),
    "forest": lambda: (pipeline(RandomForestClassifier(20, random_state=0)).fit(TABLE, LABELS), TABLE),
    "boosting": lambda: (
        pipeline(GradientBoostingClassifier(n_estimators=20, random_state=0)).fit(TABLE, LABELS),
        TABLE,
    ),
    "margin": lambda: (pipeline(LinearSVC()).fit(TABLE, LABELS), TABLE),
    "refuses unseen": lambda: (pipeline(LOGISTIC, unseen="error").fit(TABLE, LABELS), TABLE),
    "texts": lambda: (make_pipeline(CountVectorizer(binary=True), LOGISTIC).fit(TABLE.text, LABELS), TABLE.text),
    "hashed texts": lambda: (
        make_pipeline(HashingVectorizer(n_features=32, lowercase=False), LOGISTIC).fit(TABLE.text, LABELS),
        TABLE.text,
    ),
    "characters": lambda: (pipeline(LOGISTIC, analyzer="char_wb", ngram_range=(2, 3)).fit(TABLE, LABELS), TABLE),
    "linear": lambda: (make_pipeline(StandardScaler(), LinearRegression()).fit(NUMBERS, TABLE.visits), NUMBERS),
    "imputed": lambda: (
        make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), LOGISTIC).fit(HOLES, LABELS),
        HOLES,
    ),
    "one tree": lambda: (DecisionTreeClassifier(random_state=0).fit(HOLES, TABLE.visits % 3), HOLES),
    "votes of three": lambda: (RandomForestClassifier(7, random_state=0).fit(NUMBERS, TABLE.visits % 3), NUMBERS),
    "forest of numbers": lambda: (RandomForestRegressor(20, random_state=0).fit(HOLES, TABLE.visits), HOLES),
    "two numbers": lambda: (ExtraTreesRegressor(9, random_state=0).fit(NUMBERS, NUMBERS), NUMBERS),
    "histogram": lambda: (HistGradientBoostingRegressor(max_iter=20).fit(HOLES, TABLE.visits), HOLES),
    "histogram behind a scaler": lambda: (
        make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=20)).fit(NUMBERS.to_numpy(), LABELS),
        NUMBERS.to_numpy(),
    ),
    "boosting of three": lambda: (GradientBoostingClassifier(n_estimators=5).fit(NUMBERS, TABLE.visits % 3), NUMBERS),
    "scaler": lambda: (StandardScaler().fit(NUMBERS), NUMBERS),
}


BY_DEFAULT = ("sublinear", "refuses unseen", "texts", "imputed", "votes of three", "two numbers", "histogram")


@pytest.mark.parametrize(
    "name", [name if name in BY_DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in FITTED]
)
def test_labels_are_equal_and_numbers_agree(name: str, save: Save, tmp_path: Path) -> None:
    model, given = FITTED[name]()
    found = tables.measured(save(model, given), tmp_path / "graph")
    assert detected(tmp_path / "model") == ("sklearn", "model.skops")
    assert found.worst.pop("label", 0) == 0
    assert max(found.worst.values()) <= 2e-7 * max(1, abs(TABLE.visits).max() if "prediction" in found.worst else 1)
    assert any(case["fill"] == "listed" for case in found.cases)


def test_columns_are_inputs_with_their_names(save: Save) -> None:
    source = opened(save(pipeline(LOGISTIC).fit(TABLE, LABELS)))
    ports = [(port.name, port.dtype, port.shape) for port in source.interface.inputs]
    assert ports == [
        ("age", "float64", ("batch", 1)),
        ("income per year", "float64", ("batch", 1)),
        ("visits", "int64", ("batch", 1)),
        ("city", "string", ("batch", 1)),
        ("text", "string", ("batch", 1)),
    ]
    graph = source.to_onnx(18)
    assert [value.name for value in graph.graph.input] == [name for name, _, _ in ports]
    assert [value.name for value in graph.graph.output] == ["label", "probabilities"]
    assert {entry.domain: entry.version for entry in graph.opset_import}["ai.onnx.ml"] <= 3


def test_samples_hold_thresholds_and_their_neighbours(save: Save) -> None:
    model = RandomForestClassifier(3, max_depth=2, random_state=0).fit(HOLES, LABELS)
    rows = opened(save(model, HOLES)).samples()["age"].reshape(-1)
    for tree in model.estimators_:
        for threshold in np.float32(tree.tree_.threshold[tree.tree_.feature == 0]):
            near = np.nextafter(threshold, np.float32([-np.inf, np.inf]))
            assert {threshold, *near} <= set(rows)
    assert np.isnan(rows).any()
    assert not np.isinf(rows).any(), "scikit-learn refuses infinities, so they are no promise"


def test_what_the_source_refuses_is_not_measured(save: Save) -> None:
    lenient = opened(save(pipeline(LOGISTIC).fit(TABLE, LABELS)))
    assert any("unseen" in value for value in lenient.samples()["city"].reshape(-1))
    assert {"", "İstanbul KADİR"} <= set(lenient.samples()["text"].reshape(-1))


def test_a_pickle_says_that_it_runs_code(save: Save, tmp_path: Path) -> None:
    source = save(
        make_pipeline(StandardScaler(), LOGISTIC).fit(NUMBERS, LABELS), NUMBERS, serialization_format="cloudpickle"
    )
    assert detected(source) == ("sklearn-pickle", "model.pkl")
    assert tables.measured(source, tmp_path / "graph").worst["label"] == 0


class Doubled(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A class of the author's own."""

    def fit(self, given: Any, answer: Any = None) -> Doubled:
        self.fitted_ = True
        return self

    def transform(self, given: Any) -> Any:
        return given * 2


def test_an_archive_with_types_of_its_author_is_refused(save: Save) -> None:
    name = f"{Doubled.__module__}.Doubled"
    model = make_pipeline(Doubled(), LOGISTIC).fit(NUMBERS, LABELS)
    source = save(model, NUMBERS, skops_trusted_types=[name])
    with pytest.raises(StepError, match="is not on the list of types known to be safe"):
        opened(source)


@pytest.mark.parametrize("field", ["feature", "left_child"])
def test_a_tree_that_points_outside_itself_is_refused(field: str, tmp_path: Path) -> None:
    model = DecisionTreeClassifier(max_depth=3).fit(NUMBERS.to_numpy(), LABELS)
    state = model.tree_.__getstate__()
    state["nodes"][field][0] = 1 << 20
    model.tree_.__setstate__(state)
    skops.io.dump(model, tmp_path / "model.skops")
    with pytest.raises(StepError, match="outside its arrays"):
        opened(tmp_path)


def test_a_bare_archive_without_a_signature(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    skops.io.dump(
        make_pipeline(StandardScaler(), LOGISTIC).fit(NUMBERS.to_numpy(), LABELS), tmp_path / "source" / "m.skops"
    )
    found = tables.measured(tmp_path / "source", tmp_path / "graph")
    assert found.facts["interface"]["inputs"] == [{"name": "input", "dtype": "float64", "shape": ["batch", 2]}]
    assert found.worst["label"] == 0


def test_a_range_bounds_the_samples(save: Save) -> None:
    source = save(HistGradientBoostingRegressor(max_iter=5).fit(NUMBERS.to_numpy(), TABLE.visits), NUMBERS.to_numpy())
    requested = {"input": {"dtype": "float32", "shape": ["batch", 2], "range": [0, 50]}}
    rows = opened(source, inputs=requested).samples()["input"]
    assert rows.min() >= 0 and rows.max() <= 50


@pytest.mark.slow  # a whole build does by default: test_determinism.py
def test_the_same_bytes_from_another_process_and_hash_seed(save: Save, tmp_path: Path) -> None:
    source = save(pipeline(RandomForestClassifier(5, random_state=0), ngram_range=(1, 2)).fit(TABLE, LABELS))
    params = {"kind": "sklearn", "payload": "model.skops", **tables.LEVEL}
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    export.run({"source": source}, here, params)
    code = (
        "import json, pathlib, sys; from packager.steps import export\n"
        "export.run({'source': pathlib.Path(sys.argv[1])}, pathlib.Path(), json.loads(sys.argv[2]))"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(there), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", code, str(source), json.dumps(params)]
    subprocess.run(command, cwd=there, env=environment, check=True)
    assert (here / "model" / "model.onnx").read_bytes() == (there / "model" / "model.onnx").read_bytes()


def test_what_is_no_estimator(tmp_path: Path) -> None:
    skops.io.dump({"a": 1}, tmp_path / "m.skops")
    with pytest.raises(PackagerError, match="expected a fitted scikit-learn estimator"):
        opened(tmp_path)
    (tmp_path / "m.skops").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(StepError, match="is not a readable archive"):
        opened(tmp_path)
