# SPDX-License-Identifier: Apache-2.0
"""What random tables and models brought to light, kind by kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import StackingRegressor, VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import KNNImputer
from sklearn.linear_model import LinearRegression, Ridge, SGDClassifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    OrdinalEncoder,
    PolynomialFeatures,
    SplineTransformer,
    StandardScaler,
)

from packager.exporters._sklearn.critical import refuse_rounding, tied_rows
from packager.exporters._tables import critical, critical_columns
from tests.matrix.fuzz_tables import Made, judged, registered
from tests.matrix.test_models import registered as save
from tests.matrix.verdicts import drawn, judge
from tests.unit.exporters.conftest import opened
from tests.unit.exporters.written import difference

_RANDOM = np.random.default_rng(0)


def test_scores_far_below_zero_are_uniform_together() -> None:
    """Beyond -709 the logistic function is zero to the library, and no class is the largest of all."""
    rows = _RANDOM.normal(size=(120, 3))
    model = SGDClassifier(loss="log_loss", random_state=0).fit(rows, np.digitize(rows[:, 0], [-0.5, 0.5]))
    model.intercept_ = np.array([-712.0, -714.0, -760.0])
    model.coef_ = model.coef_ / np.abs(model.coef_).max()
    assert difference(model, rows, "predict_proba") < 1e-6


def test_ambiguous_neighbours_are_no_difference(tmp_path: Path) -> None:
    """Encoded categories stand at equal distances, and the library takes the neighbours that its search meets first."""
    given = pd.DataFrame({"city": pd.Series(_RANDOM.choice(["a", "b", "c"], 90), dtype=object)})
    model = make_pipeline(OrdinalEncoder(), KNeighborsRegressor(3)).fit(given, _RANDOM.normal(size=90))
    source = registered(Made("ties", model, given, {}), tmp_path / "source")
    rows = {"city": given.to_numpy(object)}
    found = judge("fuzz", "ties", source, tmp_path / "graph", lambda _: rows)
    assert found.verdict == "right", found.reason


def test_fill_from_equally_near_rows_is_no_difference(tmp_path: Path) -> None:
    """A row in the middle of two fitted ones is filled from whichever the library sorts first; the others count."""
    places = np.cumsum(_RANDOM.uniform(1, 2, size=200))
    given = pd.DataFrame({"place": places, "other": _RANDOM.normal(size=200)})
    fill = ColumnTransformer([("fill", KNNImputer(n_neighbors=1), ["place", "other"])])
    model = make_pipeline(fill, PCA(2)).fit(given)
    middle = pd.DataFrame({"place": (places[1:] + places[:-1]) / 2, "other": np.nan})
    beside = middle.assign(place=middle.place + 0.1)
    assert tied_rows(model, middle).all() and not tied_rows(model, beside).any()
    source = registered(Made("ties", model, given, {}), tmp_path / "source")
    fresh = {name: middle[[name]].to_numpy() for name in middle}
    found = judge("fuzz", "ties", source, tmp_path / "graph", lambda _: fresh)
    assert found.verdict == "right", found.reason


def test_fill_without_neighbour_is_the_exact_mean() -> None:
    """Whatever follows may stand on it: the filled values are a plateau of the quantiles that the next step learns."""
    rows = np.random.default_rng(3).normal(size=(241, 1))
    rows[::7] = np.nan
    model = KNNImputer(n_neighbors=3).fit(rows)
    assert difference(model, np.array([[np.nan]]), "transform") == 0


def test_a_row_in_the_middle_of_two_centres_is_a_tie(tmp_path: Path) -> None:
    given = pd.DataFrame({"x": np.repeat([0.1, 0.7, 9.3], 40), "y": 1e8 * np.ones(120)})
    model = make_pipeline(StandardScaler(with_std=False), KMeans(3, n_init=1, random_state=0)).fit(given)
    source = opened(registered(Made("ties", model, given, {}), tmp_path / "source"))
    feeds = {"x": np.array([[0.4], [0.1]]), "y": np.full((2, 1), 1e8)}
    expected = source.run(feeds)[0]
    gaps = np.stack([source.gaps(feeds, 0, expected, (expected + step) % 3) for step in (1, 2)])
    assert gaps[:, 0].min() < 1e-6 and gaps[:, 1].min() > 0.01


def test_an_inverse_that_raises_gives_no_values_and_no_crash() -> None:
    given = np.random.default_rng(0).standard_normal((200, 2))
    model = make_pipeline(KBinsDiscretizer(4, encode="ordinal"), PCA(2), LinearRegression()).fit(given, given[:, 0])
    assert len(critical_columns.critical_columns(model, 2)) == 2


def test_neighbours_behind_sparse_text_are_measured(tmp_path: Path) -> None:
    texts = pd.Series(["red fox", "blue fox", "red hen", "blue hen", "old red fox", "one blue hen"] * 5, name="text")
    model = make_pipeline(TfidfVectorizer(), KNeighborsClassifier(3)).fit(texts, [0, 1, 0, 1, 0, 1] * 5)
    assert tied_rows(model, texts).shape == (30,)
    row = judge("fuzz", "text", save(model, texts, tmp_path / "source"), tmp_path / "graph", drawn(seed=3, count=50))
    assert row.verdict == "right", row


def test_text_members_are_skipped_for_critical_rows() -> None:
    texts = pd.Series(["red fox", "blue hen"] * 15)
    inner = make_pipeline(TfidfVectorizer(), KNeighborsClassifier(3))
    model = VotingClassifier([("a", inner), ("b", inner)]).fit(texts, [0, 1] * 15)
    assert tied_rows(model, texts).shape == (30,)


@pytest.mark.parametrize("mode", ["constant", "linear", "continue", "periodic"])
@pytest.mark.parametrize("degree", [1, 2, 3, 5])
@pytest.mark.parametrize("knots", ["uniform", "quantile"])
def test_splines_are_the_librarys_to_the_last_bit(mode: str, degree: int, knots: str) -> None:
    """Close to the ends they are as small as 1e-22, and trees learn thresholds there."""
    rows = -1e4 + 1e-5 * np.random.default_rng(degree).normal(size=(300, 1))
    rows[:80] = rows[0]  # equal quantiles: knots that coincide
    model = SplineTransformer(7, degree=degree, extrapolation=mode, knots=knots).fit(rows)
    ends = np.array([[rows.min()], [rows.max()]])
    asked = np.vstack([rows, np.nextafter(rows, 0), ends, ends + np.array([[-1e-5], [1e-5]])])
    assert difference(model, asked, "transform") == 0


def _stamped(powers: object) -> tuple[object, pd.DataFrame]:
    """Return a line through squares of time stamps, and neighbours that keep the rows, fitted side by side."""
    stamps = 1_700_000_000_000 + _RANDOM.integers(0, 8_000_000, 200)
    given = pd.DataFrame({"stamp": stamps, "size": _RANDOM.normal(1e8, 1.0, 200)})
    answers = (stamps - 1_700_000_000_000) / 4e4 + _RANDOM.normal(size=200)
    stacked = StackingRegressor([("line", Ridge()), ("near", KNeighborsRegressor(3))], cv=2)
    return make_pipeline(powers, stacked).fit(given, answers), given


@pytest.mark.filterwarnings("ignore:An ill-conditioned matrix")
def test_a_line_that_is_left_of_terms_that_cancel_is_refused(tmp_path: Path) -> None:
    """Sums of 1e16 that leave 14 keep no digit of it: which sum it is differs between processors."""
    found = judged(206, tmp_path)
    assert found.verdict == "refused-clear"
    assert "`Ridge` adds up terms of" in found.reason and "StandardScaler" in found.reason


def test_the_same_line_behind_a_scaler_is_right(tmp_path: Path) -> None:
    model, given = _stamped(make_pipeline(StandardScaler(), PolynomialFeatures(include_bias=False)))
    source = registered(Made("scaled", model, given, {}), tmp_path / "source")
    rows = {name: given[[name]].to_numpy() for name in given}
    found = judge("fuzz", "scaled", source, tmp_path / "graph", lambda _: rows)
    assert found.verdict == "right", found.reason


def test_a_difference_of_time_stamps_is_no_rounding(tmp_path: Path) -> None:
    """Where both are equal nothing is left of large terms, which is the answer; whole columns of such rows are not."""
    starts = 1_700_000_000_000 + _RANDOM.integers(0, 8_000_000, 300)
    given = pd.DataFrame({"start": starts, "end": starts + _RANDOM.integers(0, 100_000, 300)})
    model = make_pipeline(LinearRegression(fit_intercept=False)).fit(given, given["end"] - given["start"])
    model[-1].coef_ = np.array([-1.0, 1.0])
    source = registered(Made("durations", model, given, {}), tmp_path / "source")
    equal = np.full((4, 1), 1_700_000_000_123)
    refuse_rounding(
        model, pd.DataFrame({"start": [0, 5, 1_700_000_000_123], "end": [9_000_000, 7_000_005, 1_700_000_000_123]})
    )
    found = judge("fuzz", "durations", source, tmp_path / "graph", lambda _: {"start": equal, "end": equal})
    assert found.verdict == "right", found.reason


@pytest.mark.filterwarnings("ignore:An ill-conditioned matrix")
def test_rows_that_neighbours_keep_are_found_behind_powers() -> None:
    """The columns as they came stand among the powers, so rows of the estimator are rows of the input."""
    model, given = _stamped(PolynomialFeatures(include_bias=False))
    found = critical.rows(model, 2, list(given))
    assert set(given["stamp"]) & set(found[:, 0].astype("int64").tolist())
