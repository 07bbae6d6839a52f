# SPDX-License-Identifier: Apache-2.0
"""Kernel densities: the log of a sum of kernels about the fitted rows."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

from packager.exporters._sklearn import refuse, writes
from packager.exporters._sklearn.algebra import log_sum_exp, numbers, square
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.metrics import distances

_LOGARITHMS: dict[str, Callable[[Builder, Value], Value]] = {  # of the distance in bandwidths
    "gaussian": lambda builder, far: builder.mul(square(builder, far), -0.5),
    "exponential": lambda builder, far: builder.unary("Neg", far),
}


@writes("score_samples", "KernelDensity")
def score_kernels(builder: Builder, model: Any, frame: Frame) -> Value:
    """Sum kernels that reach everywhere; of others the library's own sums are rounding where they should be nought."""
    numpy = importlib.import_module("numpy")
    if model.kernel not in _LOGARITHMS:
        refuse(model, f"has a kernel, `{model.kernel}`, without an ONNX form here", hint="use the Gaussian kernel")
    points = numpy.asarray(model.tree_.data)
    found = distances(builder, model, numbers(builder, frame), points, model.metric, **(model.metric_params or {}))
    far = builder.div(found.plain(builder), float(model.bandwidth_))
    weights = model.tree_.sample_weight
    weights = numpy.ones(len(points)) if weights is None else numpy.asarray(weights)
    logs = builder.add(_LOGARITHMS[model.kernel](builder, far), numpy.log(weights))
    return builder.add(log_sum_exp(builder, logs), _log_norm(model, points.shape[1]) - math.log(weights.sum()))


def _log_norm(model: Any, features: int) -> float:
    """Return the logarithm of the kernel's height: the density, as the library says it, of one row at itself."""
    numpy = importlib.import_module("numpy")
    one = type(model)(bandwidth=model.bandwidth_, kernel=model.kernel, metric=model.metric)
    one.metric_params = model.metric_params
    return float(one.fit(numpy.zeros((1, features))).score_samples(numpy.zeros((1, features)))[0])
