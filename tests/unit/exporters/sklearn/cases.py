# SPDX-License-Identifier: Apache-2.0
"""Predictors to try: how to make each, what it is fitted on, and how near its graph comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import (
    calibration,
    cluster,
    compose,
    covariance,
    cross_decomposition,
    discriminant_analysis,
    dummy,
    ensemble,
    feature_selection,
    gaussian_process,
    isotonic,
    kernel_ridge,
    linear_model,
    mixture,
    model_selection,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    semi_supervised,
    svm,
    tree,
)
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import kernels

ROWS, FRESH, WIDTH = 160, 2000, 4
TREES = {  # tried in another file
    "DecisionTreeClassifier",
    "DecisionTreeRegressor",
    "ExtraTreeClassifier",
    "ExtraTreeRegressor",
    "ExtraTreesClassifier",
    "ExtraTreesRegressor",
    "GradientBoostingClassifier",
    "GradientBoostingRegressor",
    "HistGradientBoostingClassifier",
    "HistGradientBoostingRegressor",
    "IsolationForest",
    "RandomForestClassifier",
    "RandomForestRegressor",
}
WITHOUT_PREDICTIONS = (  # they say nothing of rows they were not fitted on
    "AgglomerativeClustering",
    "DBSCAN",
    "FeatureAgglomeration",
    "HDBSCAN",
    "OPTICS",
    "SpectralClustering",
)


@dataclass(frozen=True)
class Case:
    """An estimator to fit on `data`; numbers may differ by `tolerance`, labels not at all."""

    name: str
    make: Callable[[], Any]
    data: str
    methods: Sequence[str] = ()
    tolerance: float = 1e-7
    opset: int = 18
    names: str = ""

    @property
    def labels(self) -> bool:
        return self.data.partition("-")[0] not in ("number", "numbers", "line", "positive")


# -- data


def _rows(seed: int, count: int) -> Any:
    generator = np.random.default_rng(seed)
    centres = np.array([[0.0, 0, 1, 3], [2, 1, -1, 3], [-1, 2, 0, 2.5]])
    return centres[generator.integers(0, 3, count)] + generator.normal(size=(count, WIDTH)) * [1.0, 1.0, 2.0, 0.5]


def _score(rows: Any) -> Any:
    return rows[:, 0] - 0.7 * rows[:, 1] + 0.3 * np.sin(2 * rows[:, 2]) + 0.1 * rows[:, 3]


def rows_of(data: str, seed: int, count: int) -> Any:
    kind = data.partition("-")[0]
    rows = _rows(seed, count)
    if data.endswith("-integers"):
        return np.round(rows).astype("int64")
    if data.endswith("-float32"):
        return rows.astype("float32")
    if kind == "line":
        return rows[:, :1]
    if kind == "counts":
        return np.floor(np.abs(rows) * 2)
    if kind == "codes":
        return np.random.default_rng(seed).integers(0, [3, 4, 2, 5], (count, WIDTH))
    return rows + 1e4 if data.endswith("-far") else rows


def targets_of(data: str, rows: Any) -> Any:
    """Return targets by the first word of a data set's name."""
    rows = np.asarray(rows, dtype="float64") - (1e4 if data.endswith("-far") else 0)
    score = np.exp(rows[:, 0]) if data == "line" else _score(rows)
    noise = np.random.default_rng(7).normal(size=len(score))
    noisy = score + 0.5 * noise
    three = np.digitize(noisy, np.quantile(noisy, [0.4, 0.75]))
    texts = np.array(["spruce", "\u00e9rable", "alder"])[three]
    found = {
        "two": (noisy > np.median(noisy)).astype(int),
        "flags": noisy > np.median(noisy),
        "three": three * 2 + 1,
        "text": texts,
        "counts": three,
        "codes": three,
        "labels": np.stack([noisy > 0, noisy + noise > 0.3, score > -0.5], axis=1).astype(int),
        "outputs": np.stack([three, (noise > 0).astype(int) + 3], axis=1),
        "names": np.stack([texts, np.where(noise > 0, "yes", "no")], axis=1),
        "number": noisy,
        "line": noisy,
        "positive": np.exp(0.3 * noisy),
        "numbers": np.stack([noisy, score * 2 - 1, noise + score], axis=1),
        "some": np.where(np.arange(len(score)) % 3 == 0, three, -1),
    }
    return found.get(data.partition("-")[0])


def is_continuous(data: str) -> bool:
    """Say whether any row of doubles is a row of such data."""
    return data.partition("-")[0] not in ("counts", "codes") and not data.endswith(("-integers", "-float32"))


def training(data: str) -> tuple[Any, Any]:
    rows = rows_of(data, 1, ROWS)
    return rows, targets_of(data, rows)


def fresh(data: str) -> Any:
    """Return rows of another seed, and the rows of the training again: no distance, and a distance of nought."""
    return np.concatenate([rows_of(data, 2, FRESH), rows_of(data, 1, ROWS)])


# -- the table

_logistic = linear_model.LogisticRegression
_tie = pipeline.make_pipeline


def _plain(*classes: Any, data: str, **arguments: Any) -> list[Case]:
    return [Case(f"{kind.__name__}-{data}", lambda kind=kind: kind(**arguments), data) for kind in classes]


def _of(data: str, tolerance: float = 1e-7, methods: Sequence[str] = (), **made: Callable[[], Any]) -> list[Case]:
    return [Case(f"{name}-{data}", make, data, methods, tolerance) for name, make in made.items()]


LINEAR = [
    *_plain(
        linear_model.LinearRegression,
        linear_model.Ridge,
        linear_model.RidgeCV,
        linear_model.Lasso,
        linear_model.LassoCV,
        linear_model.LassoLars,
        linear_model.LassoLarsCV,
        linear_model.LassoLarsIC,
        linear_model.Lars,
        linear_model.LarsCV,
        linear_model.ElasticNet,
        linear_model.ElasticNetCV,
        linear_model.BayesianRidge,
        linear_model.ARDRegression,
        linear_model.HuberRegressor,
        linear_model.TheilSenRegressor,
        linear_model.QuantileRegressor,
        linear_model.SGDRegressor,
        linear_model.PassiveAggressiveRegressor,
        linear_model.OrthogonalMatchingPursuit,
        linear_model.OrthogonalMatchingPursuitCV,
        linear_model.RANSACRegressor,
        svm.LinearSVR,
        data="number",
    ),
    *_plain(
        linear_model.LinearRegression,
        linear_model.Ridge,
        linear_model.RidgeCV,
        linear_model.Lasso,
        linear_model.Lars,
        linear_model.OrthogonalMatchingPursuit,
        linear_model.MultiTaskLasso,
        linear_model.MultiTaskLassoCV,
        linear_model.MultiTaskElasticNet,
        linear_model.MultiTaskElasticNetCV,
        data="numbers",
    ),
    *_plain(linear_model.PoissonRegressor, linear_model.GammaRegressor, linear_model.TweedieRegressor, data="positive"),
    *_of(
        "positive",
        tweedie=lambda: linear_model.TweedieRegressor(power=1.5),
        identity=lambda: linear_model.TweedieRegressor(link="identity"),
    ),
    *[
        case
        for data in ("two", "three", "text", "flags")
        for case in _plain(
            linear_model.LogisticRegression,
            linear_model.RidgeClassifier,
            linear_model.RidgeClassifierCV,
            linear_model.SGDClassifier,
            linear_model.Perceptron,
            linear_model.PassiveAggressiveClassifier,
            svm.LinearSVC,
            data=data,
        )
    ],
    Case("LogisticRegressionCV", lambda: linear_model.LogisticRegressionCV(Cs=3, cv=3), "three"),
    *_plain(linear_model.RidgeClassifier, data="labels"),
    *[
        Case(f"{loss}-{data}", lambda loss=loss: linear_model.SGDClassifier(loss=loss, random_state=0), data)
        for loss in ("log_loss", "modified_huber")
        for data in ("two", "three")
    ],
    Case("liblinear-two", lambda: _logistic(solver="liblinear"), "two"),
    Case("SGDOneClassSVM", lambda: linear_model.SGDOneClassSVM(random_state=0), "groups"),
    Case("without intercept", lambda: linear_model.LinearRegression(fit_intercept=False), "number"),
    Case("LogisticRegression-integers", _logistic, "three-integers"),
    Case("LogisticRegression-float32", _logistic, "three-float32", tolerance=1e-6),
]
MACHINES = [
    *[
        Case(f"SVC-{kernel}-{data}", lambda kernel=kernel: svm.SVC(kernel=kernel, coef0=0.5), data)
        for kernel in ("rbf", "linear", "poly", "sigmoid")
        for data in ("two", "text")
    ],
    Case("SVC-far", svm.SVC, "three-far"),
    Case("SVC-ovo", lambda: svm.SVC(decision_function_shape="ovo"), "three"),
    Case("SVC-break_ties", lambda: svm.SVC(break_ties=True), "three"),
    Case("SVC-gamma auto", lambda: svm.SVC(gamma="auto", C=10), "three"),
    Case("SVC-probability-two", lambda: svm.SVC(probability=True, random_state=0), "two"),
    Case("SVC-probability-three", lambda: svm.SVC(probability=True, random_state=0), "text"),
    Case("SVC-probability-13", lambda: svm.SVC(probability=True, random_state=0), "three", opset=13),
    Case("NuSVC-probability", lambda: svm.NuSVC(nu=0.3, probability=True, random_state=0), "three"),
    Case("NuSVC", lambda: svm.NuSVC(nu=0.3), "two"),
    *_plain(svm.SVR, svm.NuSVR, data="number"),
    Case("SVR-poly", lambda: svm.SVR(kernel="poly", degree=2), "number"),
    Case("OneClassSVM", lambda: svm.OneClassSVM(nu=0.2), "groups"),
]
_metrics = ("manhattan", "chebyshev", "cosine", "canberra", "sqeuclidean", "l2")
NEIGHBOURS = [
    *[
        Case(
            f"KNeighborsClassifier-{weights}-{algorithm}-{data}",
            lambda weights=weights, algorithm=algorithm: neighbors.KNeighborsClassifier(
                7, weights=weights, algorithm=algorithm
            ),
            data,
            tolerance=1e-6,
        )
        for weights in ("uniform", "distance")
        for algorithm in ("kd_tree", "ball_tree", "brute")
        for data in ("text", "two")
    ],
    *[
        Case(
            f"KNeighborsRegressor-{weights}-{data}",
            lambda weights=weights: neighbors.KNeighborsRegressor(weights=weights),
            data,
        )
        for weights in ("uniform", "distance")
        for data in ("number", "numbers")
    ],
    *[
        Case(
            f"KNeighborsClassifier-{metric}",
            lambda metric=metric: neighbors.KNeighborsClassifier(metric=metric, weights="distance"),
            "three",
        )
        for metric in _metrics
    ],
    Case("KNeighborsRegressor-minkowski", lambda: neighbors.KNeighborsRegressor(p=3, weights="distance"), "number"),
    Case(
        "KNeighborsRegressor-weights",
        lambda: neighbors.KNeighborsRegressor(
            p=3, weights="distance", metric_params={"w": np.array([1.0, 2.0, 0.5, 1.0])}
        ),
        "number",
    ),
    Case(
        "KNeighborsRegressor-seuclidean",
        lambda: neighbors.KNeighborsRegressor(
            metric="seuclidean", weights="distance", metric_params={"V": np.array([1.0, 2.0, 0.5, 1.0])}
        ),
        "number",
    ),
    Case(
        "KNeighborsRegressor-mahalanobis",
        lambda: neighbors.KNeighborsRegressor(
            metric="mahalanobis", weights="distance", metric_params={"VI": np.diag([1.0, 2.0, 0.5, 1.0]) + 0.1}
        ),
        "number",
    ),
    *[
        Case(f"KNeighborsClassifier-{data}", neighbors.KNeighborsClassifier, data)
        for data in ("outputs", "names", "labels", "flags")
    ],
    *[
        Case(
            f"RadiusNeighborsClassifier-{weights}-{algorithm}",
            lambda weights=weights, algorithm=algorithm: neighbors.RadiusNeighborsClassifier(
                1.5, weights=weights, algorithm=algorithm, outlier_label="alder"
            ),
            "text",
            tolerance=1e-6,
        )
        for weights in ("uniform", "distance")
        for algorithm in ("kd_tree", "brute")
    ],
    Case(
        "RadiusNeighborsClassifier-unknown outlier",
        lambda: neighbors.RadiusNeighborsClassifier(1.0, outlier_label=-9),
        "three",
    ),
    Case(
        "RadiusNeighborsClassifier-outputs",
        lambda: neighbors.RadiusNeighborsClassifier(1.5, outlier_label="most_frequent"),
        "outputs",
    ),
    *[
        Case(
            f"RadiusNeighborsRegressor-{weights}-{data}",
            lambda weights=weights: neighbors.RadiusNeighborsRegressor(1.5, weights=weights),
            data,
        )
        for weights in ("uniform", "distance")
        for data in ("number", "numbers")
    ],
    Case("LocalOutlierFactor", lambda: neighbors.LocalOutlierFactor(novelty=True), "groups"),
    Case(
        "LocalOutlierFactor-contamination",
        lambda: neighbors.LocalOutlierFactor(5, novelty=True, contamination=0.1, p=1),
        "groups",
    ),
    *_plain(neighbors.NearestCentroid, data="text"),
    Case("NearestCentroid-manhattan", lambda: neighbors.NearestCentroid(metric="manhattan"), "text"),
    Case("NearestCentroid-priors", lambda: neighbors.NearestCentroid(priors="empirical", shrink_threshold=0.2), "two"),
    *[
        Case(
            f"KernelDensity-{kernel}",
            lambda kernel=kernel: neighbors.KernelDensity(bandwidth=1.7, kernel=kernel),
            "groups",
        )
        for kernel in ("gaussian", "exponential")
    ],
    Case("KernelDensity-manhattan", lambda: neighbors.KernelDensity(metric="manhattan"), "groups"),
    Case(
        "NeighborhoodComponentsAnalysis",
        lambda: neighbors.NeighborhoodComponentsAnalysis(2, random_state=0),
        "three",
        ["transform"],
    ),
]
BAYES = [
    *[case for data in ("two", "text") for case in _plain(naive_bayes.GaussianNB, naive_bayes.BernoulliNB, data=data)],
    *_plain(naive_bayes.MultinomialNB, naive_bayes.ComplementNB, data="counts"),
    Case("BernoulliNB-as is", lambda: naive_bayes.BernoulliNB(binarize=None), "codes"),
    Case("CategoricalNB", lambda: naive_bayes.CategoricalNB(min_categories=6), "codes"),
]
NEURAL = [
    *[
        Case(
            f"MLPClassifier-{activation}-{data}",
            lambda activation=activation: neural_network.MLPClassifier(
                (8, 5), activation=activation, max_iter=60, random_state=0
            ),
            data,
        )
        for activation, data in (("relu", "two"), ("tanh", "text"), ("logistic", "labels"), ("identity", "flags"))
    ],
    *[
        Case(
            f"MLPRegressor-{data}",
            lambda: neural_network.MLPRegressor(hidden_layer_sizes=(6,), max_iter=60, random_state=0),
            data,
        )
        for data in ("number", "numbers")
    ],
    Case(
        "MLPRegressor-poisson",
        lambda: neural_network.MLPRegressor(hidden_layer_sizes=(6,), loss="poisson", max_iter=60, random_state=0),
        "positive",
    ),
    Case("BernoulliRBM", lambda: neural_network.BernoulliRBM(3, random_state=0), "groups", ["transform"]),
]
_gp = gaussian_process.GaussianProcessRegressor
_shapes = {
    "rbf": kernels.RBF([1.0, 2.0, 1.5, 0.7]) + kernels.WhiteKernel(0.1),
    "matern05": kernels.Matern(2.0, nu=0.5),
    "matern15": kernels.Matern(2.0, nu=1.5) + kernels.WhiteKernel(0.1),
    "matern25": kernels.Matern(2.0, nu=2.5) + kernels.WhiteKernel(0.1),
    "maternrbf": kernels.Matern(2.0, nu=np.inf) + kernels.WhiteKernel(0.1),
    "rational": kernels.RationalQuadratic(1.5, 0.8) + kernels.WhiteKernel(0.1),
    "periodic": kernels.ExpSineSquared(1.5, 3.0) + kernels.WhiteKernel(20),
    "linear": (kernels.DotProduct(1.0) ** 2) * kernels.ConstantKernel(0.5) + kernels.WhiteKernel(0.5),
    "pairwise": kernels.PairwiseKernel(0.3, metric="laplacian") + kernels.WhiteKernel(0.5),
}
PROCESSES = [
    *[
        Case(
            f"GaussianProcessRegressor-{name}",
            lambda shape=shape: _gp(shape, optimizer=None, normalize_y=True),
            "number",
        )
        for name, shape in _shapes.items()
    ],
    Case("GaussianProcessRegressor", lambda: _gp(random_state=0), "number", tolerance=1e-6),
    Case("GaussianProcessRegressor-numbers", lambda: _gp(_shapes["rbf"], optimizer=None), "numbers"),
    *[
        Case(
            f"GaussianProcessClassifier-{data}",
            lambda: gaussian_process.GaussianProcessClassifier(1.5 * kernels.RBF(1.3), optimizer=None),
            data,
        )
        for data in ("two", "text")
    ],
    Case(
        "GaussianProcessClassifier-pairs",
        lambda: gaussian_process.GaussianProcessClassifier(optimizer=None, multi_class="one_vs_one"),
        "three",
        ["predict"],
    ),
]
_lda, _qda = discriminant_analysis.LinearDiscriminantAnalysis, discriminant_analysis.QuadraticDiscriminantAnalysis
FITS = [
    *[
        Case(
            f"LinearDiscriminantAnalysis-{solver}-{data}",
            lambda solver=solver: _lda(solver=solver),
            data,
            ["predict", "predict_proba", "decision_function", *(["transform"] if solver != "lsqr" else [])],
        )
        for solver in ("svd", "lsqr", "eigen")
        for data in ("two", "text")
    ],
    *_of("two", QuadraticDiscriminantAnalysis=_qda),
    *_of("text", qda=lambda: _qda(reg_param=0.1)),
    *_of(
        "numbers",
        PLSRegression=lambda: cross_decomposition.PLSRegression(2),
        PLSCanonical=lambda: cross_decomposition.PLSCanonical(2),
        CCA=lambda: cross_decomposition.CCA(2),
    ),
    *_of("number", pls=lambda: cross_decomposition.PLSRegression(2)),
    *_of("groups", EllipticEnvelope=lambda: covariance.EllipticEnvelope(random_state=0)),
    *_of(
        "line",
        IsotonicRegression=lambda: isotonic.IsotonicRegression(out_of_bounds="clip"),
        falling=lambda: isotonic.IsotonicRegression(increasing=False, out_of_bounds="nan"),
    ),
    *[
        Case(
            f"KernelRidge-{kernel}", lambda kernel=kernel: kernel_ridge.KernelRidge(kernel=kernel, alpha=0.5), "number"
        )
        for kernel in ("linear", "rbf", "poly", "sigmoid", "laplacian", "cosine")
    ],
    *_of("numbers", KernelRidge=lambda: kernel_ridge.KernelRidge(kernel="rbf", gamma=0.2)),
    *_of(
        "some",
        LabelPropagation=lambda: semi_supervised.LabelPropagation(gamma=1.0, max_iter=2000),
        LabelSpreading=lambda: semi_supervised.LabelSpreading(gamma=1.0),
        nearest=lambda: semi_supervised.LabelSpreading(kernel="knn", n_neighbors=20),
    ),
    *_of("some", SelfTrainingClassifier=lambda: semi_supervised.SelfTrainingClassifier(_logistic())),
    *[
        Case(
            f"DummyClassifier-{strategy}-{data}",
            lambda strategy=strategy: dummy.DummyClassifier(strategy=strategy),
            data,
        )
        for strategy in ("prior", "most_frequent")
        for data in ("text", "outputs")
    ],
    *_of("text", constant=lambda: dummy.DummyClassifier(strategy="constant", constant="alder")),
    *_of("text", methods=["predict_proba"], chance=lambda: dummy.DummyClassifier(strategy="uniform")),
    *_of("number", DummyRegressor=lambda: dummy.DummyRegressor(strategy="median")),
    *_of("numbers", DummyRegressor=dummy.DummyRegressor),
]
GROUPS = [
    *[
        Case(kind.__name__, lambda kind=kind: kind(5, random_state=0), "groups", ["predict", "transform"])
        for kind in (cluster.KMeans, cluster.MiniBatchKMeans, cluster.BisectingKMeans)
    ],
    Case("Birch", lambda: cluster.Birch(n_clusters=4), "groups", ["predict", "transform"], 1e-6),
    Case("MeanShift", lambda: cluster.MeanShift(bandwidth=2.0), "groups"),
    Case("AffinityPropagation", lambda: cluster.AffinityPropagation(random_state=0), "groups"),
    *[
        Case(
            f"{kind.__name__}-{shape}",
            lambda kind=kind, shape=shape: kind(n_components=3, covariance_type=shape, random_state=0),
            "groups",
        )
        for kind in (mixture.GaussianMixture, mixture.BayesianGaussianMixture)
        for shape in ("full", "tied", "diag", "spherical")
    ],
    Case(
        "BayesianGaussianMixture-distribution",
        lambda: mixture.BayesianGaussianMixture(
            n_components=3, weight_concentration_prior_type="dirichlet_distribution", random_state=0
        ),
        "groups",
    ),
]


# -- estimators around others


def _members() -> list[tuple[str, Any]]:
    return [("line", _logistic()), ("bayes", naive_bayes.GaussianNB()), ("near", neighbors.KNeighborsClassifier(15))]


def _regressors() -> list[tuple[str, Any]]:
    return [("line", linear_model.Ridge()), ("near", neighbors.KNeighborsRegressor()), ("vectors", svm.SVR())]


def _scaled() -> Any:
    return _tie(preprocessing.StandardScaler(), svm.SVC())


def _calibrated(inner: Any, **how: Any) -> Callable[[], Any]:
    return lambda: calibration.CalibratedClassifierCV(inner, cv=3, **how)


def _frozen() -> Any:
    return FrozenEstimator(naive_bayes.GaussianNB().fit(*training("text")))


def _target(**how: Any) -> Callable[[], Any]:
    return lambda: compose.TransformedTargetRegressor(linear_model.Ridge(), **how)


_stump = linear_model.SGDClassifier(loss="log_loss", alpha=0.05, random_state=0)
ENSEMBLES = [
    *[
        Case(
            f"VotingClassifier-{voting}-{data}",
            lambda voting=voting: ensemble.VotingClassifier(_members(), voting=voting, weights=[1, 2.5, 2]),
            data,
        )
        for voting in ("hard", "soft")
        for data in ("two", "text")
    ],
    Case(
        "VotingClassifier-dropped",
        lambda: ensemble.VotingClassifier([*_members(), ("none", "drop")], weights=[1, 1, 1, 5]),
        "text",
    ),
    Case(
        "VotingClassifier-transform",
        lambda: ensemble.VotingClassifier(_members(), voting="soft"),
        "text",
        ["transform"],
    ),
    Case("VotingRegressor", lambda: ensemble.VotingRegressor(_regressors(), weights=[0.2, 0.5, 0.3]), "number"),
    Case("VotingRegressor-transform", lambda: ensemble.VotingRegressor(_regressors()), "number", ["transform"]),
    *[
        Case(
            f"StackingClassifier-{data}-{passthrough}",
            lambda passthrough=passthrough: ensemble.StackingClassifier(
                [*_members(), ("vectors", svm.SVC())], passthrough=passthrough, cv=3
            ),
            data,
        )
        for data in ("two", "text")
        for passthrough in (True, False)
    ],
    Case(
        "StackingClassifier-predict",
        lambda: ensemble.StackingClassifier(_members(), stack_method="predict", cv=3),
        "text",
    ),
    Case("StackingRegressor", lambda: ensemble.StackingRegressor(_regressors(), passthrough=True), "number"),
    Case(
        "BaggingClassifier", lambda: ensemble.BaggingClassifier(_logistic(), max_features=0.5, random_state=0), "text"
    ),
    Case(
        "BaggingClassifier-votes", lambda: ensemble.BaggingClassifier(linear_model.Perceptron(), random_state=0), "text"
    ),
    Case(
        "BaggingClassifier-few",
        lambda: ensemble.BaggingClassifier(naive_bayes.GaussianNB(var_smoothing=0.1), max_samples=4, random_state=0),
        "text",
    ),
    Case(
        "BaggingRegressor",
        lambda: ensemble.BaggingRegressor(linear_model.Ridge(), max_features=3, random_state=0),
        "number",
    ),
    *[
        Case(
            f"AdaBoostClassifier-{data}",
            lambda: ensemble.AdaBoostClassifier(_stump, n_estimators=8, random_state=0),
            data,
        )
        for data in ("two", "text", "flags")
    ],
    Case(
        "AdaBoostRegressor",
        lambda: ensemble.AdaBoostRegressor(linear_model.Ridge(), n_estimators=8, random_state=0),
        "number",
    ),
    *[
        Case(f"CalibratedClassifierCV-{method}-{data}-{name}", _calibrated(inner, method=method), data)
        for method in ("sigmoid", "isotonic")
        for data in ("two", "text")
        for name, inner in (("decision", _scaled()), ("bayes", naive_bayes.GaussianNB()))
    ],
    *[
        Case(f"CalibratedClassifierCV-temperature-{data}-{name}", _calibrated(inner, method="temperature"), data)
        for data in ("two", "text")
        for name, inner in (("decision", svm.LinearSVC()), ("bayes", naive_bayes.GaussianNB()))
        if "temperature" in str(calibration.CalibratedClassifierCV._parameter_constraints["method"])
    ],
    Case("CalibratedClassifierCV-one", _calibrated(_scaled(), ensemble=False), "text"),
    Case("CalibratedClassifierCV-frozen", lambda: calibration.CalibratedClassifierCV(_frozen()), "text"),
    Case("FrozenEstimator", _frozen, "text", ["predict", "predict_proba"]),
    *[
        Case(
            f"FixedThresholdClassifier-{method}-{label}",
            lambda method=method, label=label: model_selection.FixedThresholdClassifier(
                _logistic(), threshold=0.3, response_method=method, pos_label=label
            ),
            "two",
        )
        for method in ("predict_proba", "decision_function")
        for label in (None, 0)
    ],
    Case(
        "TunedThresholdClassifierCV",
        lambda: model_selection.TunedThresholdClassifierCV(_logistic(), scoring="balanced_accuracy"),
        "two",
    ),
    Case("GridSearchCV", lambda: model_selection.GridSearchCV(_logistic(), {"C": [0.1, 1]}, cv=3), "text"),
    Case(
        "RandomizedSearchCV",
        lambda: model_selection.RandomizedSearchCV(svm.SVR(), {"C": [0.1, 1, 10]}, n_iter=2, cv=3, random_state=0),
        "number",
    ),
    Case("RFE", lambda: feature_selection.RFE(_logistic(), n_features_to_select=2), "text"),
    Case("RFECV", lambda: feature_selection.RFECV(linear_model.Ridge()), "number"),
    Case("Pipeline", _scaled, "text"),
    *[
        Case(f"TransformedTargetRegressor-{name}", _target(**how), "positive")
        for name, how in {
            "log1p": {"func": np.log1p, "inverse_func": np.expm1},
            "log": {"func": np.log, "inverse_func": np.exp},
            "sqrt": {"func": np.sqrt, "inverse_func": np.square},
            "cbrt": {"func": lambda y: y**3, "inverse_func": np.cbrt, "check_inverse": False},
            "none": {},
            "standard": {"transformer": preprocessing.StandardScaler()},
            "range": {"transformer": preprocessing.MinMaxScaler()},
            "size": {"transformer": preprocessing.MaxAbsScaler()},
            "robust": {"transformer": preprocessing.RobustScaler()},
            "power": {"transformer": preprocessing.PowerTransformer()},
            "box-cox": {"transformer": preprocessing.PowerTransformer("box-cox", standardize=False)},
            "quantiles": {"transformer": preprocessing.QuantileTransformer(n_quantiles=50)},
            "normal": {"transformer": preprocessing.QuantileTransformer(n_quantiles=50, output_distribution="normal")},
            "steps": {"transformer": _tie(preprocessing.StandardScaler(), preprocessing.MinMaxScaler())},
        }.items()
    ],
    Case("TransformedTargetRegressor-numbers", _target(transformer=preprocessing.StandardScaler()), "numbers"),
]
MULTIPLE = [
    *[
        Case(f"{kind.__name__}-{data}-{name}", lambda kind=kind, inner=inner: kind(inner), data)
        for kind in (multiclass.OneVsRestClassifier, multiclass.OneVsOneClassifier)
        for data in ("two", "text")
        for name, inner in (("line", _logistic()), ("bayes", naive_bayes.GaussianNB()), ("ridge", linear_model.Ridge()))
    ],
    Case("OneVsRestClassifier-labels", lambda: multiclass.OneVsRestClassifier(_logistic()), "labels"),
    Case(
        "OneVsRestClassifier-labels-bayes", lambda: multiclass.OneVsRestClassifier(naive_bayes.GaussianNB()), "labels"
    ),
    *[
        Case(
            f"OutputCodeClassifier-{data}",
            lambda: multiclass.OutputCodeClassifier(_logistic(), code_size=3, random_state=0),
            data,
        )
        for data in ("two", "text")
    ],
    *[
        Case(f"MultiOutputClassifier-{data}", lambda: multioutput.MultiOutputClassifier(_logistic()), data)
        for data in ("labels", "outputs", "names")
    ],
    Case("MultiOutputRegressor", lambda: multioutput.MultiOutputRegressor(svm.SVR()), "numbers"),
    Case("ClassifierChain", lambda: multioutput.ClassifierChain(_logistic(), order="random", random_state=1), "labels"),
    Case(
        "ClassifierChain-probabilities",
        lambda: multioutput.ClassifierChain(_logistic(), chain_method="predict_proba"),
        "labels",
    ),
    Case("RegressorChain", lambda: multioutput.RegressorChain(svm.SVR(), order=[2, 0, 1]), "numbers"),
]
_forest = ensemble.RandomForestClassifier(6, random_state=0)
_tree = tree.DecisionTreeClassifier(max_depth=4, random_state=0)
GROVES = [  # members that are trees
    *[
        Case(f"trees-{name}-{data}", make, data)
        for data in ("two", "text")
        for name, make in {
            "bag": lambda: ensemble.BaggingClassifier(n_estimators=5, max_features=3, random_state=0),
            "boost": lambda: ensemble.AdaBoostClassifier(n_estimators=6, random_state=0),
            "deep boost": lambda: ensemble.AdaBoostClassifier(_tree, n_estimators=4, random_state=0),
            "vote": lambda: ensemble.VotingClassifier([("a", _forest), ("b", _tree), ("c", _logistic())]),
            "stack": lambda: ensemble.StackingClassifier([("a", _forest), ("b", svm.SVC())], _forest, cv=3),
            "calibrated": _calibrated(_forest, method="isotonic"),
            "rest": lambda: multiclass.OneVsRestClassifier(_tree),
            "pairs": lambda: multiclass.OneVsOneClassifier(_tree),
            "codes": lambda: multiclass.OutputCodeClassifier(_forest, random_state=0),
        }.items()
    ],
    Case("trees-boost-number", lambda: ensemble.AdaBoostRegressor(n_estimators=7, random_state=0), "number"),
    Case("trees-bag-number", lambda: ensemble.BaggingRegressor(n_estimators=4, random_state=0), "number"),
    Case("trees-outputs", lambda: multioutput.MultiOutputClassifier(_forest), "outputs"),
    Case("trees-chain", lambda: multioutput.ClassifierChain(_tree), "labels"),
]
_OLDEST = [
    Case(f"{case.name}-opset {opset}", case.make, case.data, case.methods, case.tolerance, opset)
    for case in (
        *MACHINES[:2],
        NEIGHBOURS[0],
        NEIGHBOURS[3],
        *BAYES[:1],
        *NEURAL[:1],
        *PROCESSES[:2],
        *FITS[:1],
        *GROUPS[:2],
        *ENSEMBLES[:1],
        *MULTIPLE[:1],
    )
    for opset in (13, 21)
]
CASES = [
    *LINEAR,
    *MACHINES,
    *NEIGHBOURS,
    *BAYES,
    *NEURAL,
    *PROCESSES,
    *FITS,
    *GROUPS,
    *ENSEMBLES,
    *MULTIPLE,
    *GROVES,
    *_OLDEST,
]


# -- refusals


def _own(one: Any, other: Any) -> Any:
    return one @ other.T


REFUSED_CASES = [
    Case(
        "density", lambda: neighbors.KernelDensity(kernel="tophat"), "groups", ["score_samples"], names="KernelDensity"
    ),
    Case("kernel", lambda: svm.SVC(kernel=_own), "two", ["predict"], names="SVC"),
    Case(
        "weights",
        lambda: neighbors.KNeighborsRegressor(weights=np.exp),
        "number",
        ["predict"],
        names="KNeighborsRegressor",
    ),
    Case(
        "metric", lambda: neighbors.KNeighborsClassifier(metric="correlation"), "two", ["predict"], names="correlation"
    ),
    Case(
        "chance",
        lambda: dummy.DummyClassifier(strategy="stratified"),
        "two",
        ["predict", "predict_proba"],
        names="DummyClassifier",
    ),
    Case("matern", lambda: _gp(kernels.Matern(nu=0.7), optimizer=None), "number", ["predict"], names="Matern"),
    Case(
        "function",
        lambda: compose.TransformedTargetRegressor(linear_model.Ridge(), func=lambda y: y, inverse_func=lambda y: y),
        "number",
        ["predict"],
        names="FunctionTransformer",
    ),
]
