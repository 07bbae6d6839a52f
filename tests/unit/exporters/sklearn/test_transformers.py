# SPDX-License-Identifier: Apache-2.0
"""Every transformer of scikit-learn: its graph beside itself, in binary64, or a refusal with its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import (
    cluster,
    cross_decomposition,
    decomposition,
    feature_selection,
    impute,
    kernel_approximation,
    manifold,
    neighbors,
    random_projection,
)
from sklearn import preprocessing as pre
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.feature_extraction import DictVectorizer, FeatureHasher
from sklearn.feature_extraction.image import PatchExtractor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import NeighborhoodComponentsAnalysis
from sklearn.neural_network import BernoulliRBM
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.utils import all_estimators

from packager.errors import StepError
from tests.support.breadth import first_of_each
from tests.unit.exporters.written import difference, graph_of

RNG = np.random.RandomState(7)
X = RNG.normal(size=(60, 5)) * [1, 30, 0.01, 5, 2] + [0, 100, 0, -3, 0]
Y = (X[:, 0] + X[:, 3] > -3).astype(int)
THREE = np.digitize(X[:, 1], [85, 115])
FRESH = np.vstack([X[:20], RNG.normal(size=(40, 5)) * 100, np.zeros((1, 5)), -X[:5], X[:3] * 1e9])
EVEN = (X - X.mean(axis=0)) / X.std(axis=0)
POSITIVE = np.abs(X) + 0.1
HOLES = np.where(RNG.rand(*FRESH.shape) < 0.2, np.nan, FRESH)
HOLES_FIT = np.where(RNG.rand(*X.shape) < 0.2, np.nan, X)
SMALL = X.astype("float32")
INTS = RNG.randint(-5, 6, size=(60, 3)) * np.array([1, 2**33, 2**54])
TEXT = np.array([["a"], ["b"], ["é"], ["你好"], ["b"], ["a b"], ["rare"], ["é"], ["a"], ["b"]] * 3, dtype=object)
UNSEEN = np.array([["a"], ["A"], ["e\u0301"], ["你好"], ["\U0001f600"], ["rare"]], dtype=object)
NONE = pd.DataFrame({"t": pd.Series(["a", None, "b", "a", None, "b", "c", "a"], dtype=object)})
GAPS = NONE.where(NONE.notna(), np.nan)
MIXED = pd.DataFrame(
    {
        "text": ["x", "y", "ż", "x", "y", "x", "x", "ż"] * 4,
        "whole": [1, 2**40, -3, 2**53 + 1, 2, 1, -3, 1] * 4,
        "part": [0.1, 0.2, np.nan, 0.3, 0.1, -0.0, 0.2, np.nan] * 4,
        "flag": [True, False, True, True, False, False, True, True] * 4,
    }
)
MIXED["text"] = MIXED["text"].astype(object)
OTHER = pd.DataFrame(
    {
        "text": ["x", "q", "ż", ""],
        "whole": [2**53, 2**40, 7, 2**53 + 1],
        "part": [0.1, 0.30000001, np.nan, 0.2],
        "flag": [True, False, False, True],
    }
)
TARGET = np.tile([0, 1, 1, 0, 1, 0, 0, 1], 4)
NUMBERS = pd.DataFrame({"i": RNG.randint(-9, 9, 60), "f": X[:, 1], "g": X[:, 2].astype("float32")})


def frame_of(array: Any) -> pd.DataFrame:
    return pd.DataFrame(array, columns=[f"c{place}" for place in range(array.shape[1])])


Case = tuple[Any, Any]  # a fitted estimator, and what it is asked about
CASES: dict[str, Callable[[], Case]] = {
    # -- scalers
    "StandardScaler": lambda: (pre.StandardScaler().fit(HOLES_FIT), HOLES),
    "StandardScaler float32": lambda: (pre.StandardScaler().fit(SMALL), FRESH.astype("float32")),
    "StandardScaler of a frame": lambda: (pre.StandardScaler().fit(NUMBERS), NUMBERS),
    "MinMaxScaler": lambda: (pre.MinMaxScaler((-1, 3)).fit(HOLES_FIT), HOLES),
    "MinMaxScaler clip": lambda: (pre.MinMaxScaler(clip=True).fit(HOLES_FIT), HOLES),
    "MinMaxScaler float32": lambda: (pre.MinMaxScaler(clip=True).fit(SMALL), FRESH.astype("float32")),
    "MaxAbsScaler": lambda: (pre.MaxAbsScaler().fit(HOLES_FIT), HOLES),
    "RobustScaler": lambda: (pre.RobustScaler(unit_variance=True).fit(HOLES_FIT), HOLES),
    "RobustScaler of whole numbers": lambda: (pre.RobustScaler(with_centering=False).fit(INTS), INTS),
    "Normalizer": lambda: (pre.Normalizer().fit(X), FRESH),
    "Normalizer l1": lambda: (pre.Normalizer("l1").fit(X), FRESH),
    "Normalizer max": lambda: (pre.Normalizer("max").fit(X), FRESH),
    "Binarizer": lambda: (pre.Binarizer(threshold=0.1).fit(X), FRESH),
    "Binarizer of whole numbers": lambda: (pre.Binarizer(threshold=1.5).fit(INTS), INTS),
    "Binarizer float32": lambda: (pre.Binarizer(threshold=0.1).fit(SMALL), np.full((2, 5), 0.1, "float32")),
    "KernelCenterer": lambda: (pre.KernelCenterer().fit(X[:5] @ X[:5].T), FRESH),
    # -- curves
    "PolynomialFeatures": lambda: (pre.PolynomialFeatures(3).fit(X), FRESH),
    "PolynomialFeatures interactions": lambda: (pre.PolynomialFeatures((2, 4), interaction_only=True).fit(X), FRESH),
    "PolynomialFeatures without bias": lambda: (pre.PolynomialFeatures((2, 2), include_bias=False).fit(X), FRESH),
    "PolynomialFeatures of ints": lambda: (pre.PolynomialFeatures(2).fit(INTS), INTS),
    "PowerTransformer": lambda: (pre.PowerTransformer().fit(HOLES_FIT), np.where(np.abs(HOLES) < 1e4, HOLES, 7)),
    "PowerTransformer box-cox": lambda: (pre.PowerTransformer(method="box-cox").fit(POSITIVE), POSITIVE * 1.7),
    "PowerTransformer raw": lambda: (pre.PowerTransformer(standardize=False).fit(X), X * 3),
    "QuantileTransformer": lambda: (pre.QuantileTransformer(n_quantiles=40).fit(HOLES_FIT), HOLES),
    "QuantileTransformer normal": lambda: (
        pre.QuantileTransformer(n_quantiles=60, output_distribution="normal").fit(X),
        np.vstack([FRESH, X, X + 1e-9]),
    ),
    "QuantileTransformer of repeats": lambda: (
        pre.QuantileTransformer(n_quantiles=30).fit(np.round(X)),
        np.round(X) + 0,
    ),
    "QuantileTransformer of thousands": lambda: (
        pre.QuantileTransformer(output_distribution="normal").fit(np.random.RandomState(1).exponential(size=(3000, 2))),
        np.random.RandomState(2).exponential(size=(3000, 2)) - 0.1,
    ),
    **{
        f"SplineTransformer {mode} {degree}": lambda mode=mode, degree=degree: (  # type: ignore[misc]
            pre.SplineTransformer(extrapolation=mode, degree=degree, n_knots=6).fit(X),
            np.vstack([X * 1.2, X, FRESH[20:40] / 50]),
        )
        for mode in ("constant", "linear", "continue", "periodic")
        for degree in (0, 1, 2, 3)
        if (mode, degree) != ("constant", 0)
    },
    "SplineTransformer without bias": lambda: (pre.SplineTransformer(include_bias=False, knots="quantile").fit(X), X),
    # -- functions
    **{
        f"FunctionTransformer {function.__name__}": lambda function=function: (  # type: ignore[misc]
            pre.FunctionTransformer(function),
            np.vstack([POSITIVE, POSITIVE * 1e-9, np.full((1, 5), 1e-300)]),
        )
        for function in (
            np.log1p,
            np.expm1,
            np.log,
            np.log2,
            np.log10,
            np.exp,
            np.sqrt,
            np.sin,
            np.cos,
            np.tanh,
            np.exp2,
            np.deg2rad,
        )
    },
    **{
        f"FunctionTransformer {function.__name__}": lambda function=function: (pre.FunctionTransformer(function), X)  # type: ignore[misc]
        for function in (
            np.abs,
            np.negative,
            np.sign,
            np.square,
            np.floor,
            np.ceil,
            np.rint,
            np.trunc,
            np.reciprocal,
            np.isnan,
        )
    },
    "FunctionTransformer": lambda: (pre.FunctionTransformer(), X),
    "FunctionTransformer of ints": lambda: (pre.FunctionTransformer(np.log1p).fit(NUMBERS.abs()), NUMBERS.abs()),
    "FunctionTransformer in float32": lambda: (pre.FunctionTransformer(np.floor), SMALL),
    # -- bins
    **{
        f"KBinsDiscretizer {encode} {strategy}": lambda encode=encode, strategy=strategy: (  # type: ignore[misc]
            (model := pre.KBinsDiscretizer(7, encode=encode, strategy=strategy).fit(X)),
            np.vstack([FRESH, X, np.column_stack([edges[:7] for edges in model.bin_edges_])]),
        )
        for encode in ("ordinal", "onehot", "onehot-dense")
        for strategy in ("uniform", "quantile", "kmeans")
    },
    "KBinsDiscretizer of ints": lambda: (pre.KBinsDiscretizer(3).fit(INTS), INTS),
    # -- categories
    "OneHotEncoder": lambda: (pre.OneHotEncoder(handle_unknown="ignore").fit(TEXT), UNSEEN),
    "OneHotEncoder of a frame": lambda: (pre.OneHotEncoder(handle_unknown="ignore").fit(MIXED), OTHER),
    "OneHotEncoder drops first": lambda: (pre.OneHotEncoder(drop="first", handle_unknown="ignore").fit(MIXED), OTHER),
    "OneHotEncoder drops one of two": lambda: (
        pre.OneHotEncoder(drop="if_binary", handle_unknown="ignore", dtype="int8").fit(MIXED),
        OTHER,
    ),
    "OneHotEncoder drops named": lambda: (pre.OneHotEncoder(drop=["b"], handle_unknown="ignore").fit(TEXT), UNSEEN),
    **{
        f"OneHotEncoder rare {unknown} {drop}": lambda unknown=unknown, drop=drop: (  # type: ignore[misc]
            pre.OneHotEncoder(handle_unknown=unknown, min_frequency=5, drop=drop).fit(TEXT),
            UNSEEN,
        )
        for unknown in ("ignore", "infrequent_if_exist", "warn")
        for drop in (None, "first", "if_binary")
    },
    "OneHotEncoder few": lambda: (
        pre.OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=2, sparse_output=False).fit(MIXED),
        OTHER,
    ),
    "OneHotEncoder None": lambda: (pre.OneHotEncoder(handle_unknown="ignore").fit(NONE), NONE),
    "OneHotEncoder stated": lambda: (
        pre.OneHotEncoder(categories=[["b", "z", "a"]], handle_unknown="ignore").fit(TEXT[:2]),
        UNSEEN,
    ),
    "OneHotEncoder of numbers": lambda: (
        pre.OneHotEncoder(handle_unknown="ignore").fit(np.array([[0.1, np.nan], [0.2, 1], [0.3, 2]])),
        np.array([[0.1, np.nan], [0.1 + 1e-16, 1.5], [0.30000000000000004, 2], [0.3, 1]]),
    ),
    "OneHotEncoder of floats as ints": lambda: (
        pre.OneHotEncoder(handle_unknown="ignore").fit(np.array([[1], [2], [3]])),
        np.array([[1.0], [2.5], [3.0]]),
    ),
    "OrdinalEncoder": lambda: (
        pre.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-7).fit(MIXED),
        OTHER,
    ),
    "OrdinalEncoder None": lambda: (pre.OrdinalEncoder(encoded_missing_value=-3).fit(NONE), NONE),
    "OneHotEncoder NaN": lambda: (pre.OneHotEncoder(handle_unknown="ignore").fit(GAPS), GAPS),
    "OrdinalEncoder NaN": lambda: (
        pre.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan).fit(MIXED),
        OTHER,
    ),
    "OrdinalEncoder rare": lambda: (
        pre.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=99, min_frequency=5).fit(MIXED),
        OTHER,
    ),
    "OrdinalEncoder int": lambda: (
        pre.OrdinalEncoder(dtype="int32", handle_unknown="use_encoded_value", unknown_value=-1).fit(TEXT),
        UNSEEN,
    ),
    "TargetEncoder": lambda: (pre.TargetEncoder().fit(MIXED, TARGET), OTHER),
    "TargetEncoder numbers": lambda: (pre.TargetEncoder(smooth=3.0).fit(MIXED, TARGET * 1.7), OTHER),
    "TargetEncoder three": lambda: (pre.TargetEncoder().fit(MIXED, np.arange(32) % 3), OTHER),
    # -- missing values
    **{
        f"SimpleImputer {strategy}": lambda strategy=strategy: (  # type: ignore[misc]
            impute.SimpleImputer(strategy=strategy, add_indicator=True, fill_value=7).fit(HOLES_FIT),
            HOLES,
        )
        for strategy in ("mean", "median", "most_frequent", "constant")
    },
    "SimpleImputer of text": lambda: (
        impute.SimpleImputer(strategy="most_frequent", missing_values=None).fit(NONE),
        NONE,
    ),
    "SimpleImputer of text constant": lambda: (
        impute.SimpleImputer(strategy="constant", fill_value="?", missing_values=None).fit(NONE),
        NONE,
    ),
    "SimpleImputer of a word": lambda: (
        impute.SimpleImputer(strategy="most_frequent", missing_values="b").fit(TEXT),
        TEXT,
    ),
    "SimpleImputer of ints": lambda: (impute.SimpleImputer(missing_values=-5).fit(INTS), INTS),
    "SimpleImputer of common ints": lambda: (
        impute.SimpleImputer(missing_values=0, strategy="most_frequent").fit(INTS),
        INTS,
    ),
    "SimpleImputer of int and float": lambda: (
        impute.SimpleImputer(strategy="median", add_indicator=True).fit(MIXED[["whole", "part"]]),
        OTHER[["whole", "part"]],
    ),
    "SimpleImputer float32": lambda: (impute.SimpleImputer().fit(HOLES_FIT.astype("float32")), HOLES.astype("float32")),
    "SimpleImputer empty": lambda: (
        impute.SimpleImputer().fit(np.column_stack([HOLES_FIT, np.full(60, np.nan)])),
        np.column_stack([HOLES, HOLES[:, 0]]),
    ),
    "SimpleImputer keeps empty": lambda: (
        impute.SimpleImputer(keep_empty_features=True, add_indicator=True).fit(
            np.column_stack([HOLES_FIT, np.full(60, np.nan)])
        ),
        np.column_stack([HOLES, HOLES[:, 0]]),
    ),
    "MissingIndicator": lambda: (impute.MissingIndicator(error_on_new=False).fit(HOLES_FIT[:3]), HOLES),
    "MissingIndicator all": lambda: (impute.MissingIndicator(features="all", missing_values=0).fit(INTS), INTS),
    "KNNImputer": lambda: (impute.KNNImputer(n_neighbors=4, add_indicator=True).fit(HOLES_FIT), HOLES[:60]),
    "KNNImputer distance": lambda: (
        impute.KNNImputer(weights="distance").fit(HOLES_FIT),
        np.vstack([HOLES[20:60], np.full((1, 5), np.nan)]),
    ),
    "IterativeImputer": lambda: (
        impute.IterativeImputer(max_iter=4, add_indicator=True).fit(HOLES_FIT),
        HOLES[:60],
    ),
    "IterativeImputer of nothing": lambda: (
        impute.IterativeImputer(max_iter=3, min_value=-50, max_value=50).fit(HOLES_FIT),
        np.full((2, 5), np.nan),
    ),
    "IterativeImputer linear": lambda: (
        impute.IterativeImputer(LinearRegression(), max_iter=3, min_value=-50, max_value=50).fit(HOLES_FIT),
        HOLES[:60],
    ),
    # -- projections
    "PCA": lambda: (decomposition.PCA(3).fit(X), FRESH),
    "PCA whiten": lambda: (decomposition.PCA(4, whiten=True).fit(X), FRESH),
    "IncrementalPCA": lambda: (decomposition.IncrementalPCA(3, whiten=True).fit(X), FRESH),
    "TruncatedSVD": lambda: (decomposition.TruncatedSVD(3).fit(X), FRESH),
    "FactorAnalysis": lambda: (decomposition.FactorAnalysis(2).fit(X), FRESH),
    "FastICA": lambda: (decomposition.FastICA(3, random_state=0).fit(X), FRESH),
    "SparsePCA": lambda: (decomposition.SparsePCA(3, random_state=0).fit(X), FRESH),
    "MiniBatchSparsePCA": lambda: (decomposition.MiniBatchSparsePCA(3, random_state=0).fit(X), FRESH),
    "DictionaryLearning": lambda: (
        decomposition.DictionaryLearning(3, transform_algorithm="threshold", max_iter=5, split_sign=True).fit(X),
        FRESH,
    ),
    "MiniBatchDictionaryLearning": lambda: (
        decomposition.MiniBatchDictionaryLearning(
            3, transform_algorithm="threshold", positive_code=True, fit_algorithm="cd", max_iter=5
        ).fit(X),
        FRESH,
    ),
    "SparseCoder": lambda: (
        decomposition.SparseCoder(X[:4], transform_algorithm="threshold", transform_alpha=0.5).fit(X),
        FRESH,
    ),
    **{
        f"KernelPCA {kernel}": lambda kernel=kernel: (decomposition.KernelPCA(3, kernel=kernel).fit(EVEN), EVEN * 0.7)  # type: ignore[misc]
        for kernel in ("linear", "poly", "rbf", "sigmoid", "cosine")
    },
    "LinearDiscriminantAnalysis": lambda: (LinearDiscriminantAnalysis().fit(X, THREE), FRESH),
    "LinearDiscriminantAnalysis eigen": lambda: (LinearDiscriminantAnalysis(solver="eigen").fit(X, THREE), FRESH),
    "NeighborhoodComponentsAnalysis": lambda: (NeighborhoodComponentsAnalysis(2, max_iter=3).fit(X, THREE), FRESH),
    "BernoulliRBM": lambda: (BernoulliRBM(4, n_iter=2, random_state=0).fit(np.abs(np.tanh(X))), X),
    "CCA": lambda: (cross_decomposition.CCA(2).fit(X, X[:, :2] ** 2), X),
    "PLSCanonical": lambda: (cross_decomposition.PLSCanonical(2).fit(X, X[:, :2] ** 2), X),
    "PLSRegression": lambda: (cross_decomposition.PLSRegression(2).fit(X, Y), X),
    "PLSSVD": lambda: (cross_decomposition.PLSSVD(2).fit(X, X[:, :2] ** 2), X),
    "GaussianRandomProjection": lambda: (random_projection.GaussianRandomProjection(3).fit(X), FRESH),
    "SparseRandomProjection": lambda: (random_projection.SparseRandomProjection(3).fit(X), FRESH),
    **{
        f"FeatureAgglomeration {pool.__name__}": lambda pool=pool: (  # type: ignore[misc]
            cluster.FeatureAgglomeration(2, pooling_func=pool).fit(X),
            FRESH,
        )
        for pool in (np.mean, np.max, np.median)
    },
    # -- kernels
    **{
        f"Nystroem {kernel}": lambda kernel=kernel: (  # type: ignore[misc]
            kernel_approximation.Nystroem(kernel=kernel, n_components=9, random_state=0).fit(np.abs(EVEN)),
            np.abs(EVEN) * 0.7,
        )
        for kernel in ("rbf", "poly", "sigmoid", "laplacian", "chi2", "cosine")
    },
    "RBFSampler": lambda: (kernel_approximation.RBFSampler(n_components=20, random_state=0).fit(X), FRESH[:66]),
    "SkewedChi2Sampler": lambda: (kernel_approximation.SkewedChi2Sampler(n_components=20).fit(POSITIVE), POSITIVE * 2),
    **{
        f"AdditiveChi2Sampler {steps}": lambda steps=steps: (  # type: ignore[misc]
            kernel_approximation.AdditiveChi2Sampler(sample_steps=steps).fit(POSITIVE),
            np.vstack([POSITIVE, np.zeros((1, 5))]),
        )
        for steps in (1, 2, 3)
    },
    "PolynomialCountSketch": lambda: (
        kernel_approximation.PolynomialCountSketch(degree=3, n_components=13, coef0=1, random_state=0).fit(X),
        X / 10,
    ),
    # -- selection
    "GenericUnivariateSelect": lambda: (feature_selection.GenericUnivariateSelect(mode="k_best", param=2).fit(X, Y), X),
    "SelectKBest": lambda: (feature_selection.SelectKBest(k=2).fit(X, Y), X),
    "SelectPercentile": lambda: (feature_selection.SelectPercentile(percentile=50).fit(X, Y), X),
    "SelectFpr": lambda: (feature_selection.SelectFpr().fit(X, Y), X),
    "SelectFdr": lambda: (feature_selection.SelectFdr().fit(X, Y), X),
    "SelectFwe": lambda: (feature_selection.SelectFwe().fit(X, Y), X),
    "VarianceThreshold": lambda: (feature_selection.VarianceThreshold(0.5).fit(NUMBERS), NUMBERS),
    "SelectFromModel": lambda: (feature_selection.SelectFromModel(RandomForestClassifier(5)).fit(X, Y), X),
    "RFE": lambda: (feature_selection.RFE(LogisticRegression(), n_features_to_select=2).fit(X, Y), X),
    "RFECV": lambda: (feature_selection.RFECV(LogisticRegression(), min_features_to_select=2, cv=3).fit(X, Y), X),
    "SequentialFeatureSelector": lambda: (
        feature_selection.SequentialFeatureSelector(LinearRegression(), n_features_to_select=2, cv=2).fit(X, Y),
        X,
    ),
    # -- composition
    "ColumnTransformer": lambda: (
        ColumnTransformer(
            [
                ("text", pre.OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_include=object)),
                ("part", make_pipeline(impute.SimpleImputer(), pre.StandardScaler()), ["part"]),
                ("gone", "drop", ["flag"]),
            ],
            remainder="passthrough",
        ).fit(MIXED),
        OTHER,
    ),
    "ColumnTransformer twice": lambda: (
        make_pipeline(
            ColumnTransformer(
                [("filled", impute.SimpleImputer(), ["part"]), ("rest", "passthrough", ["text", "whole"])],
                verbose_feature_names_out=False,
            ).set_output(transform="pandas"),
            ColumnTransformer(
                [("text", pre.OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["text"])],
                remainder=pre.StandardScaler(),
            ),
        ).fit(MIXED),
        OTHER,
    ),
    "ColumnTransformer of ints": lambda: (
        make_pipeline(
            ColumnTransformer([("kept", "passthrough", ["whole", "flag"])]),
            pre.OneHotEncoder(handle_unknown="ignore"),
        ).fit(MIXED),
        OTHER,
    ),
    "ColumnTransformer of text and ints": lambda: (
        make_pipeline(
            ColumnTransformer([("kept", "passthrough", ["text", "whole"])]),
            pre.OneHotEncoder(handle_unknown="ignore"),
        ).fit(MIXED),
        OTHER,
    ),
    "ColumnTransformer by mask, slice and place": lambda: (
        ColumnTransformer(
            [
                ("a", pre.StandardScaler(), [False, True, True, False]),
                ("b", pre.MaxAbsScaler(), slice("whole", "part")),
                ("c", pre.RobustScaler(), [-2]),
            ],
        ).fit(MIXED),
        OTHER,
    ),
    "ColumnTransformer behind an imputer": lambda: (
        make_pipeline(
            impute.SimpleImputer(strategy="most_frequent"),
            ColumnTransformer(
                [
                    ("n", pre.StandardScaler(), ["part", "whole"]),
                    ("c", pre.OneHotEncoder(sparse_output=False), ["text", "flag"]),
                ],
            ),
        )
        .set_output(transform="pandas")
        .fit(MIXED),
        MIXED,
    ),
    "FeatureUnion": lambda: (
        FeatureUnion(
            [("a", pre.StandardScaler()), ("b", decomposition.PCA(2)), ("c", "passthrough"), ("d", "drop")],
            transformer_weights={"b": 3.0},
        ).fit(X),
        FRESH,
    ),
    "Pipeline": lambda: (
        make_pipeline(
            "passthrough", pre.FunctionTransformer(np.log1p), pre.FunctionTransformer(), pre.StandardScaler()
        ).fit(POSITIVE),
        POSITIVE,
    ),
    "SimpleImputer of text NaN": lambda: (impute.SimpleImputer(strategy="most_frequent").fit(GAPS), GAPS),
    "imputed text encoded": lambda: (
        make_pipeline(impute.SimpleImputer(strategy="most_frequent"), pre.OneHotEncoder(handle_unknown="ignore")).fit(
            GAPS
        ),
        GAPS,
    ),
}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "NMF": (lambda: decomposition.NMF(2).fit(POSITIVE), "an optimisation per row"),
    "MiniBatchNMF": (lambda: decomposition.MiniBatchNMF(2).fit(POSITIVE), "an optimisation per row"),
    "LatentDirichletAllocation": (
        lambda: decomposition.LatentDirichletAllocation(2).fit(POSITIVE),
        "an optimisation per row",
    ),
    "LocallyLinearEmbedding": (lambda: manifold.LocallyLinearEmbedding().fit(X), "new equations for every row"),
    "Isomap": (lambda: manifold.Isomap().fit(X), "a graph of neighbours"),
    "TSNE": (manifold.TSNE, "has no ONNX form"),
    "KNeighborsTransformer": (lambda: neighbors.KNeighborsTransformer().fit(X), "a graph of neighbours"),
    "RadiusNeighborsTransformer": (lambda: neighbors.RadiusNeighborsTransformer().fit(X), "a graph of neighbours"),
    "DictVectorizer": (lambda: DictVectorizer().fit([{"a": 1}]), "takes dictionaries"),
    "FeatureHasher": (FeatureHasher, "takes dictionaries"),
    "LabelBinarizer": (lambda: pre.LabelBinarizer().fit(Y), "transforms targets"),
    "LabelEncoder": (lambda: pre.LabelEncoder().fit(Y), "transforms targets"),
    "MultiLabelBinarizer": (lambda: pre.MultiLabelBinarizer().fit([[1], [2]]), "transforms targets"),
    "PatchExtractor": (PatchExtractor, "several rows of one"),
    "FunctionTransformer": (lambda: pre.FunctionTransformer(np.cumsum), "calls `cumsum`"),
    "FunctionTransformer with arguments": (lambda: pre.FunctionTransformer(np.log, kw_args={"where": 1}), "kw_args"),
    "SparseCoder": (lambda: decomposition.SparseCoder(X[:4]), "an optimisation per row"),
    "KernelPCA": (lambda: decomposition.KernelPCA(2, kernel=lambda a, b: a @ b).fit(X), "a custom kernel"),
    "FeatureAgglomeration": (
        lambda: cluster.FeatureAgglomeration(pooling_func=lambda a, axis: a.max(axis)).fit(X),
        "pools with `<lambda>`",
    ),
    "IterativeImputer": (lambda: impute.IterativeImputer(sample_posterior=True).fit(HOLES_FIT), "at random"),
    "KNNImputer": (lambda: impute.KNNImputer(weights=lambda away: away).fit(HOLES_FIT), "a custom function"),
    "KNNImputer of a grid": (
        lambda: impute.KNNImputer().fit(np.where(HOLES_FIT > 0, 1, HOLES_FIT // 1e9)),
        "equally near",
    ),
    "SelectKBest": (lambda: feature_selection.SelectKBest(k=0).fit(X, Y), "keeps no column"),
    "OneHotEncoder": (lambda: pre.OneHotEncoder().fit(TEXT.repeat(5, axis=1)), "has text for categories"),
}
PREDICTORS = {  # that transform as well: tested with the others of their kind
    "Birch",
    "BisectingKMeans",
    "KMeans",
    "MiniBatchKMeans",
    "IsotonicRegression",
    "RandomTreesEmbedding",
    "StackingClassifier",
    "StackingRegressor",
    "VotingClassifier",
    "VotingRegressor",
}
TEXTS = {"HashingVectorizer", "TfidfTransformer"}  # in test_text.py


@pytest.mark.parametrize("name", first_of_each(CASES, lambda name: name.split()[0]))
def test_the_graph_computes_what_the_transformer_does(name: str) -> None:
    model, given = CASES[name]()
    loose = 2e-6 if "float32" in name else 1e-9
    assert difference(model, given, "transform") <= loose


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_graph_is_refused_with_the_reason(name: str) -> None:
    model, reason = REFUSED[name]
    with pytest.raises(StepError, match=reason) as caught:
        graph_of(model(), X, "transform")
    assert caught.value.hint and f"`{name.split()[0]}`" in str(caught.value)


def test_every_transformer_is_written_or_refused() -> None:
    every = {name for name, _ in all_estimators(type_filter="transformer")}
    known = {name.split()[0] for name in (*CASES, *REFUSED)}
    assert every <= known | PREDICTORS | TEXTS


@pytest.mark.parametrize("opset", [13, *(pytest.param(opset, marks=pytest.mark.slow) for opset in (15, 21))])
@pytest.mark.parametrize(
    "name",
    [
        "OneHotEncoder of a frame",
        "SimpleImputer of text",
        "SimpleImputer median",
        "KBinsDiscretizer onehot quantile",
        "QuantileTransformer normal",
        "SplineTransformer periodic 3",
        "KNNImputer",
        "Nystroem chi2",
        "ColumnTransformer",
        "IterativeImputer",
        "FeatureAgglomeration median",
        "PowerTransformer",
        "TargetEncoder three",
        "Normalizer max",
    ],
)
def test_any_opset_holds_the_same(name: str, opset: int) -> None:
    model, given = CASES[name]()
    assert difference(model, given, "transform", opset) <= 1e-9


@pytest.mark.parametrize("scaler", [pre.MinMaxScaler((0, 0.3)), pre.StandardScaler(), pre.MaxAbsScaler()])
def test_a_factor_beside_a_product_stays_in_binary64(scaler: Any) -> None:
    """ONNX Runtime 1.31 puts a scalar factor into the product behind it as a float32."""
    column = X[:, [1]] / 3
    model = make_pipeline(scaler, LinearRegression()).fit(column, X[:, 0])
    assert difference(model, column * 1000, "predict") <= 1e-12
    model = make_pipeline(pre.StandardScaler(), cross_decomposition.PLSRegression(1)).fit(X, X[:, 0])
    assert difference(model, FRESH, "predict") <= 1e-12


def test_integers_beyond_doubles_stay_apart() -> None:
    near = np.array([[2**53], [2**53 + 1], [-(2**62)], [2**62 + 1]])
    model = pre.OneHotEncoder(handle_unknown="ignore").fit(near[[0, 2]])
    assert difference(model, near, "transform") == 0
