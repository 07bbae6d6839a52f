# SPDX-License-Identifier: Apache-2.0
"""Random tables and random models of them, each exported, measured, and held against its source on 10,000 fresh rows.

`python -m tests.matrix.fuzz_tables --first 0 --count 2000 --out FILE` goes on where FILE ends: one line per seed. A
seed alone decides columns, rows, steps and estimator. Fresh rows come from another seed than the build's: training
values and the numbers beside them, new rows of the same kind, categories nobody saw, and holes where holes were known.
"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import skops.io
import threadpoolctl
import xgboost
import yaml
from sklearn import (
    calibration,
    cluster,
    compose,
    cross_decomposition,
    decomposition,
    discriminant_analysis,
    ensemble,
    feature_selection,
    impute,
    linear_model,
    model_selection,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)

from tests.matrix.verdicts import Row, judge

ROWS = 10_000
_TRAINED = 240
_LIMIT = 40  # seconds of processor time of one seed
_OTHER_SEED = 1 << 40  # what fresh rows are drawn from: no build has it
_TYPES = {"bool": "boolean", "int32": "integer", "int64": "long", "float32": "float", "float64": "double"}
_WORDS = ("red", "green", "blue", "Ösl", "new york", "x_1", "A", "a", "zürich", "naïve", "0", "1.5", "你好", "😀")

Column = Callable[[Any, int], Any]  # generator and count to values


@dataclass(frozen=True)
class Made:
    """A fitted model, the data frame it was fitted on, what its columns are drawn from, and how it is registered."""

    name: str
    model: Any
    given: pd.DataFrame
    columns: Mapping[str, Column]
    flavor: str = "sklearn"


# -- columns


def _doubles(random: Any) -> Column:
    scale, centre = 10.0 ** random.integers(-5, 6), float(random.choice([0.0, 0.0, 3.7, -1e4, 1e8]))
    digits = int(random.integers(0, 4))
    return lambda r, count: np.round(centre + scale * r.standard_normal(count), digits + 5 if scale < 1 else digits)


def _singles(random: Any) -> Column:
    scale = 10.0 ** random.integers(-3, 4)
    return lambda r, count: (scale * r.standard_normal(count)).astype("float32")


def _wholes(random: Any) -> Column:
    low, high = sorted(int(end) for end in random.choice([-50, 0, 1, 12, 100, 5000, 1 << 26], 2, replace=False))
    kind = "int32" if random.random() < 0.3 else "int64"
    return lambda r, count: r.integers(low, high, count, endpoint=True).astype(kind)


def _stamps(random: Any) -> Column:
    start = int(random.choice([1_700_000_000, 1_700_000_000_000]))
    return lambda r, count: start + r.integers(0, 10_000_000, count)


def _flags(random: Any) -> Column:
    share = random.uniform(0.2, 0.8)
    return lambda r, count: r.random(count) < share


def _texts(random: Any) -> Column:
    known = random.choice(np.array(_WORDS, object), int(random.integers(2, 9)), replace=False)
    return lambda r, count: r.choice(known, count)


def _holed(column: Column, share: float) -> Column:
    def draw(r: Any, count: int) -> Any:
        values = column(r, count)
        holes = r.random(count) < share
        return np.where(holes, np.asarray(np.nan, values.dtype if values.dtype.kind == "f" else object), values)

    return draw


_KINDS = (_doubles, _doubles, _doubles, _singles, _wholes, _wholes, _stamps, _flags, _texts, _texts)


def schema(random: Any) -> dict[str, Column]:
    """Return columns by name, one at least of numbers."""
    chosen = [_doubles, *(_KINDS[random.integers(len(_KINDS))] for _ in range(random.integers(1, 6)))]
    found = {}
    for place, kind in enumerate(chosen):
        column = kind(random)
        holed = kind in (_doubles, _singles, _texts) and random.random() < 0.25
        found[f"{kind.__name__[1:-1]} {place}"] = _holed(column, 0.1) if holed else column
    return found


def frame(columns: Mapping[str, Column], random: Any, count: int) -> pd.DataFrame:
    drawn = {name: column(random, count) for name, column in columns.items()}
    return pd.DataFrame({name: pd.Series(values, dtype=values.dtype) for name, values in drawn.items()})


def _answers(given: pd.DataFrame, random: Any) -> Any:
    """Return a score that depends on every column, and on two of them together."""
    parts = [pd.factorize(values)[0] if values.dtype == object else values.astype(float) for _, values in given.items()]
    ranks = [pd.Series(part).fillna(0).rank(pct=True).to_numpy() for part in parts]
    weights = random.standard_normal(len(ranks)) * 2
    return sum(w * r for w, r in zip(weights, ranks, strict=True)) + 2 * ranks[0] * ranks[-1]


# -- steps


def _pick(random: Any, *choices: Callable[[], Any]) -> Any:
    return choices[random.integers(len(choices))]()


def _numbers(random: Any) -> Any:
    p = preprocessing
    return _pick(
        random,
        p.StandardScaler,
        p.StandardScaler,
        p.MinMaxScaler,
        p.RobustScaler,
        p.MaxAbsScaler,
        p.PowerTransformer,
        lambda: p.KBinsDiscretizer(
            int(random.integers(2, 7)), encode="onehot-dense", quantile_method="averaged_inverted_cdf"
        ),
        lambda: p.KBinsDiscretizer(4, encode="ordinal", strategy="uniform"),
        lambda: p.QuantileTransformer(n_quantiles=30),
        lambda: p.PolynomialFeatures(2, include_bias=False),
        lambda: p.SplineTransformer(n_knots=4),
        lambda: p.MinMaxScaler(clip=True),
        p.Normalizer,
        lambda: p.FunctionTransformer(np.tanh),
        lambda: "passthrough",
    )


def _filled(random: Any, *, text: bool) -> Any:
    if text:
        return impute.SimpleImputer(strategy="most_frequent")
    return _pick(
        random,
        impute.SimpleImputer,
        lambda: impute.SimpleImputer(strategy="median"),
        lambda: impute.SimpleImputer(strategy="constant", fill_value=-7.25),
        lambda: impute.SimpleImputer(add_indicator=True),
        lambda: impute.KNNImputer(n_neighbors=3),
    )


def _encoder(random: Any) -> Any:
    p = preprocessing
    return _pick(
        random,
        lambda: p.OneHotEncoder(handle_unknown="ignore"),
        lambda: p.OneHotEncoder(handle_unknown="ignore"),
        lambda: p.OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=40),
        lambda: p.OneHotEncoder(drop="first", handle_unknown="ignore", sparse_output=False),
        lambda: p.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
        lambda: p.TargetEncoder(random_state=0),
    )


def _front(given: pd.DataFrame, random: Any, *, supervised: bool) -> Any:
    """Return a column transformer that gives every kind of column steps of its own."""
    texts = [name for name in given if given[name].dtype == object]
    flags = [name for name in given if given[name].dtype == bool]
    holed = [name for name in given if name not in texts and given[name].isna().any()]
    whole = [name for name in given if name not in (*texts, *flags, *holed)]
    cuts = int(random.integers(1, len(whole) + 1)) if whole else 0
    encoder = _encoder if supervised else lambda r: preprocessing.OneHotEncoder(handle_unknown="ignore")
    parts = [
        ("some", _numbers(random), whole[:cuts]),
        ("rest", _numbers(random), whole[cuts:]),
        ("holed", _chain(_filled(random, text=False), _numbers(random)), holed),
    ]
    for name in texts:
        filled = [_filled(random, text=True)] if given[name].isna().any() else []
        parts.append((f"text {name}", _chain(*filled, encoder(random)), [name]))
    parts.append(("flags", _pick(random, lambda: "passthrough", preprocessing.OneHotEncoder), flags))
    return compose.ColumnTransformer([part for part in parts if part[2]], sparse_threshold=0.0)


def _chain(*steps: Any) -> Any:
    return pipeline.make_pipeline(*steps) if len(steps) > 1 else steps[0]


def _between(random: Any) -> list[Any]:
    if random.random() < 0.7:
        return []
    return [
        _pick(
            random,
            preprocessing.StandardScaler,
            lambda: decomposition.PCA(2, random_state=0),
            feature_selection.VarianceThreshold,
            lambda: feature_selection.SelectKBest(feature_selection.f_classif, k=2),
        )
    ]


# -- estimators

_SEEDED = {"random_state": 0}


def _logistic() -> Any:
    return linear_model.LogisticRegression(max_iter=300)


CLASSIFIERS: tuple[Callable[[], Any], ...] = (
    _logistic,
    linear_model.RidgeClassifier,
    lambda: svm.LinearSVC(max_iter=300),
    svm.SVC,
    lambda: linear_model.SGDClassifier(loss="modified_huber", **_SEEDED),
    lambda: linear_model.SGDClassifier(loss="log_loss", **_SEEDED),
    neighbors.KNeighborsClassifier,
    lambda: neighbors.KNeighborsClassifier(7, weights="distance"),
    naive_bayes.GaussianNB,
    lambda: tree.DecisionTreeClassifier(max_depth=6, **_SEEDED),
    lambda: ensemble.RandomForestClassifier(12, max_depth=7, **_SEEDED),
    lambda: ensemble.ExtraTreesClassifier(12, **_SEEDED),
    lambda: ensemble.GradientBoostingClassifier(n_estimators=12, **_SEEDED),
    lambda: ensemble.HistGradientBoostingClassifier(max_iter=12, **_SEEDED),
    lambda: ensemble.AdaBoostClassifier(n_estimators=8, **_SEEDED),
    lambda: ensemble.BaggingClassifier(_logistic(), 4, max_features=0.8, **_SEEDED),
    lambda: neural_network.MLPClassifier((8,), max_iter=60, **_SEEDED),
    discriminant_analysis.LinearDiscriminantAnalysis,
    lambda: discriminant_analysis.QuadraticDiscriminantAnalysis(reg_param=0.1),
    lambda: lightgbm.LGBMClassifier(n_estimators=12, verbose=-1, n_jobs=1, min_child_samples=5),
    lambda: lightgbm.LGBMClassifier(n_estimators=8, verbose=-1, n_jobs=1, boosting_type="dart"),
    lambda: xgboost.XGBClassifier(n_estimators=12, max_depth=4, n_jobs=1),
    lambda: xgboost.XGBClassifier(n_estimators=8, booster="dart", rate_drop=0.3, n_jobs=1),
    lambda: calibration.CalibratedClassifierCV(svm.LinearSVC(max_iter=300), cv=2),
    lambda: calibration.CalibratedClassifierCV(
        tree.DecisionTreeClassifier(max_depth=4, **_SEEDED), method="isotonic", cv=2
    ),
    lambda: ensemble.VotingClassifier([("l", _logistic()), ("g", naive_bayes.GaussianNB())], voting="soft"),
    lambda: ensemble.VotingClassifier(
        [
            ("l", _logistic()),
            ("t", tree.DecisionTreeClassifier(max_depth=3, **_SEEDED)),
            ("g", naive_bayes.GaussianNB()),
        ]
    ),
    lambda: ensemble.StackingClassifier(
        [("f", ensemble.RandomForestClassifier(6, **_SEEDED)), ("l", _logistic())], _logistic(), cv=2
    ),
    lambda: multiclass.OneVsRestClassifier(_logistic()),
    lambda: multiclass.OneVsOneClassifier(_logistic()),
    lambda: model_selection.TunedThresholdClassifierCV(_logistic(), cv=2),
)
REGRESSORS: tuple[Callable[[], Any], ...] = (
    linear_model.LinearRegression,
    linear_model.Ridge,
    lambda: linear_model.Lasso(0.01),
    linear_model.BayesianRidge,
    lambda: linear_model.HuberRegressor(max_iter=200),
    svm.SVR,
    neighbors.KNeighborsRegressor,
    lambda: neighbors.KNeighborsRegressor(4, weights="distance"),
    lambda: tree.DecisionTreeRegressor(max_depth=7, **_SEEDED),
    lambda: ensemble.RandomForestRegressor(12, max_depth=7, **_SEEDED),
    lambda: ensemble.ExtraTreesRegressor(8, **_SEEDED),
    lambda: ensemble.GradientBoostingRegressor(n_estimators=12, **_SEEDED),
    lambda: ensemble.HistGradientBoostingRegressor(max_iter=12, **_SEEDED),
    lambda: ensemble.AdaBoostRegressor(n_estimators=6, **_SEEDED),
    lambda: ensemble.BaggingRegressor(linear_model.Ridge(), 4, **_SEEDED),
    lambda: neural_network.MLPRegressor((8,), max_iter=60, **_SEEDED),
    lambda: lightgbm.LGBMRegressor(n_estimators=12, verbose=-1, n_jobs=1, min_child_samples=5),
    lambda: xgboost.XGBRegressor(n_estimators=12, max_depth=4, n_jobs=1),
    lambda: compose.TransformedTargetRegressor(linear_model.Ridge(), transformer=preprocessing.StandardScaler()),
    lambda: compose.TransformedTargetRegressor(
        tree.DecisionTreeRegressor(max_depth=4, **_SEEDED), func=np.arcsinh, inverse_func=np.sinh
    ),
    lambda: ensemble.VotingRegressor(
        [("r", linear_model.Ridge()), ("t", tree.DecisionTreeRegressor(max_depth=3, **_SEEDED))]
    ),
    lambda: ensemble.StackingRegressor(
        [("r", linear_model.Ridge()), ("k", neighbors.KNeighborsRegressor(3))], linear_model.Ridge(), cv=2
    ),
)
SEVERAL: tuple[Callable[[], Any], ...] = (
    lambda: multioutput.MultiOutputRegressor(linear_model.Ridge()),
    lambda: cross_decomposition.PLSRegression(2),
    lambda: ensemble.RandomForestRegressor(6, max_depth=6, **_SEEDED),
    neighbors.KNeighborsRegressor,
    lambda: multioutput.RegressorChain(linear_model.Ridge()),
)
ALONE: tuple[Callable[[], Any], ...] = (
    lambda: cluster.KMeans(3, n_init=2, **_SEEDED),
    lambda: ensemble.IsolationForest(n_estimators=12, **_SEEDED),
    svm.OneClassSVM,
    lambda: decomposition.PCA(2, **_SEEDED),
)
_LGB = {
    "n_estimators": 12,
    "verbose": -1,
    "n_jobs": 1,
    "min_child_samples": 5,
    "cat_smooth": 1,
    "min_data_per_group": 5,
}
_XGB = {"n_estimators": 12, "max_depth": 4, "n_jobs": 1, "enable_categorical": True}


def make(seed: int) -> Made:
    """Return a fitted model; the seed decides everything."""
    random = np.random.Generator(np.random.PCG64(seed))
    columns = schema(random)
    given = frame(columns, random, _TRAINED)
    score = _answers(given, random)
    alone = random.random()
    if alone < 0.2:
        return _booster(random, columns, given, score)
    kind = random.random()
    if kind < 0.5:
        return _fitted(random, columns, given, CLASSIFIERS, _classes(random, score))
    if kind < 0.85:
        return _fitted(random, columns, given, REGRESSORS, score * 10.0 ** random.integers(-2, 4))
    if kind < 0.93:
        return _fitted(random, columns, given, SEVERAL, np.c_[score, -(score**2)])
    return _fitted(random, columns, given, ALONE, None)


def _classes(random: Any, score: Any) -> Any:
    count = int(random.integers(2, 5))
    places = np.digitize(score, np.quantile(score, np.linspace(0, 1, count + 1)[1:-1]))
    return _pick(
        random,
        lambda: places,
        lambda: places * 7 - 3,
        lambda: np.array(["low", "mid", "high", "très"], object)[places],
        lambda: places == 0,
    )


def _fitted(random: Any, columns: Mapping[str, Column], given: pd.DataFrame, kinds: Any, answer: Any) -> Made:
    last = kinds[random.integers(len(kinds))]()
    if isinstance(last, model_selection.TunedThresholdClassifierCV) and len(np.unique(answer)) > 2:
        last = _logistic()
    if isinstance(last, xgboost.XGBClassifier):
        answer = np.unique(answer, return_inverse=True)[1]
    steps = _between(random) if answer is not None and np.ndim(answer) == 1 else []
    model = pipeline.make_pipeline(_front(given, random, supervised=answer is not None), *steps, last)
    model.fit(given, answer) if answer is not None else model.fit(given)
    return Made(" + ".join(_named(model)), model, given, columns)


def _named(model: Any) -> list[str]:
    front = [
        step.__class__.__name__ if part != "passthrough" else part
        for _, part, _ in model.steps[0][1].transformers_
        for step in (part.named_steps.values() if hasattr(part, "steps") else [part])
    ]
    return ["/".join(front), *(type(step).__name__ for _, step in model.steps[1:])]


def _booster(random: Any, columns: Mapping[str, Column], given: pd.DataFrame, score: Any) -> Made:
    """Return a booster on the table as it is, its texts as categories; MLflow keeps those in the library's own form."""
    texts = [name for name in given if given[name].dtype == object]
    given = given.astype(dict.fromkeys(texts, "category"))
    classes = np.unique(_classes(random, score), return_inverse=True)[1] if random.random() < 0.5 else None
    answer = score if classes is None else classes
    if random.random() < 0.5:
        kind = lightgbm.LGBMRegressor if classes is None else lightgbm.LGBMClassifier
        options = _pick(
            random,
            dict,
            dict,
            lambda: {"boosting_type": "dart"},
            lambda: {"max_cat_to_onehot": 1},
            lambda: {"zero_as_missing": True},
            lambda: {"reg_sqrt": True} if classes is None else {},
        )
        model, flavor = kind(**_LGB, **options).fit(given, answer), "lightgbm"
    else:
        kind = xgboost.XGBRegressor if classes is None else xgboost.XGBClassifier
        options = _pick(
            random,
            dict,
            dict,
            lambda: {"max_cat_to_onehot": 1},
            lambda: {"booster": "dart", "rate_drop": 0.4},
            lambda: {"num_parallel_tree": 2, "subsample": 0.7},
        )
        model, flavor = kind(**_XGB, **options).fit(given, answer), "xgboost"
    return Made(f"{flavor} {kind.__name__} {options}", model, given, columns, flavor)


# -- registered, measured, compared


def registered(made: Made, folder: Path) -> Path:
    """Write a model as MLflow does, beside the data frame's signature."""
    folder.mkdir(parents=True)
    listed = [{"name": name, "type": _type(made.given[name])} for name in made.given]
    flavors = {"sklearn": _sklearn, "lightgbm": _lightgbm, "xgboost": _xgboost}[made.flavor](made.model, folder)
    table = {"flavors": {made.flavor: flavors}, "signature": {"inputs": json.dumps(listed)}}
    (folder / "MLmodel").write_text(yaml.safe_dump(table))
    return folder


def _type(column: Any) -> str:
    return _TYPES.get(column.to_numpy().dtype.name, "string")


def _sklearn(model: Any, folder: Path) -> dict[str, str]:
    try:
        skops.io.dump(model, folder / "model.skops")
        skops.io.load(folder / "model.skops", trusted=[])
    except Exception:  # MLflow's default writes what skops trusts; the others are pickled
        (folder / "model.skops").unlink(missing_ok=True)
        joblib.dump(model, folder / "model.pkl")
        return {"pickled_model": "model.pkl"}
    return {"pickled_model": "model.skops"}


def _lightgbm(model: Any, folder: Path) -> dict[str, str]:
    model.booster_.save_model(folder / "model.lgb")
    return {"data": "model.lgb"}


def _xgboost(model: Any, folder: Path) -> dict[str, str]:
    model.save_model(folder / "model.ubj")
    return {"data": "model.ubj", "model_class": type(model).__module__ + "." + type(model).__name__}


def fresh(made: Made, seed: int, count: int = ROWS) -> Callable[[Any], dict[str, Any]]:
    """Return a function that draws rows for an interface, none of which the build has seen."""

    def rows(interface: Any) -> dict[str, Any]:
        random = np.random.Generator(np.random.PCG64(_OTHER_SEED + seed))
        ports = {port["name"]: port for port in interface["inputs"]}
        return {name: _column(random, made, name, port, count) for name, port in ports.items()}

    return rows


def _column(random: Any, made: Made, name: str, port: Any, count: int) -> Any:
    """Return known values, numbers beside them, new ones, and what nobody saw, one third each or less."""
    known = made.given[name].to_numpy()
    values = np.concatenate(
        [np.resize(random.permutation(known), count // 2), made.columns[name](random, count - count // 2)]
    )
    values = random.permutation(values)
    if port["dtype"] == "string":
        values = np.array(["" if pd.isna(item) else str(item) for item in values], object)
        values[: count // 50] = random.choice(_unseen(made, name, known), count // 50)
    elif port["dtype"].startswith("float"):
        values = values.astype(port["dtype"])
        beside = np.nextafter(values, random.choice([-np.inf, np.inf], count).astype(port["dtype"]))
        values = np.where(random.random(count) < 0.3, beside, values)
    return random.permutation(values).astype(object if port["dtype"] == "string" else port["dtype"]).reshape(-1, 1)


def _unseen(made: Made, name: str, known: Any) -> Any:
    """Return texts that the model was not fitted on, or known ones where it refuses those."""
    row = made.given.head(1).copy()
    if made.flavor == "xgboost":  # it means to refuse those, and takes them for the next larger one it knows
        return np.array([item for item in map(str, known) if item != "nan"][:1], object)
    if made.flavor != "sklearn":
        return np.array(["unseen", *map(str, known[:1])], object)
    row[name] = pd.Series(["unseen"], dtype=object)
    try:
        ask = "predict" if hasattr(made.model, "predict") else "transform"
        getattr(made.model, ask)(row)
    except ValueError:
        return np.array([item for item in map(str, known) if item != "nan"][:1], object)
    return np.array(["unseen", "RED", "Zürich "], object)


def judged(seed: int, folder: Path) -> Row:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = make(seed)
        except ValueError as error:  # an impossible combination, such as a spline of a column of holes
            return Row("fuzz", str(seed), "not-fitted", reason=f"{type(error).__name__}: {error}"[:200])
        source = registered(made, folder / "source")
    row = judge("fuzz", f"{seed}: {made.name}", source, folder / "graph", fresh(made, seed))
    return row


def _alarmed(*_: Any) -> None:
    raise TimeoutError(f"longer than {_LIMIT} s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    lines = asked.out.read_text().splitlines() if asked.out.exists() else []
    done = {int(json.loads(line)["model"].split(":")[0]) for line in lines}
    signal.signal(signal.SIGPROF, _alarmed)
    threadpoolctl.threadpool_limits(1)  # as the worker of a build pins them
    for seed in range(asked.first, asked.first + asked.count):
        if seed in done:
            continue
        with tempfile.TemporaryDirectory() as folder, asked.out.open("a") as out:
            signal.setitimer(signal.ITIMER_PROF, _LIMIT)
            found = judged(seed, Path(folder))
            signal.setitimer(signal.ITIMER_PROF, 0)
            out.write(f"{found.line()}\n")
    print(Counter(json.loads(line)["verdict"] for line in asked.out.read_text().splitlines()))


if __name__ == "__main__":
    main()
