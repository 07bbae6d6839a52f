# SPDX-License-Identifier: Apache-2.0
"""scikit-learn models of the table: every estimator of the library, fitted by its own test constructors, and the
pipelines that textbooks and bug reports show."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest, VarianceThreshold, chi2, f_classif
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.model_selection import GridSearchCV, TunedThresholdClassifierCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, MultiOutputRegressor
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, LocalOutlierFactor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC, SVR, LinearSVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import all_estimators

Fitted = tuple[Any, pd.DataFrame]

_RANDOM = np.random.RandomState(0)
_N = 240
NUMBERS = pd.DataFrame({f"x{index}": _RANDOM.randn(_N) * 10.0 ** (index - 1) for index in range(4)})
TABLE = pd.DataFrame(
    {
        "visits": _RANDOM.randint(0, 20, _N),
        "price": np.round(np.abs(_RANDOM.randn(_N) * 30) + 1, 2),
        "member": _RANDOM.rand(_N) < 0.4,
        "city": _RANDOM.choice(["red", "green", "blue", "Ösl"], _N).astype(object),
        "label": _RANDOM.randn(_N),
    }
)
HOLES = TABLE.assign(price=TABLE.price.mask(_RANDOM.rand(_N) < 0.1))
YES = ((TABLE.visits > 9) ^ (TABLE.price > 20)).astype(int)
THREE = np.array(["low", "mid", "high"], dtype=object)[(TABLE.visits // 7).clip(0, 2)]
AMOUNT = TABLE.visits * 3.5 + TABLE.price + TABLE.member * 7
TEXTS = pd.DataFrame(
    {"text": [" ".join(_RANDOM.choice(["alpha", "beta", "café", "x1", "Don't", "你好"], 4)) for _ in range(_N)]}
)
NUMERIC = ["visits", "price", "member", "label"]


def library() -> Iterator[tuple[str, Callable[[], Fitted]]]:
    """Yield every estimator of the library by name, with what fits it; skipped are those that need another input."""
    for name, kind in all_estimators():
        yield name, lambda kind=kind: _constructed(kind)


def _constructed(kind: Any) -> Fitted:
    from sklearn.utils._test_common.instance_generator import _construct_instances

    estimator = next(iter(_construct_instances(kind)))
    given, answer = _data(estimator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(given, answer) if answer is not None else estimator.fit(given)
    return estimator, given


def _data(estimator: Any) -> tuple[pd.DataFrame, Any]:
    tags, name = estimator.__sklearn_tags__(), type(estimator).__name__
    given = NUMBERS.abs() if tags.input_tags.positive_only else NUMBERS
    if name in ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer"):
        return TEXTS["text"], None
    if name == "IsotonicRegression":
        given = NUMBERS[["x1"]]
    if name in ("AdditiveChi2Sampler", "MultinomialNB", "ComplementNB", "CategoricalNB", "BernoulliNB"):
        given = NUMBERS.abs().round().clip(0, 5)
    answer: Any = (NUMBERS.x1 + NUMBERS.x2 / 10 > 0).astype(int).to_numpy()
    if is_regressor(estimator):
        answer = (NUMBERS.x1 * 2 + NUMBERS.x2).to_numpy()
        answer = np.abs(answer) + 0.1 if tags.target_tags.positive_only else answer
    if tags.target_tags.multi_output and not tags.target_tags.single_output:
        answer = np.stack([answer, answer[::-1]], axis=1)
    return given, answer


LOGISTIC = LogisticRegression(max_iter=500)
_ONE_HOT = OneHotEncoder(handle_unknown="ignore")


def _columns(*more: Any, numbers: Any = None) -> Any:
    return make_column_transformer((numbers or StandardScaler(), ["visits", "price"]), *more)


def _tabular(model: Any, answer: Any, numbers: Any = None, given: pd.DataFrame = TABLE) -> Fitted:
    front = _columns((_ONE_HOT, ["city"]), numbers=numbers)
    return make_pipeline(front, model).fit(given, answer), given


def _on(columns: list[str], model: Any, answer: Any, given: pd.DataFrame = TABLE) -> Fitted:
    return model.fit(given[columns], answer), given[columns]


def _missing(values: pd.Series, nothing: Any) -> pd.DataFrame:
    kept = _RANDOM.rand(len(values)) > 0.15
    cells = np.array([item if keep else nothing for item, keep in zip(values, kept, strict=True)], dtype=object)
    return pd.DataFrame({"city": pd.Series(cells, dtype=object)})


_CITY_HOLES = _missing(TABLE.city, None)
_CITY_NANS = _missing(TABLE.city, np.nan)
_TWO = np.stack([YES, (TABLE.price > 25).astype(int)], axis=1)

PIPELINES: dict[str, Callable[[], Fitted]] = {
    "whole number first, logistic": lambda: _on(["visits", "price"], LOGISTIC, YES),
    "whole number first, RidgeClassifier": lambda: _on(["visits", "price"], RidgeClassifier(), YES),
    "whole number first, LinearSVC": lambda: _on(["visits", "price"], LinearSVC(), THREE),
    "flag first, forest": lambda: _on(["member", "price", "visits"], RandomForestClassifier(20, random_state=0), YES),
    "impute whole and fraction": lambda: _on(
        ["visits", "price"], make_pipeline(SimpleImputer(), StandardScaler(), LOGISTIC), YES, HOLES
    ),
    "impute, indicator, power, MLP": lambda: _on(
        ["visits", "price"],
        make_pipeline(
            SimpleImputer(add_indicator=True), PowerTransformer(), MLPClassifier((8,), max_iter=60, random_state=0)
        ),
        YES,
        HOLES,
    ),
    "histogram on doubles": lambda: _on(["price", "visits"], HistGradientBoostingRegressor(max_iter=40), AMOUNT),
    "histogram, categories from dtype": lambda: _on(
        ["price", "member"], HistGradientBoostingClassifier(max_iter=20, categorical_features=[1]), YES
    ),
    "histogram, holes": lambda: _on(["price", "visits"], HistGradientBoostingClassifier(max_iter=20), YES, HOLES),
    "columns called label and prediction": lambda: (
        make_pipeline(StandardScaler(), LOGISTIC).fit(
            TABLE[["label", "price"]].rename(columns={"price": "prediction"}), YES
        ),
        TABLE[["label", "price"]].rename(columns={"price": "prediction"}),
    ),
    "columns called one, classes, constant": lambda: (
        LOGISTIC.fit(TABLE[["visits", "price", "label"]].set_axis(["one", "classes", "constant_1"], axis=1), YES),
        TABLE[["visits", "price", "label"]].set_axis(["one", "classes", "constant_1"], axis=1),
    ),
    "columns with spaces, slashes, emoji": lambda: (
        LOGISTIC.fit(TABLE[["visits", "price"]].set_axis(["a b/c", "prix 😀"], axis=1), YES),
        TABLE[["visits", "price"]].set_axis(["a b/c", "prix 😀"], axis=1),
    ),
    "soft voting, weights as a list": lambda: _tabular(
        VotingClassifier([("a", LOGISTIC), ("b", GaussianNB())], voting="soft", weights=[2, 1]), YES, given=TABLE
    ),
    "hard voting": lambda: _on(
        ["visits", "price"],
        VotingClassifier([("a", LOGISTIC), ("b", GaussianNB()), ("c", DecisionTreeClassifier(max_depth=3))]),
        THREE,
    ),
    "stacking, passthrough, text labels": lambda: _tabular(
        StackingClassifier(
            [("f", RandomForestClassifier(9, random_state=0)), ("l", LOGISTIC)], LOGISTIC, passthrough=True
        ),
        THREE,
    ),
    "stacking of SVC": lambda: _on(
        ["visits", "price"],
        make_pipeline(StandardScaler(), StackingClassifier([("s", SVC()), ("l", LOGISTIC)], LOGISTIC)),
        YES,
    ),
    "stacking of regressors": lambda: _tabular(
        StackingRegressor([("r", Ridge()), ("g", GradientBoostingRegressor(n_estimators=10))], Ridge()), AMOUNT
    ),
    "isolation forest": lambda: _on(["visits", "price"], IsolationForest(n_estimators=30, random_state=0), None),
    "one-class SVM": lambda: _on(["visits", "price"], make_pipeline(StandardScaler(), OneClassSVM()), None),
    "local outlier factor": lambda: _on(
        ["visits", "price"], make_pipeline(StandardScaler(), LocalOutlierFactor(novelty=True)), None
    ),
    "scaler and k-means": lambda: _on(
        ["visits", "price"], make_pipeline(StandardScaler(), KMeans(4, random_state=0)), None
    ),
    "multi-output logistic": lambda: _on(
        ["visits", "price"], make_pipeline(StandardScaler(), MultiOutputClassifier(LOGISTIC)), _TWO
    ),
    "multi-output forest": lambda: _on(["visits", "price"], RandomForestClassifier(10, random_state=0), _TWO),
    "multi-output forest of numbers": lambda: _on(
        ["visits", "price"], RandomForestRegressor(10, random_state=0), _TWO * 1.5
    ),
    "multi-label MLP": lambda: _on(
        ["visits", "price"], make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=80, random_state=0)), _TWO
    ),
    "classifier chain": lambda: _on(
        ["visits", "price"], make_pipeline(StandardScaler(), ClassifierChain(LOGISTIC)), _TWO
    ),
    "multi-output ridge": lambda: _on(["visits", "price"], MultiOutputRegressor(Ridge()), _TWO * 1.5),
    "function log1p": lambda: _on(["visits", "price"], make_pipeline(FunctionTransformer(np.log1p), LOGISTIC), YES),
    "target transformed by log": lambda: _on(
        ["visits", "price"], TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1), AMOUNT
    ),
    "target transformed by a scaler": lambda: _on(
        ["visits", "price"], TransformedTargetRegressor(Ridge(), transformer=StandardScaler()), AMOUNT
    ),
    "isotonic calibration of a forest": lambda: _on(
        ["visits", "price"],
        CalibratedClassifierCV(RandomForestClassifier(10, random_state=0), method="isotonic", cv=3),
        YES,
    ),
    "sigmoid calibration of a pipeline": lambda: _tabular(
        CalibratedClassifierCV(make_pipeline(StandardScaler(with_mean=False), LinearSVC()), cv=3), THREE
    ),
    "k nearest by distance": lambda: _on(
        ["visits", "price"], make_pipeline(StandardScaler(), KNeighborsClassifier(weights="distance")), THREE
    ),
    "k nearest": lambda: _on(["visits", "price"], make_pipeline(StandardScaler(), KNeighborsClassifier()), THREE),
    "k nearest numbers": lambda: _on(["visits", "price"], KNeighborsRegressor(3, weights="distance"), AMOUNT),
    "select k best": lambda: _on(
        ["visits", "price", "label"], make_pipeline(SelectKBest(f_classif, k=2), LOGISTIC), YES
    ),
    "select by chi2": lambda: _on(["visits", "price"], make_pipeline(SelectKBest(chi2, k=1), LOGISTIC), YES),
    "columns selected by dtype": lambda: (
        make_pipeline(
            make_column_transformer(
                (StandardScaler(), make_column_selector(dtype_include=np.number)),
                (_ONE_HOT, make_column_selector(dtype_include=object)),
            ),
            LOGISTIC,
        ).fit(TABLE, YES),
        TABLE,
    ),
    "one-hot of flags": lambda: _on(
        ["member", "price"],
        make_pipeline(make_column_transformer((_ONE_HOT, ["member"]), remainder="passthrough"), LOGISTIC),
        YES,
    ),
    "one-hot of text and numbers together": lambda: _on(["city", "visits"], make_pipeline(_ONE_HOT, LOGISTIC), YES),
    "one-hot, infrequent categories": lambda: _on(
        ["city"], make_pipeline(OneHotEncoder(min_frequency=60, handle_unknown="infrequent_if_exist"), LOGISTIC), YES
    ),
    "one-hot, drop first": lambda: _on(
        ["city"], make_pipeline(OneHotEncoder(drop="first", handle_unknown="ignore"), LOGISTIC), YES
    ),
    "one-hot, None as a category": lambda: (make_pipeline(_ONE_HOT, LOGISTIC).fit(_CITY_HOLES, YES), _CITY_HOLES),
    "impute missing categories": lambda: (
        make_pipeline(SimpleImputer(strategy="most_frequent"), _ONE_HOT, LOGISTIC).fit(_CITY_NANS, YES),
        _CITY_NANS,
    ),
    "impute categories that are None": lambda: (
        make_pipeline(
            SimpleImputer(missing_values=None, strategy="constant", fill_value="none"), _ONE_HOT, LOGISTIC
        ).fit(_CITY_HOLES, YES),
        _CITY_HOLES,
    ),
    "ordinal encoder, unknown value": lambda: _on(
        ["city"],
        make_pipeline(
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
            RandomForestClassifier(9, random_state=0),
        ),
        YES,
    ),
    "target encoder": lambda: _on(["city"], make_pipeline(TargetEncoder(), LOGISTIC), YES),
    "bins, one-hot": lambda: _on(["visits", "price"], make_pipeline(KBinsDiscretizer(4), LOGISTIC), YES),
    "bins, ordinal": lambda: _on(
        ["visits", "price"],
        make_pipeline(KBinsDiscretizer(4, encode="ordinal"), RandomForestClassifier(9, random_state=0)),
        YES,
    ),
    "polynomial of doubles": lambda: _on(
        ["visits", "price"], make_pipeline(PolynomialFeatures(3), StandardScaler(), LOGISTIC), YES
    ),
    "splines": lambda: _on(["visits", "price"], make_pipeline(SplineTransformer(), Ridge()), AMOUNT),
    "quantiles": lambda: _on(["visits", "price"], make_pipeline(QuantileTransformer(n_quantiles=40), Ridge()), AMOUNT),
    "quantiles to normal": lambda: _on(
        ["visits", "price"],
        make_pipeline(QuantileTransformer(n_quantiles=40, output_distribution="normal"), Ridge()),
        AMOUNT,
    ),
    "robust scaler, PCA, SVR": lambda: _on(["visits", "price"], make_pipeline(RobustScaler(), PCA(2), SVR()), AMOUNT),
    "min-max, clipped, SVC with probabilities": lambda: _on(
        ["visits", "price"], make_pipeline(MinMaxScaler(clip=True), CalibratedClassifierCV(SVC(), cv=3)), THREE
    ),
    "union of features": lambda: _on(
        ["visits", "price"], make_pipeline(FeatureUnion([("p", PCA(1)), ("s", StandardScaler())]), LOGISTIC), YES
    ),
    "k nearest imputer": lambda: _on(
        ["visits", "price"], make_pipeline(KNNImputer(n_neighbors=3), LOGISTIC), YES, HOLES
    ),
    "grid search": lambda: _on(
        ["visits", "price"],
        GridSearchCV(make_pipeline(StandardScaler(), LOGISTIC), {"logisticregression__C": [0.1, 1]}, cv=2),
        YES,
    ),
    "tuned threshold": lambda: _on(["visits", "price"], TunedThresholdClassifierCV(LOGISTIC, cv=2), YES),
    "one versus one, text labels": lambda: _on(["visits", "price"], OneVsOneClassifier(LOGISTIC), THREE),
    "one versus rest": lambda: _on(["visits", "price"], OneVsRestClassifier(LOGISTIC), THREE),
    "SGD modified Huber, three classes": lambda: _on(
        ["visits", "price"],
        make_pipeline(StandardScaler(), SGDClassifier(loss="modified_huber", random_state=0)),
        THREE,
    ),
    "Gaussian process classifier": lambda: _on(
        ["visits", "price"], make_pipeline(StandardScaler(), GaussianProcessClassifier()), YES
    ),
    "Gaussian process regressor": lambda: _on(
        ["visits", "price"], make_pipeline(StandardScaler(), GaussianProcessRegressor(alpha=0.1)), AMOUNT
    ),
    "Poisson regression": lambda: _tabular(PoissonRegressor(max_iter=300), AMOUNT),
    "MLP of numbers": lambda: _tabular(MLPRegressor(hidden_layer_sizes=(16,), max_iter=80, random_state=0), AMOUNT),
    "variance threshold, trees": lambda: _on(
        ["visits", "price", "label"],
        make_pipeline(VarianceThreshold(), ExtraTreesClassifier(15, random_state=0)),
        THREE,
    ),
    "TF-IDF, logistic": lambda: (make_pipeline(TfidfVectorizer(), LOGISTIC).fit(TEXTS.text, YES), TEXTS.text),
    "counts, naive Bayes": lambda: (make_pipeline(CountVectorizer(), MultinomialNB()).fit(TEXTS.text, YES), TEXTS.text),
    "TF-IDF, SVD": lambda: (
        make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), TruncatedSVD(3), LOGISTIC).fit(TEXTS.text, YES),
        TEXTS.text,
    ),
    "text, numbers and categories": lambda: _mixed(),
    "remainder passed through": lambda: _on(
        ["visits", "price", "label"],
        make_pipeline(
            ColumnTransformer([("s", StandardScaler(), ["price"])], remainder="passthrough"), LinearRegression()
        ),
        AMOUNT,
    ),
}


def _mixed() -> Fitted:
    given = TABLE.assign(text=TEXTS.text)
    front = make_column_transformer(
        (StandardScaler(), ["visits", "price"]), (_ONE_HOT, ["city"]), (TfidfVectorizer(), "text")
    )
    return make_pipeline(front, LOGISTIC).fit(given, YES), given
