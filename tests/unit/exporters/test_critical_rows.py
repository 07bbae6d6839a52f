# SPDX-License-Identifier: Apache-2.0
"""The rows and values that a measurement owes to the structure of a model."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, KBinsDiscretizer
from sklearn.tree import DecisionTreeRegressor

from packager import exporters
from packager.exporters._tables import critical, critical_columns
from tests.matrix.fuzz_tables import Made, registered
from tests.unit.exporters.conftest import opened

_RANDOM = np.random.default_rng(4)
ROWS = _RANDOM.normal(size=(200, 2)).round(3)
ANSWER = ROWS[:, 0] - 2 * np.abs(ROWS[:, 1])


@pytest.mark.parametrize(
    ("model", "kind"),
    [(HistGradientBoostingRegressor(max_iter=3), "float64"), (DecisionTreeRegressor(), "float32")],
)
def test_leaves_are_entered_by_both_sides_of_every_threshold(model: object, kind: str) -> None:
    """One row stands on a threshold and one on the next number of the type that is compared."""
    grown = critical.ensembles(model.fit(ROWS, ANSWER))  # type: ignore[attr-defined]
    assert grown is not None and grown.compared == kind
    rows = critical.leaf_rows(grown, 2)
    for tree in grown.trees:
        for place in np.flatnonzero(~tree.leaf):
            cut = np.asarray(tree.threshold[place], kind)
            met = rows[:, tree.column[place]]
            assert cut in met and np.nextafter(cut, np.asarray(np.inf, kind)) in met


@pytest.mark.parametrize("step", [Binarizer(threshold=0.75), KBinsDiscretizer(4, encode="onehot-dense")])
def test_values_stand_where_a_step_turns_to_its_next_formula(step: object) -> None:
    model = make_pipeline(step, LogisticRegression()).fit(ROWS, ANSWER > -1)
    edges = [[0.75]] * 2 if isinstance(step, Binarizer) else [own.tolist() for own in model[0].bin_edges_]
    wanted = critical_columns.critical_columns(model, 2)
    assert all(set(own) <= set(values) for own, values in zip(edges, wanted, strict=True))


def test_booster_offers_rows_for_leaves_with_text_categories(tmp_path: Path) -> None:
    given = pd.DataFrame({"size": ROWS[:, 0], "city": pd.Categorical(_RANDOM.choice(["a", "b", "c"], 200))})
    options = {"n_estimators": 4, "verbose": -1, "min_child_samples": 5, "cat_smooth": 1, "min_data_per_group": 5}
    model = lightgbm.LGBMRegressor(**options).fit(given, ANSWER + 3 * (given.city == "b"))
    source = opened(registered(Made("booster", model, given, {}, "lightgbm"), tmp_path / "source"))
    rows = exporters.rows_of(source)["critical rows"]
    assert {"a", "b", "c"} & set(rows["city"].reshape(-1))
    assert len({float(value) for value in source.run(rows)[0].reshape(-1)}) > 8
