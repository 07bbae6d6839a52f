# SPDX-License-Identifier: Apache-2.0
"""Projections: decompositions, random projections, cross decomposition; all are matrix products.

Products are computed in float64 and rounded once to float32 where the whole matrix is that.
"""

from __future__ import annotations

import importlib
from typing import Any

from packager.exporters._sklearn import refuse, writes
from packager.exporters._sklearn.algebra import smallest
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.kernels import pairwise
from packager.exporters._sklearn.numeric import bounded, matrix_and_wide
from packager.exporters._sklearn.preprocessing import centred

_THRESHOLD = "use `transform_algorithm='threshold'`, which is a formula"


def _dense(matrix: Any) -> Any:
    numpy = importlib.import_module("numpy")
    return numpy.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype="float64")


@writes("transform", "PCA", "IncrementalPCA")
def project_on_components(builder: Builder, model: Any, frame: Frame) -> Value:
    """Project, then subtract the projected mean, as the library does; whiten by the spread of each component."""
    numpy = importlib.import_module("numpy")
    own, given = matrix_and_wide(builder, frame)
    components = _dense(model.components_)
    found = builder.matmul(given, components.T)
    if model.mean_ is not None:
        found = builder.sub(found, _dense(model.mean_).reshape(1, -1) @ components.T)
    if model.whiten:
        least = numpy.finfo(numpy.asarray(model.explained_variance_).dtype).eps
        found = builder.div(found, numpy.maximum(numpy.sqrt(_dense(model.explained_variance_)), least))
    return builder.cast(found, own.dtype)


@writes("transform", "TruncatedSVD", "GaussianRandomProjection", "SparseRandomProjection")
def project(builder: Builder, model: Any, frame: Frame) -> Value:
    own, given = matrix_and_wide(builder, frame)
    return builder.cast(builder.matmul(given, _dense(model.components_).T), own.dtype)


@writes("transform", "FastICA")
def unmix(builder: Builder, model: Any, frame: Frame) -> Value:
    own, given = matrix_and_wide(builder, frame)
    given = builder.sub(given, model.mean_) if model.whiten else given
    return builder.cast(builder.matmul(given, _dense(model.components_).T), own.dtype)


@writes("transform", "FactorAnalysis")
def expect_factors(builder: Builder, model: Any, frame: Frame) -> Value:
    numpy = importlib.import_module("numpy")
    own, given = matrix_and_wide(builder, frame)
    weights = _dense(model.components_) / model.noise_variance_
    spread = numpy.linalg.inv(numpy.eye(len(weights)) + weights @ _dense(model.components_).T)
    found = builder.matmul(builder.matmul(builder.sub(given, model.mean_), weights.T), spread)
    return builder.cast(found, own.dtype)


@writes("transform", "SparsePCA", "MiniBatchSparsePCA")
def solve_ridge(builder: Builder, model: Any, frame: Frame) -> Value:
    """Solve for the scores by ridge regression on the components: one matrix for all rows."""
    numpy = importlib.import_module("numpy")
    own, given = matrix_and_wide(builder, frame)
    components = _dense(model.components_)
    gram = components @ components.T + float(model.ridge_alpha) * numpy.eye(len(components))
    solved = numpy.linalg.solve(gram, components)
    return builder.cast(builder.matmul(builder.sub(given, model.mean_), solved.T), own.dtype)


@writes("transform", "DictionaryLearning", "MiniBatchDictionaryLearning", "SparseCoder")
def encode_sparsely(builder: Builder, model: Any, frame: Frame) -> Value:
    """Write the codes of `threshold`; the other algorithms solve an optimisation per row."""
    if model.transform_algorithm != "threshold":
        refuse(model, f"solves an optimisation per row (`{model.transform_algorithm}`)", hint=_THRESHOLD)
    own, given = matrix_and_wide(builder, frame)
    words = _dense(model.dictionary if hasattr(model, "dictionary") else model.components_)
    alpha = model.transform_alpha if model.transform_alpha is not None else getattr(model, "alpha", 1.0)
    found = builder.matmul(given, words.T)
    shrunk = bounded(builder, builder.sub(builder.unary("Abs", found), float(alpha)), 0.0)
    code = builder.mul(builder.unary("Sign", found), shrunk)
    code = bounded(builder, code, 0.0) if model.positive_code else code
    if model.split_sign:
        negative = builder.unary("Neg", bounded(builder, code, None, 0.0))
        code = builder.concat([bounded(builder, code, 0.0), negative])
    return builder.cast(code, own.dtype)


@writes("transform", "KernelPCA")
def project_kernel(builder: Builder, model: Any, frame: Frame) -> Value:
    numpy = importlib.import_module("numpy")
    own, given = matrix_and_wide(builder, frame)
    parameters = {"gamma": getattr(model, "gamma_", model.gamma), "degree": model.degree, "coef0": model.coef0}
    between = pairwise(builder, model, given, model.X_fit_, model.kernel, parameters)
    vectors, values = _dense(model.eigenvectors_), _dense(model.eigenvalues_)
    scale = numpy.where(values != 0, 1 / numpy.sqrt(numpy.where(values != 0, values, 1)), 0.0)
    found = builder.matmul(centred(builder, model._centerer, between), vectors * scale)
    return builder.cast(found, own.dtype)


@writes("transform", "CCA", "PLSCanonical", "PLSRegression", "PLSSVD")
def rotate(builder: Builder, model: Any, frame: Frame) -> Value:
    own, given = matrix_and_wide(builder, frame)
    given = builder.div(builder.sub(given, _dense(model._x_mean)), _dense(model._x_std))
    rotations = model.x_rotations_ if hasattr(model, "x_rotations_") else model.x_weights_
    found = builder.matmul(given, _dense(rotations))
    return found if type(model).__name__ == "PLSSVD" else builder.cast(found, own.dtype)


@writes("transform", "FeatureAgglomeration")
def pool_features(builder: Builder, model: Any, frame: Frame) -> Value:
    """Pool the columns of every cluster by the function of the model: mean, largest, smallest, sum or median."""
    numpy = importlib.import_module("numpy")
    own, given = matrix_and_wide(builder, frame)
    kinds = {
        "mean": "ReduceMean",
        "max": "ReduceMax",
        "amax": "ReduceMax",
        "min": "ReduceMin",
        "amin": "ReduceMin",
        "sum": "ReduceSum",
    }
    name = getattr(model.pooling_func, "__name__", "?")
    if model.pooling_func is not getattr(numpy, name, None) or name not in {*kinds, "median"}:
        refuse(model, f"pools with `{name}`, which has no ONNX form here", hint="pool with `numpy.mean`")
    groups = [numpy.flatnonzero(model.labels_ == label).tolist() for label in numpy.unique(model.labels_)]
    parts = [builder.take(given, group) for group in groups]
    pooled = [_median(builder, part) if name == "median" else builder.reduce(kinds[name], part) for part in parts]
    return builder.cast(builder.concat(pooled), "float64" if name == "mean" else own.dtype)


def _median(builder: Builder, part: Value) -> Value:
    """Return the median of every row; none may be NaN, which scikit-learn refuses here."""
    ordered, _ = smallest(builder, part, part.width)
    middle = builder.take(ordered, [(part.width - 1) // 2, part.width // 2])
    return builder.reduce("ReduceMean", middle)
