# SPDX-License-Identifier: Apache-2.0
"""Mixtures of Gaussians: log probabilities of the components."""

from __future__ import annotations

import importlib
import math
from typing import Any

from packager.exporters._sklearn import position_of_largest, writes
from packager.exporters._sklearn.algebra import log_sum_exp, numbers, products, row_norms, square
from packager.exporters._sklearn.builder import Builder, Frame, Value

_KINDS = ("GaussianMixture", "BayesianGaussianMixture")


def _weighted(builder: Builder, model: Any, frame: Frame) -> Value:
    """Return the log probability of every component, its weight included."""
    distances = _distances(builder, model, numbers(builder, frame))
    return builder.add(builder.mul(distances, -0.5), _constants(model))


def _constants(model: Any) -> Any:
    """Return what the library adds to every component: what it says of a row whose distances are nought."""
    numpy = importlib.import_module("numpy")
    base = importlib.import_module("sklearn.mixture._gaussian_mixture")
    features = model.means_.shape[1]
    spread = base._compute_log_det_cholesky(model.precisions_cholesky_, model.covariance_type, features)
    found = model._estimate_log_weights() - 0.5 * features * math.log(2 * math.pi) + spread
    if hasattr(model, "degrees_of_freedom_"):
        digamma = importlib.import_module("scipy.special").digamma
        halves = 0.5 * (model.degrees_of_freedom_ - numpy.arange(features)[:, None])
        found = found - 0.5 * features * numpy.log(model.degrees_of_freedom_)
        log_lambda = features * numpy.log(2.0) + digamma(halves).sum(axis=0)
        found = found + 0.5 * (log_lambda - features / model.mean_precision_)
    return found


def _distances(builder: Builder, model: Any, given: Value) -> Value:
    """Return the squared Mahalanobis distance from every component, in the form the library computes it in."""
    means, factors = model.means_, model.precisions_cholesky_
    if model.covariance_type in ("full", "tied"):
        each = factors if model.covariance_type == "full" else [factors] * len(means)
        parts = zip(means, each, strict=True)
        return builder.concat(
            [row_norms(builder, builder.sub(builder.matmul(given, root), mean @ root)) for mean, root in parts]
        )
    precisions = factors**2
    if model.covariance_type == "diag":
        cross, squares = means * precisions, products(builder, square(builder, given), precisions)
        own = (means**2 * precisions).sum(axis=1)
    else:
        cross, squares = means * precisions[:, None], builder.mul(row_norms(builder, given), precisions)
        own = (means**2).sum(axis=1) * precisions
    return builder.add(builder.sub(own, builder.mul(products(builder, given, cross), 2.0)), squares)


@writes("predict", *_KINDS)
def predict_component(builder: Builder, model: Any, frame: Frame) -> Value:
    return position_of_largest(builder, _weighted(builder, model, frame))


@writes("predict_proba", *_KINDS)
def predict_probabilities(builder: Builder, model: Any, frame: Frame) -> Value:
    found = _weighted(builder, model, frame)
    return builder.unary("Exp", builder.sub(found, log_sum_exp(builder, found)))


@writes("score_samples", *_KINDS)
def score_samples(builder: Builder, model: Any, frame: Frame) -> Value:
    return log_sum_exp(builder, _weighted(builder, model, frame))
