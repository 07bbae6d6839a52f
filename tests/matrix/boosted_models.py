# SPDX-License-Identifier: Apache-2.0
"""Trees and boosters as people register them, each held against its own library on fresh rows.

A case trains on a data frame that has what such tables have: holes, flags, whole numbers, categories as text and as
numbers, prices with cents. It is registered with MLflow, exported, and asked beside the model that MLflow loads:
on training rows whose columns were shuffled, on critical values and their neighbours, on unseen categories.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import onnxruntime
import pandas as pd
import xgboost
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, ExtraTreeRegressor

from packager.errors import PackagerError
from packager.exporters import SourceModel
from tests.support import tables
from tests.unit.exporters.conftest import opened

RESULTS = Path(__file__).parent / "results" / "boosted.jsonl"
CLOSE = 1e-6  # relative, of numbers above one; absolute below


def table(rows: int = 1200) -> pd.DataFrame:
    """A table of sales: doubles that float32 cannot hold, holes, zeros, flags, categories of three kinds."""
    random = np.random.RandomState(7)
    found = pd.DataFrame(
        {
            "price": (random.gamma(2.0, 900.0, rows)).round(2),
            "signal": random.randn(rows),
            "zeros": random.choice([0.0, 0.0, 1.0, 2.5], rows),
            "count": random.randint(0, 50, rows),
            "seconds": 1_700_000_000 + random.randint(0, 10_000_000, rows),
            "flag": random.rand(rows) > 0.6,
            "month": random.randint(1, 13, rows),
            "shop": random.choice(["north", "south pier", "east", "west"], rows),
        }
    )
    found.loc[random.rand(rows) < 0.08, "signal"] = np.nan
    found.loc[random.rand(rows) < 0.08, "zeros"] = np.nan
    return found


TABLE = table()
NUMBERS = TABLE[["price", "signal", "zeros", "count", "seconds", "flag"]]
FULL = NUMBERS.fillna(0.25)
CATEGORIES = TABLE.astype({"month": "category", "shop": "category"})
TEXTS = CATEGORIES.assign(shop=TABLE.shop.replace({"east": "ouest \u00e9t\u00e9"}).astype("category"))
SHOPS = TABLE.drop(columns="zeros").assign(shop=TEXTS["shop"].astype(object))
CODES = TABLE[["price", "signal", "month"]]
SCORE = (
    np.log1p(TABLE.price)
    + TABLE.signal.fillna(1)
    + (TABLE.month % 3)
    + 2 * (TABLE["shop"] == "east")
    + TABLE.flag
    + np.sin(TABLE.seconds / 1e6)
    - TABLE.zeros.fillna(-1)
).to_numpy()
POSITIVE = np.abs(SCORE) + 0.1
YES = np.median(SCORE) < SCORE
THREE = np.digitize(SCORE, np.quantile(SCORE, [0.3, 0.7]))
NAMES = np.array(["high", "low", "mid"], object)[THREE]
GROUPS = [100] * (len(TABLE) // 100)
LGB: dict[str, Any] = {
    "n_estimators": 25,
    "verbose": -1,
    "n_jobs": 1,
    "min_child_samples": 5,
    "min_data_per_group": 3,
    "cat_smooth": 1,
}
XGB: dict[str, Any] = {"n_estimators": 20, "max_depth": 4, "n_jobs": 1}
CAT: dict[str, Any] = {
    "iterations": 20,
    "depth": 4,
    "verbose": False,
    "allow_writing_files": False,
    "thread_count": 1,
}
ONE_HOT = {"one_hot_max_size": 50}
FOREST = {"boosting_type": "rf", "subsample": 0.5, "subsample_freq": 1}
Made = tuple[Any, pd.DataFrame]


def lgb(
    kind: str, answer: Any, given: pd.DataFrame = NUMBERS, fit: Mapping[str, Any] | None = None, **options: Any
) -> Made:
    return getattr(lightgbm, f"LGBM{kind}")(**{**LGB, **options}).fit(given, answer, **(fit or {})), given


def xgb(
    kind: str, answer: Any, given: pd.DataFrame = NUMBERS, fit: Mapping[str, Any] | None = None, **options: Any
) -> Made:
    return getattr(xgboost, f"XGB{kind}")(**{**XGB, **options}).fit(given, answer, **(fit or {})), given


def stopped(library: str) -> Made:
    early, late, said = NUMBERS[:700], NUMBERS[700:], YES
    if library == "lightgbm":
        model = lightgbm.LGBMClassifier(verbose=-1, n_jobs=1)
        stop = lightgbm.early_stopping(2, verbose=False)
        return model.fit(early, said[:700], eval_set=[(late, ~said[700:])], callbacks=[stop]), NUMBERS
    model = xgboost.XGBClassifier(early_stopping_rounds=2, n_jobs=1)
    return model.fit(early, said[:700], eval_set=[(late, ~said[700:])], verbose=False), NUMBERS


def lgb_booster(objective: str, answer: Any, given: pd.DataFrame = NUMBERS, **options: Any) -> Made:
    data = lightgbm.Dataset(given, answer)
    return lightgbm.train({"objective": objective, "verbose": -1, "num_threads": 1, **options}, data, 12), given


def xgb_booster(objective: str, answer: Any, given: pd.DataFrame = NUMBERS, **options: Any) -> Made:
    data = xgboost.DMatrix(given, answer, enable_categorical=True)
    return xgboost.train({"objective": objective, "max_depth": 4, **options}, data, 12), given


def cat(
    kind: str, answer: Any, given: pd.DataFrame = NUMBERS, fit: Mapping[str, Any] | None = None, **options: Any
) -> Made:
    model = getattr(catboost, f"CatBoost{kind}")(**{**CAT, **options})
    return model.fit(given, answer, **(fit or {})), given


def fitted(model: Any, answer: Any, given: pd.DataFrame = NUMBERS) -> Made:
    return model.fit(given, answer), given


MODELS: dict[str, tuple[str, Callable[[], Made]]] = {
    "lightgbm categories of text": ("lightgbm", lambda: lgb("Regressor", SCORE, TEXTS)),
    "lightgbm categories of text, classes": ("lightgbm", lambda: lgb("Classifier", NAMES, TEXTS)),
    "lightgbm categories of months": ("lightgbm", lambda: lgb("Classifier", YES, CATEGORIES.drop(columns="shop"))),
    "lightgbm booster with categories": ("lightgbm", lambda: lgb_booster("binary", YES, TEXTS)),
    "lightgbm codes as numbers": (
        "lightgbm",
        lambda: lgb("Regressor", SCORE, CODES.astype(float), {"categorical_feature": ["month"]}),
    ),
    "lightgbm codes as whole numbers": (
        "lightgbm",
        lambda: lgb("Classifier", YES, CODES, {"categorical_feature": ["month"]}),
    ),
    "lightgbm doubles": ("lightgbm", lambda: lgb("Regressor", SCORE)),
    "lightgbm two classes": ("lightgbm", lambda: lgb("Classifier", YES)),
    "lightgbm named classes": ("lightgbm", lambda: lgb("Classifier", NAMES)),
    "lightgbm sigmoid": ("lightgbm", lambda: lgb("Classifier", YES, sigmoid=2.5)),
    "lightgbm reg_sqrt": ("lightgbm", lambda: lgb("Regressor", SCORE, reg_sqrt=True)),
    "lightgbm dart": ("lightgbm", lambda: lgb("Classifier", YES, boosting_type="dart")),
    "lightgbm linear trees": ("lightgbm", lambda: lgb("Regressor", SCORE, linear_tree=True)),
    "lightgbm linear trees of classes": ("lightgbm", lambda: lgb("Classifier", NAMES, linear_tree=True)),
    "lightgbm one against all": ("lightgbm", lambda: lgb("Classifier", NAMES, objective="multiclassova")),
    "lightgbm cross entropy": ("lightgbm", lambda: lgb_booster("cross_entropy", YES.astype(float))),
    "lightgbm cross entropy lambda": ("lightgbm", lambda: lgb_booster("cross_entropy_lambda", YES.astype(float))),
    "lightgbm forest": ("lightgbm", lambda: lgb("Regressor", SCORE, **FOREST)),
    "lightgbm forest of classes": ("lightgbm", lambda: lgb("Classifier", NAMES, **FOREST)),
    "lightgbm zeros are missing": ("lightgbm", lambda: lgb("Classifier", YES, zero_as_missing=True)),
    "lightgbm missing is zero": ("lightgbm", lambda: lgb("Classifier", YES, use_missing=False)),
    "lightgbm trained without holes": ("lightgbm", lambda: (lgb("Regressor", SCORE, FULL)[0], NUMBERS)),
    "lightgbm counts": ("lightgbm", lambda: lgb("Regressor", POSITIVE, objective="poisson")),
    "lightgbm tweedie": ("lightgbm", lambda: lgb("Regressor", POSITIVE, objective="tweedie")),
    "lightgbm quantile": ("lightgbm", lambda: lgb("Regressor", SCORE, objective="quantile", alpha=0.8)),
    "lightgbm lambdarank": ("lightgbm", lambda: lgb("Ranker", THREE, fit={"group": GROUPS})),
    "lightgbm xendcg": ("lightgbm", lambda: lgb("Ranker", THREE, fit={"group": GROUPS}, objective="rank_xendcg")),
    "lightgbm stopped early": ("lightgbm", lambda: stopped("lightgbm")),
    "lightgbm booster of classes": ("lightgbm", lambda: lgb_booster("multiclass", THREE, num_class=3)),
    "xgboost categories": ("xgboost", lambda: xgb("Regressor", SCORE, CATEGORIES, enable_categorical=True)),
    "xgboost categories one by one": (
        "xgboost",
        lambda: xgb("Classifier", YES, CATEGORIES, enable_categorical=True, max_cat_to_onehot=100),
    ),
    "xgboost categories of classes": (
        "xgboost",
        lambda: xgb("Classifier", THREE, CATEGORIES, enable_categorical=True, max_cat_to_onehot=1),
    ),
    "xgboost booster with categories": ("xgboost", lambda: xgb_booster("reg:squarederror", SCORE, CATEGORIES)),
    "xgboost flags": ("xgboost", lambda: xgb("Classifier", YES, TABLE[["signal", "flag"]])),
    "xgboost doubles": ("xgboost", lambda: xgb("Regressor", SCORE)),
    "xgboost two classes": ("xgboost", lambda: xgb("Classifier", YES)),
    "xgboost three classes": ("xgboost", lambda: xgb("Classifier", THREE)),
    "xgboost hard classes": ("xgboost", lambda: xgb_booster("multi:softmax", THREE, num_class=3)),
    "xgboost dart": ("xgboost", lambda: xgb("Classifier", YES, booster="dart", rate_drop=0.4)),
    "xgboost linear": (
        "xgboost",
        lambda: xgb("Regressor", SCORE, NUMBERS[["signal", "zeros", "count"]], booster="gblinear", max_depth=None),
    ),
    "xgboost two questions": ("xgboost", lambda: xgb("Regressor", np.c_[SCORE, -SCORE])),
    "xgboost vector leaves": (
        "xgboost",
        lambda: xgb("Regressor", np.c_[SCORE, POSITIVE], multi_strategy="multi_output_tree"),
    ),
    "xgboost several labels": ("xgboost", lambda: xgb("Classifier", np.c_[YES, THREE > 1])),
    "xgboost quantiles": (
        "xgboost",
        lambda: xgb("Regressor", SCORE, objective="reg:quantileerror", quantile_alpha=[0.1, 0.5, 0.9]),
    ),
    "xgboost logistic numbers": ("xgboost", lambda: xgb("Regressor", YES.astype(float), objective="reg:logistic")),
    "xgboost hinge": ("xgboost", lambda: xgb("Classifier", YES, objective="binary:hinge")),
    "xgboost raw logits": ("xgboost", lambda: xgb_booster("binary:logitraw", YES)),
    "xgboost counts": ("xgboost", lambda: xgb("Regressor", POSITIVE, objective="count:poisson")),
    "xgboost gamma": ("xgboost", lambda: xgb("Regressor", POSITIVE, objective="reg:gamma")),
    "xgboost survival": ("xgboost", lambda: xgb("Regressor", POSITIVE, objective="survival:cox")),
    "xgboost ranker": ("xgboost", lambda: xgb("Ranker", THREE, fit={"group": GROUPS})),
    "xgboost forest": ("xgboost", lambda: xgb("RFClassifier", YES)),
    "xgboost parallel trees": ("xgboost", lambda: xgb("Classifier", THREE, num_parallel_tree=3, subsample=0.5)),
    "xgboost pruned": ("xgboost", lambda: xgb("Regressor", SCORE, tree_method="exact", gamma=20.0)),
    "xgboost stopped early": ("xgboost", lambda: stopped("xgboost")),
    "xgboost base score": ("xgboost", lambda: xgb_booster("binary:logistic", YES, base_score=0.2)),
    "catboost numbers": ("catboost", lambda: cat("Regressor", SCORE)),
    "catboost two classes": ("catboost", lambda: cat("Classifier", YES)),
    "catboost named classes": ("catboost", lambda: cat("Classifier", NAMES)),
    "catboost one against all": ("catboost", lambda: cat("Classifier", NAMES, loss_function="MultiClassOneVsAll")),
    "catboost by leaves": ("catboost", lambda: cat("Regressor", SCORE, grow_policy="Lossguide")),
    "catboost by depth": ("catboost", lambda: cat("Classifier", NAMES, grow_policy="Depthwise")),
    "catboost counts": ("catboost", lambda: cat("Regressor", POSITIVE, loss_function="Poisson")),
    "catboost missing is most": ("catboost", lambda: cat("Regressor", SCORE, nan_mode="Max")),
    "catboost two questions": ("catboost", lambda: cat("Regressor", np.c_[SCORE, -SCORE], loss_function="MultiRMSE")),
    "catboost several labels": (
        "catboost",
        lambda: cat("Classifier", np.c_[YES, THREE > 1].astype(int), loss_function="MultiLogloss"),
    ),
    "catboost uncertain": ("catboost", lambda: cat("Regressor", SCORE, loss_function="RMSEWithUncertainty")),
    "catboost ranker": ("catboost", lambda: cat("Ranker", THREE, fit={"group_id": np.repeat(range(12), 100)})),
    "catboost months": ("catboost", lambda: cat("Classifier", NAMES, CODES, **ONE_HOT, cat_features=["month"])),
    "catboost categories of text": (
        "catboost",
        lambda: cat("Classifier", YES, SHOPS, **ONE_HOT, cat_features=["shop", "month"]),
    ),
    "catboost categories by leaves": (
        "catboost",
        lambda: cat("Regressor", SCORE, SHOPS, **ONE_HOT, cat_features=["shop", "month"], grow_policy="Lossguide"),
    ),
    "histograms doubles": ("sklearn", lambda: fitted(HistGradientBoostingRegressor(max_iter=15), SCORE)),
    "histograms classes": ("sklearn", lambda: fitted(HistGradientBoostingClassifier(max_iter=15), NAMES)),
    "histograms counts": (
        "sklearn",
        lambda: fitted(HistGradientBoostingRegressor(loss="poisson", max_iter=15), POSITIVE),
    ),
    "histograms categories": (
        "pickle",
        lambda: fitted(HistGradientBoostingClassifier(max_iter=15, categorical_features=["month", "shop"]), YES, TABLE),
    ),
    "gradient boosting": ("sklearn", lambda: fitted(GradientBoostingRegressor(n_estimators=15), SCORE, FULL)),
    "gradient boosting of classes": (
        "sklearn",
        lambda: fitted(GradientBoostingClassifier(n_estimators=15), NAMES, FULL),
    ),
    "gradient boosting from a forest": (
        "sklearn",
        lambda: fitted(
            GradientBoostingClassifier(n_estimators=15, init=RandomForestClassifier(3, max_depth=2)), YES, FULL
        ),
    ),
    "forest": ("sklearn", lambda: fitted(RandomForestRegressor(15), SCORE)),
    "forest of classes": ("sklearn", lambda: fitted(RandomForestClassifier(10, max_depth=5), NAMES)),
    "forest of two questions": ("sklearn", lambda: fitted(RandomForestClassifier(10), np.c_[YES, THREE])),
    "extra trees": ("sklearn", lambda: fitted(ExtraTreesClassifier(10), YES)),
    "extra trees of numbers": ("sklearn", lambda: fitted(ExtraTreesRegressor(10), np.c_[SCORE, POSITIVE])),
    "tree": ("sklearn", lambda: fitted(DecisionTreeClassifier(), NAMES)),
    "extra tree": ("sklearn", lambda: fitted(ExtraTreeRegressor(), SCORE, FULL)),
    "isolation forest": ("sklearn", lambda: (IsolationForest(n_estimators=20).fit(FULL), FULL)),
    "lightgbm behind a scaler": (
        "pickle",
        lambda: fitted(make_pipeline(StandardScaler(), lightgbm.LGBMClassifier(**LGB)), NAMES),
    ),
    "xgboost behind a scaler": (
        "pickle",
        lambda: fitted(make_pipeline(StandardScaler(), xgboost.XGBClassifier(**XGB)), THREE),
    ),
    "zeros are missing in a pipeline": (
        "pickle",
        lambda: fitted(make_pipeline(xgboost.XGBClassifier(missing=0, **XGB)), YES, FULL),
    ),
    "histograms categories by dtype": (
        "pickle",
        lambda: fitted(HistGradientBoostingClassifier(max_iter=15, categorical_features="from_dtype"), NAMES, TEXTS),
    ),
    "histograms categories as data": (
        "skops",
        lambda: fitted(HistGradientBoostingClassifier(max_iter=15, categorical_features=["month", "shop"]), YES, TABLE),
    ),
    "lightgbm with categories in a pipeline": (
        "pickle",
        lambda: fitted(make_pipeline(lightgbm.LGBMClassifier(**LGB)), YES, TEXTS),
    ),
    "xgboost with categories in a pipeline": (
        "pickle",
        lambda: fitted(make_pipeline(xgboost.XGBClassifier(enable_categorical=True, **XGB)), YES, CATEGORIES),
    ),
    "catboost behind a scaler": (
        "pickle",
        lambda: fitted(make_pipeline(StandardScaler(), catboost.CatBoostClassifier(**CAT)), YES, FULL),
    ),
    "calibrated with categories": (
        "pickle",
        lambda: fitted(CalibratedClassifierCV(lightgbm.LGBMClassifier(**LGB), cv=2), YES, TEXTS),
    ),
    "calibrated forest": (
        "pickle",
        lambda: fitted(CalibratedClassifierCV(lightgbm.LGBMClassifier(**LGB, **FOREST), cv=2), YES),
    ),
    "calibrated": ("pickle", lambda: fitted(CalibratedClassifierCV(lightgbm.LGBMClassifier(**LGB), cv=2), YES)),
    "stacked": (
        "pickle",
        lambda: fitted(
            StackingClassifier(
                [("x", xgboost.XGBClassifier(**XGB)), ("l", lightgbm.LGBMClassifier(**LGB))], LogisticRegression(), cv=2
            ),
            YES,
        ),
    ),
}


def squares(answer: Any, raw: Any) -> tuple[Any, Any]:
    return raw - answer, np.ones_like(raw)


REFUSED: dict[str, tuple[str, Callable[[], Made]]] = {
    "lightgbm classes by an objective of one's own": (
        "pickle",
        lambda: fitted(make_pipeline(lightgbm.LGBMClassifier(**LGB, objective=squares)), YES),
    ),
    "xgboost categories that are not ASCII": (
        "xgboost",
        lambda: xgb("Regressor", SCORE, TEXTS, enable_categorical=True),
    ),
    "catboost statistics of categories": (
        "catboost",
        lambda: cat("Regressor", SCORE, SHOPS, cat_features=["shop", "month"]),
    ),
}


@dataclass(frozen=True)
class Row:
    """What became of a model: `right`, or what else and why; the largest difference of numbers beside it."""

    model: str
    verdict: str
    max_abs: float | None = None
    reason: str = ""

    def line(self) -> str:
        found = {"family": "boosted", "model": self.model, "verdict": self.verdict}
        more = {"max_abs": self.max_abs, "reason": self.reason}
        return json.dumps({**found, **{name: value for name, value in more.items() if value not in (None, "")}})


def judge(name: str, folder: Path) -> Row:
    flavor, make = {**MODELS, **REFUSED}[name]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _judged(name, flavor, make, folder)
    except PackagerError as error:
        return Row(name, "refused-clear" if error.hint else "refused-poor", reason=f"{error} / {error.hint}"[:400])
    except Exception as error:
        return Row(name, "crash", reason=f"{type(error).__name__}: {error}"[:400])


def _judged(name: str, flavor: str, make: Callable[[], Made], folder: Path) -> Row:
    model, given = make()
    options: dict[str, Any] = {"serialization_format": "cloudpickle"} if flavor == "pickle" else {}
    if isinstance(model, lightgbm.LGBMRanker):
        options = {"skops_trusted_types": ["lightgbm.sklearn.LGBMRanker"]}
    if flavor == "catboost":
        options = {"input_example": given.drop_duplicates(given.columns[-1]).head(60)}
    if flavor == "skops":
        options = {
            "skops_trusted_types": [*tables.TRUSTED, "functools.partial", "sklearn.utils.validation.check_array"]
        }
    kind = "sklearn" if flavor in ("pickle", "skops") else flavor
    kept = tables.saved(folder / "model", kind, model, given, _plain(model, given), **options)
    source = opened(kept)
    session = onnxruntime.InferenceSession(source.to_onnx(18).SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = fresh(source, given)
    expected = answers(loaded(kept, kind), users(feeds, given))
    got = session.run(None, feeds)
    return beside(name, expected, got)


def _plain(model: Any, given: pd.DataFrame) -> Any:
    return (
        model.predict(xgboost.DMatrix(given, enable_categorical=True))
        if isinstance(model, xgboost.Booster)
        else (model.predict(given))
    )


def loaded(folder: Path, flavor: str) -> Any:
    """Return the model as those who registered it load it."""
    import mlflow

    return getattr(mlflow, flavor).load_model(str(folder))


def fresh(source: SourceModel, given: pd.DataFrame, rows: int = 1200, seed: int = 99) -> dict[str, Any]:
    """Return rows as a client sends them: training values and critical ones, every column shuffled by itself."""
    random = np.random.RandomState(seed)
    offered = source.samples()  # type: ignore[attr-defined]
    found = {}
    for port in source.interface.inputs:
        known = np.resize(random.permutation(given[port.name].to_numpy()), rows)
        critical = np.resize(random.permutation(offered[port.name].reshape(-1)), rows)
        kind = object if port.dtype == "string" else port.dtype
        found[port.name] = np.concatenate([known.astype(kind), critical.astype(kind)]).reshape(-1, 1)
    return found


def users(feeds: Mapping[str, Any], given: pd.DataFrame) -> pd.DataFrame:
    """Return the rows in the types of the data frame that the model was trained on; an empty text is a missing one."""
    columns = {name: pd.Series(feeds[str(name)].reshape(-1)) for name in given.columns}
    named = [name for name in given.columns if given[name].dtype == "category"]
    columns |= {name: columns[name].mask(columns[name] == "") for name in named}
    return pd.DataFrame(
        {
            name: column.astype("category" if given[name].dtype == "category" else given[name].dtype)
            for name, column in columns.items()
        }
    )


def answers(model: Any, given: pd.DataFrame) -> list[Any]:
    """Return what a model of whatever library answers: labels and probabilities, or numbers."""
    if isinstance(model, xgboost.Booster):
        said = model.predict(xgboost.DMatrix(given, enable_categorical=True))
        if json.loads(model.save_config())["learner"]["objective"]["name"] == "multi:softmax":
            return [said]
        return _classes(said) if said.ndim == 2 or _is_logistic(model) else [said]
    if isinstance(model, lightgbm.Booster):
        said = model.predict(given)
        return _classes(said) if model.params["objective"] in ("binary", "multiclass") else [said]
    if isinstance(model, IsolationForest):
        return [model.predict(given), model.decision_function(given)]
    scores = model.predict_proba(given) if hasattr(model, "predict_proba") else None
    return [model.predict(given), *([] if scores is None else scores if isinstance(scores, list) else [scores])]


def _is_logistic(model: Any) -> bool:
    return json.loads(model.save_config())["learner"]["objective"]["name"] == "binary:logistic"


def _classes(said: Any) -> list[Any]:
    both = said if said.ndim == 2 else np.stack([1 - said, said], axis=1)
    return [both.argmax(axis=1) if said.ndim == 2 else (said > 0.5).astype(int), both]


def beside(name: str, expected: list[Any], got: list[Any]) -> Row:
    """Hold answers against each other: labels equal, numbers close."""
    worst = 0.0
    for place, (theirs, ours) in enumerate(zip(expected, got, strict=False)):
        theirs = np.asarray(theirs).reshape(len(ours), -1)
        ours = ours.reshape(len(ours), -1)
        if theirs.shape != ours.shape:
            return Row(name, "wrong", reason=f"output {place} is {ours.shape}, expected {theirs.shape}")
        if ours.dtype.kind in "OUSi":
            unequal = int((theirs.astype(ours.dtype) != ours).sum())
            if unequal:
                return Row(name, "wrong", reason=f"{unequal} of {len(ours)} labels differ")
            continue
        off = np.abs(ours.astype("float64") - theirs) / np.maximum(1, np.abs(theirs))
        same = (ours == theirs.astype("float32")) | (np.isnan(ours) & np.isnan(theirs))
        worst = max(worst, float(np.where(same, 0.0, np.where(np.isfinite(off), off, np.inf)).max()))
    return Row(name, "right" if worst <= CLOSE else "wrong", worst, "" if worst <= CLOSE else "numbers differ")


def record() -> None:
    """Judge every model and write the rows down."""
    rows = []
    for name in (*MODELS, *REFUSED):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(judge(name, Path(folder)))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(f"{row.line()}\n" for row in rows))


if __name__ == "__main__":
    record()
