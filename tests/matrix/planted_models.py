# SPDX-License-Identifier: Apache-2.0
"""Small real models of tables in which faults are planted, as they are registered: one function each, which writes a source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import xgboost
from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, KBinsDiscretizer, OneHotEncoder, OrdinalEncoder, StandardScaler

from tests.matrix.fuzz_tables import Made, registered

_R = np.random.RandomState(3)
_N = 300
TABLE = pd.DataFrame(
    {
        "price": (_R.gamma(2.0, 900.0, _N)).round(2),
        "signal": _R.randn(_N),
        "visits": _R.randint(0, 40, _N),
        "city": _R.choice(["north", "south pier", "east", "Ösl"], _N).astype(object),
    }
)
HOLES = TABLE[["price", "signal"]].mask(_R.rand(_N, 2) < 0.15)
SCORE = TABLE.signal + TABLE.price / 900 + (TABLE.city == "east") * 2 - TABLE.visits / 20
YES = (SCORE.median() < SCORE).to_numpy()
NAMES = np.array(["high", "low", "mid"], object)[np.digitize(SCORE, SCORE.quantile([0.3, 0.7]))]
TEXTS = pd.DataFrame({"text": [" ".join(_R.choice(["alpha", "beta", "Gamma", "delta", "café"], 4)) for _ in range(_N)]})
NUMBERS = ["price", "signal", "visits"]
DOUBLES = ["price", "signal"]  # trees are given these: between whole numbers a threshold may stand anywhere


def _kept(model: Any, given: pd.DataFrame, answer: Any, flavor: str = "sklearn") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        return registered(Made("planted", model.fit(given, answer), given, {}, flavor), folder)

    return write


def _table() -> Any:
    front = make_column_transformer(
        (StandardScaler(), ["price", "visits"]),
        (SimpleImputer(), ["signal"]),
        (OneHotEncoder(handle_unknown="ignore"), ["city"]),
    )
    return make_pipeline(front, LogisticRegression())


def _words(folder: Path) -> Path:
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS.text, YES)
    return registered(Made("planted", model, TEXTS, {}), folder)


def _lightgbm(folder: Path) -> Path:
    given = TABLE[[*DOUBLES, "city"]].astype({"city": "category"})
    model = lightgbm.LGBMClassifier(
        n_estimators=6, verbose=-1, n_jobs=1, min_child_samples=5, cat_smooth=1, min_data_per_group=5
    ).fit(given, NAMES)
    return registered(Made("planted", model, given, {}, "lightgbm"), folder)


def _xgboost(folder: Path) -> Path:
    model = xgboost.XGBClassifier(n_estimators=6, max_depth=3, n_jobs=1).fit(HOLES, YES)
    return registered(Made("planted", model, HOLES, {}, "xgboost"), folder)


MODELS: dict[str, Callable[[Path], Path]] = {
    "scaled": _kept(make_pipeline(StandardScaler(), LogisticRegression()), TABLE[NUMBERS], NAMES),
    "ridge": _kept(Ridge(), TABLE[NUMBERS], SCORE),
    "table": _kept(_table(), TABLE.assign(signal=HOLES.signal), YES),
    "ordinal": _kept(
        make_pipeline(OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), Ridge()),
        TABLE[["city"]],
        SCORE,
    ),
    "bins": _kept(
        make_pipeline(
            KBinsDiscretizer(4, encode="onehot-dense", quantile_method="averaged_inverted_cdf"), LogisticRegression()
        ),
        TABLE[["price", "signal"]],
        YES,
    ),
    "above": _kept(make_pipeline(Binarizer(threshold=0.75), LogisticRegression()), TABLE[["price", "signal"]], YES),
    "forest": _kept(RandomForestClassifier(5, max_depth=4, random_state=0), TABLE[DOUBLES], NAMES),
    "boosting": _kept(GradientBoostingRegressor(n_estimators=6, random_state=0), TABLE[DOUBLES], SCORE),
    "histogram": _kept(HistGradientBoostingClassifier(max_iter=6, random_state=0), HOLES, YES),
    "neighbours": _kept(make_pipeline(StandardScaler(), KNeighborsClassifier(5)), TABLE[["price", "signal"]], NAMES),
    "words": _words,
    "lightgbm": _lightgbm,
    "xgboost": _xgboost,
}
