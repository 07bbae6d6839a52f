# SPDX-License-Identifier: Apache-2.0
"""Pickles that name scikit-learn's modules as before 0.22 open, and nothing else is renamed."""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from packager.errors import StepError
from packager.exporters._files import pickled
from packager.exporters._tables import renamed

OLD = {
    SVC: ("sklearn.svm._classes", "sklearn.svm.classes"),
    RandomForestClassifier: ("sklearn.ensemble._forest", "sklearn.ensemble.forest"),
    DecisionTreeClassifier: ("sklearn.tree._classes", "sklearn.tree.tree"),
    GradientBoostingClassifier: ("sklearn.ensemble._gb", "sklearn.ensemble.gradient_boosting"),
    LogisticRegression: ("sklearn.linear_model._logistic", "sklearn.linear_model.logistic"),
    KNeighborsClassifier: ("sklearn.neighbors._classification", "sklearn.neighbors.classification"),
    KMeans: ("sklearn.cluster._kmeans", "sklearn.cluster.k_means_"),
}


@pytest.mark.parametrize("kind", OLD, ids=lambda kind: kind.__name__)
def test_an_old_name_opens_the_class_of_today(kind: type[BaseEstimator], tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    fitted = kind().fit(x, (x[:, 0] > 0).astype(int))
    new, old = (name.encode() for name in OLD[kind])
    text = pickle.dumps(fitted, protocol=0)  # names are lines of text there
    assert text.count(b"c" + new + b"\n") == 1
    (tmp_path / "m.pkl").write_bytes(text.replace(b"c" + new + b"\n", b"c" + old + b"\n"))
    opened = pickled.load(tmp_path, "m.pkl")
    assert type(opened) is kind and (opened.predict(x) == fitted.predict(x)).all()


def test_the_old_joblib_is_the_joblib() -> None:
    with renamed.old_names_importable():
        assert importlib.import_module("sklearn.externals.joblib").load is importlib.import_module("joblib").load


@pytest.mark.parametrize("name", ["sklearn.cross_validation", "sklearn.svm.nothing", "other.svm.classes", "classes"])
def test_what_is_gone_or_foreign_stays_so(name: str) -> None:
    assert renamed.current_name(name) is None


def test_what_is_there_under_its_own_name_is_not_replaced(tmp_path: Path) -> None:
    before = list(sys.meta_path)
    with renamed.old_names_importable():
        assert importlib.import_module("sklearn.ensemble").__name__ == "sklearn.ensemble"
    assert sys.meta_path == before
    (tmp_path / "m.pkl").write_bytes(b"csklearn.cross_validation\nNoSuch\n.")
    with pytest.raises(StepError, match=r"needs the module `sklearn\.cross_validation`"):
        pickled.load(tmp_path, "m.pkl")
