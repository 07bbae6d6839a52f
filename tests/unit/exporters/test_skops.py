# SPDX-License-Identifier: Apache-2.0
"""Archives of skops: every estimator opens and answers as before, and what runs text or walks out of bounds does not."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import AdaBoostClassifier, GradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_selection import (
    SelectKBest,
    chi2,
    f_regression,
    mutual_info_classif,
    mutual_info_regression,
    r_regression,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RandomizedSearchCV
from sklearn.neighbors import BallTree, KDTree, KernelDensity, KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import all_estimators

from packager.errors import StepError
from packager.exporters._tables import skops as _skops
from packager.exporters._tables import trusted_types
from tests.hostile.toys import CLASSES, FEATURES, NUMBERS, fitted

REASONS = {"Birch": "skops does not write it: its nodes refer to each other in rings"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), all_estimators(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_estimator_opens(tmp_path: Path, name: str, kind: type) -> None:
    models = list(fitted(name, kind))
    assert models, "no toy data fits it"
    for model in models:
        if name in REASONS:
            with pytest.raises(skops.io.exceptions.UnsupportedTypeException):
                skops.io.dump(model, tmp_path / "m.skops")
            continue
        skops.io.dump(model, tmp_path / "m.skops")
        opened = _skops.load(tmp_path / "m.skops")
        assert type(opened) is kind
        for method in ("predict", "transform"):
            assert_same(answer(model, method), answer(opened, method))


def answer(model: Any, method: str) -> Any:
    """Return what a model says of the toy data, or that it takes others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            np.random.seed(0)  # what a model of chance draws from
            given = getattr(model, method)(FEATURES)
        except (AttributeError, ValueError, TypeError) as error:
            return type(error).__name__
    return given.toarray() if hasattr(given, "toarray") else np.asarray(given)


def assert_same(before: Any, after: Any) -> None:
    if isinstance(before, str) or before.dtype.kind not in "fiu":
        assert np.array_equal(before, after)
    else:
        assert np.allclose(before, after, rtol=1e-12, atol=1e-12, equal_nan=True)


NEIGHBOURS = [
    KNeighborsClassifier(algorithm=algorithm, metric=metric, leaf_size=5, **more)
    for algorithm in ("kd_tree", "ball_tree", "brute", "auto")
    for metric, more in (("euclidean", {}), ("manhattan", {}), ("chebyshev", {}), ("minkowski", {"p": 3}))
]


@pytest.mark.parametrize("model", NEIGHBOURS, ids=str)
def test_neighbours_of_every_metric_open_and_answer_the_same(tmp_path: Path, model: Any) -> None:
    model.fit(FEATURES, CLASSES)
    skops.io.dump(model, tmp_path / "m.skops")
    opened = _skops.load(tmp_path / "m.skops")
    for before, after in zip(model.kneighbors(FEATURES[::-1]), opened.kneighbors(FEATURES[::-1]), strict=True):
        assert np.array_equal(before, after)


def honest() -> list[Any]:
    frame = pd.DataFrame({"a": FEATURES[:, 0], "b": [1, 2] * 30, "c": ["x", "y"] * 30})
    scores = [chi2, f_regression, r_regression, mutual_info_classif, mutual_info_regression]
    columns = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include=np.number)),
        (OneHotEncoder(), make_column_selector(dtype_exclude=[np.number, np.float32])),
    )
    functions = [np.log1p, np.sqrt, np.abs, functools.partial(np.clip, a_min=0, a_max=1), np.nan_to_num, None]
    return [
        *(SelectKBest(score, k=2).fit(FEATURES, CLASSES) for score in scores),
        SelectKBest(functools.partial(mutual_info_classif, random_state=0), k=2).fit(FEATURES, CLASSES),
        *(FunctionTransformer(function).fit(FEATURES) for function in functions),
        make_pipeline(columns, LogisticRegression()).fit(frame, CLASSES),
        KernelDensity().fit(FEATURES, sample_weight=NUMBERS),
        HistGradientBoostingRegressor(categorical_features=[0], max_iter=5).fit(np.c_[[0, 1] * 30, FEATURES], NUMBERS),
    ]


@pytest.mark.parametrize("model", honest(), ids=lambda model: type(model).__name__)
def test_library_functions_and_partials_open(tmp_path: Path, model: Any) -> None:
    skops.io.dump(model, tmp_path / "m.skops")
    assert type(_skops.load(tmp_path / "m.skops")) is type(model)


# what must not open


def refused(path: Path, model: Any) -> StepError:
    skops.io.dump(model, path)
    with pytest.raises(StepError) as caught:
        _skops.load(path)
    return caught.value


def test_a_distribution_that_runs_text_is_refused(tmp_path: Path) -> None:
    """Seen to run the text when classes of SciPy were trusted as such: `norm_gen.__setstate__` executes a template."""
    import scipy.stats

    hostile = copy.deepcopy(scipy.stats.norm)
    hostile._parse_arg_template = (
        f"open({str(tmp_path / 'PWNED')!r}, 'w')\ndef _parse_args(self, *a, **k): pass\n"
        "_parse_args_stats = _parse_args_rvs = _parse_args\n"
    )
    model = LogisticRegression().fit(FEATURES, CLASSES)
    model.more = hostile
    error = refused(tmp_path / "m.skops", model)
    assert "norm_gen` in `m.skops` is not on the list of types known to be safe" in error.message
    assert not (tmp_path / "PWNED").exists()
    skops.io.load(tmp_path / "m.skops", trusted=skops.io.get_untrusted_types(file=tmp_path / "m.skops"))
    assert (tmp_path / "PWNED").exists(), "the control: trusted, it runs"


def test_a_search_over_distributions_says_what_to_save(tmp_path: Path) -> None:
    import scipy.stats

    space = {"C": scipy.stats.uniform(0.1, 1)}
    error = refused(
        tmp_path / "m.skops", RandomizedSearchCV(LogisticRegression(), space, n_iter=2).fit(FEATURES, CLASSES)
    )
    assert "best_estimator_" in (error.hint or "")


def own(values: Any) -> Any:
    return values


@pytest.mark.parametrize("function", [own, np.testing.assert_equal, np.save, np.load, pd.read_pickle, eval])
def test_functions_that_are_not_on_the_list_are_refused(tmp_path: Path, function: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        error = refused(tmp_path / "m.skops", FunctionTransformer(function))
    assert function.__name__ in error.message
    assert error.message.endswith("is not on the list of types known to be safe")
    assert "allow-pickle" in (error.hint or "")


def broken_tree(model: Any) -> Any:
    """Send a node of the first tree out of its arrays."""
    tree = model
    while hasattr(tree, "estimators_"):
        tree = np.ravel(tree.estimators_)[0]
    state = tree.tree_.__getstate__()
    state["nodes"]["left_child"][0] = 1 << 30
    tree.tree_.__setstate__(state)
    return model


@pytest.mark.parametrize("kind", [DecisionTreeClassifier, AdaBoostClassifier, GradientBoostingClassifier])
def test_trees_out_of_bounds_are_refused(tmp_path: Path, kind: Any) -> None:
    error = refused(tmp_path / "m.skops", broken_tree(kind(random_state=0).fit(FEATURES, CLASSES)))
    assert "a tree has a node outside its arrays" in error.message


def test_trees_wider_than_their_estimator_are_refused(tmp_path: Path) -> None:
    wide = DecisionTreeClassifier().fit(np.c_[np.zeros((60, 90)), FEATURES], CLASSES)
    narrow = DecisionTreeClassifier().fit(FEATURES, CLASSES)
    narrow.tree_ = wide.tree_
    assert "outside its arrays" in refused(tmp_path / "m.skops", narrow).message


def test_tree_instead_of_estimator_is_refused(tmp_path: Path) -> None:
    model = AdaBoostClassifier(random_state=0).fit(FEATURES, CLASSES)
    model.estimators_[0] = model.estimators_[0].tree_
    assert "a Tree stands where no estimator holds it" in refused(tmp_path / "m.skops", model).message


@pytest.mark.parametrize("kind", [KDTree, BallTree])
def test_neighbours_use_the_nodes_of_their_data(tmp_path: Path, kind: Any) -> None:
    name = "kd_tree" if kind is KDTree else "ball_tree"
    model = KNeighborsRegressor(algorithm=name, leaf_size=5).fit(FEATURES, NUMBERS)
    expected = model.kneighbors(FEATURES)[1].tolist()
    state = list(model._tree.__getstate__())
    state[1] = np.full_like(state[1], 1 << 40)  # the places of its points
    model._tree.__setstate__(tuple(state))
    skops.io.dump(model, tmp_path / "m.skops")
    assert _skops.load(tmp_path / "m.skops").kneighbors(FEATURES)[1].tolist() == expected


def test_opening_an_archive_imports_no_framework(tmp_path: Path) -> None:
    """Of all array libraries that scikit-learn has adapters for; what wants one afterwards gets it."""
    skops.io.dump(LogisticRegression().fit(*fitted_rows()), tmp_path / "m.skops")
    code = (
        "import sys\nfrom pathlib import Path\nfrom packager.exporters._tables import skops\n"
        "skops.load(Path(sys.argv[1]))\n"
        "print(sorted({'torch', 'cupy', 'dask', 'jax', 'pandas', 'pytest', 'sklearn.mixture'} & set(sys.modules)))\n"
        "import torch, pandas\nfrom sklearn.utils import all_estimators\nprint(torch.__name__, len(all_estimators()) > 100)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m.skops")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "torch True"]


def test_estimators_are_trusted_one_by_one_as_skops_trusts_all_of_them() -> None:
    from skops.io._trusted_types import SKLEARN_ESTIMATOR_TYPE_NAMES

    assert trusted_types.list_estimators() >= set(SKLEARN_ESTIMATOR_TYPE_NAMES)
    assert {name for name in trusted_types.list_estimators() if not trusted_types.is_estimator(name)} == set()
    modules = [(name, module) for name, module in list(sys.modules.items()) if name.startswith("sklearn.")]
    named = {f"{name}.{member}" for name, module in modules for member in dir(module)}
    named |= {
        f"{kind.__module__}.{kind.__name__}"
        for _, module in modules
        for kind in vars(module).values()
        if isinstance(kind, type)
    }
    assert {name for name in named if trusted_types.is_estimator(name)} == trusted_types.list_estimators()


@pytest.mark.parametrize(
    ("model", "recorded"),
    [
        (
            KNeighborsClassifier(2),
            ("numpy.dtype", "sklearn.metrics._dist_metrics.EuclideanDistance64", "sklearn.neighbors._kd_tree.KDTree"),
        ),
        (LogisticRegression(), ("numpy.dtype",)),
        (DecisionTreeClassifier(), ()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_process_that_knows_no_estimator_opens_them(tmp_path: Path, model: Any, recorded: tuple[str, ...]) -> None:
    """Also where MLflow recorded types: estimators are not among them."""
    skops.io.dump(model.fit(*fitted_rows()), tmp_path / "m.skops")
    code = (
        "import sys\nfrom pathlib import Path\nfrom packager.exporters._tables import skops\n"
        "skops.preload()\nfrom skops.io._trusted_types import SKLEARN_ESTIMATOR_TYPE_NAMES as known\n"
        "print(list(known), type(skops.load(Path(sys.argv[1]), sys.argv[2:])).__name__, len(known))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m.skops"), *recorded]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", type(model).__name__, "1"], "only what the archive names is looked up"


def test_what_mlflow_did_not_record_is_refused_after_all_names_were_looked_up(tmp_path: Path) -> None:
    skops.io.dump(DecisionTreeClassifier().fit(*fitted_rows()), tmp_path / "m.skops")
    code = (
        "import sys\nfrom pathlib import Path\nfrom packager.errors import StepError\n"
        "from packager.exporters._tables import skops\nfrom skops.io import _trusted_types\n"
        "try:\n    skops.load(Path(sys.argv[1]), ['numpy.dtype'])\n"
        "except StepError as error:\n    print(error.message.count('sklearn.tree._tree.Tree'))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m.skops")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"


def fitted_rows() -> tuple[Any, Any]:
    rows = np.random.RandomState(0).randn(20, 3)
    return rows, (rows[:, 0] > 0).astype(int)
