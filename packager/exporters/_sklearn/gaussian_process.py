# SPDX-License-Identifier: Apache-2.0
"""Gaussian processes: kernels between new rows and the fitted ones, and the Laplace approximation's probabilities."""

from __future__ import annotations

import importlib
import math
from typing import Any

from packager.exporters._sklearn import both_sides, emit, position_above, refuse, write_labels, writes
from packager.exporters._sklearn.algebra import direct_squares, erf, numbers, products, row_norms, square
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.kernels import pairwise

_BINARY = "_BinaryGaussianProcessClassifierLaplace"


# -- kernels


def _kernel(builder: Builder, kernel: Any, value: Value, points: Any) -> Value:
    """Return the kernel of every row with every point."""
    kind = type(kernel).__name__
    if kind in ("Sum", "Product"):
        sides = [_kernel(builder, side, value, points) for side in (kernel.k1, kernel.k2)]
        return builder.binary("Add" if kind == "Sum" else "Mul", *sides)
    if kind == "Exponentiation":
        return builder.binary("Pow", _kernel(builder, kernel.kernel, value, points), float(kernel.exponent))
    if kind in ("ConstantKernel", "WhiteKernel"):
        level = float(kernel.constant_value) if kind == "ConstantKernel" else 0.0
        return builder.spread(value, [level] * len(points))
    if kind == "DotProduct":
        return builder.add(products(builder, value, points), float(kernel.sigma_0) ** 2)
    if kind == "PairwiseKernel":
        how = {"gamma": kernel.gamma, **(kernel.pairwise_kernels_kwargs or {})}
        return pairwise(builder, kernel, value, points, kernel.metric, how)
    if kind not in _STATIONARY:
        refuse(kernel, "has no ONNX form here", hint="use one of the kernels of `sklearn.gaussian_process.kernels`")
    found: Value = _STATIONARY[kind](builder, kernel, value, points)
    return found


def _scaled_squares(builder: Builder, kernel: Any, value: Value, points: Any) -> Value:
    scale = importlib.import_module("numpy").squeeze(kernel.length_scale).astype(float)
    return direct_squares(builder, builder.div(value, scale), points / scale)


def _rbf(builder: Builder, kernel: Any, value: Value, points: Any) -> Value:
    return builder.unary("Exp", builder.mul(_scaled_squares(builder, kernel, value, points), -0.5))


def _matern(builder: Builder, kernel: Any, value: Value, points: Any) -> Value:
    squares = _scaled_squares(builder, kernel, value, points)
    if kernel.nu == math.inf:
        return builder.unary("Exp", builder.mul(squares, -0.5))
    if kernel.nu not in (0.5, 1.5, 2.5):
        refuse(kernel, f"with `nu={kernel.nu}` needs Bessel functions", hint="choose nu of 0.5, 1.5, 2.5 or infinity")
    far = builder.mul(builder.unary("Sqrt", squares), math.sqrt(2 * kernel.nu))
    decay = builder.unary("Exp", builder.unary("Neg", far))
    if kernel.nu == 0.5:
        return decay
    polynomial = builder.add(far, 1.0)
    if kernel.nu == 2.5:
        polynomial = builder.add(polynomial, builder.div(square(builder, far), 3.0))
    return builder.mul(polynomial, decay)


def _rational(builder: Builder, kernel: Any, value: Value, points: Any) -> Value:
    scale = 2 * kernel.alpha * kernel.length_scale**2
    base = builder.add(builder.div(direct_squares(builder, value, points), float(scale)), 1.0)
    return builder.binary("Pow", base, -float(kernel.alpha))


def _periodic(builder: Builder, kernel: Any, value: Value, points: Any) -> Value:
    far = builder.unary("Sqrt", direct_squares(builder, value, points))
    wave = builder.unary("Sin", builder.mul(far, math.pi / float(kernel.periodicity)))
    return builder.unary("Exp", builder.mul(square(builder, builder.div(wave, float(kernel.length_scale))), -2.0))


_STATIONARY = {"RBF": _rbf, "Matern": _matern, "RationalQuadratic": _rational, "ExpSineSquared": _periodic}


def _own_variance(builder: Builder, kernel: Any, value: Value) -> Value:
    """Return the kernel of every row with itself."""
    kind = type(kernel).__name__
    if kind in ("Sum", "Product"):
        sides = [_own_variance(builder, side, value) for side in (kernel.k1, kernel.k2)]
        return builder.binary("Add" if kind == "Sum" else "Mul", *sides)
    if kind == "Exponentiation":
        return builder.binary("Pow", _own_variance(builder, kernel.kernel, value), float(kernel.exponent))
    if kind == "DotProduct":
        return builder.add(row_norms(builder, value), float(kernel.sigma_0) ** 2)
    if kind == "PairwiseKernel" and kernel.metric not in ("rbf", "laplacian", "cosine"):
        refuse(kernel, f"with `metric={kernel.metric!r}` has no ONNX form here for variances")
    levels = {"ConstantKernel": "constant_value", "WhiteKernel": "noise_level"}
    return builder.spread(value, [float(getattr(kernel, levels[kind])) if kind in levels else 1.0])


# -- models


@writes("predict", "GaussianProcessRegressor")
def predict_mean(builder: Builder, model: Any, frame: Frame) -> Value:
    numpy = importlib.import_module("numpy")
    if not hasattr(model, "X_train_"):
        refuse(model, "was never fitted")
    found = _kernel(builder, model.kernel_, numbers(builder, frame), model.X_train_)
    means = builder.matmul(found, model.alpha_.reshape(len(model.alpha_), -1))
    return builder.add(builder.mul(means, numpy.ravel(model._y_train_std)), numpy.ravel(model._y_train_mean))


def _latent_mean(builder: Builder, model: Any, given: Value) -> tuple[Value, Value]:
    """Return the kernel with the fitted rows, and the mean of the latent function."""
    found = _kernel(builder, model.kernel_, given, model.X_train_)
    return found, builder.matmul(found, (model.y_train_ - model.pi_).reshape(-1, 1))


@writes("predict", _BINARY)
def predict_sign(builder: Builder, model: Any, frame: Frame) -> Value:
    _, mean = _latent_mean(builder, model, numbers(builder, frame))
    return write_labels(builder, model.classes_, position_above(builder, mean))


@writes("predict_proba", _BINARY)
def predict_probabilities(builder: Builder, model: Any, frame: Frame) -> Value:
    """Integrate the logistic function over the latent one, as a sum of error functions."""
    numpy = importlib.import_module("numpy")
    fitted = importlib.import_module("sklearn.gaussian_process._gpc")
    given = numbers(builder, frame)
    found, mean = _latent_mean(builder, model, given)
    whitening = numpy.linalg.solve(model.L_, numpy.diag(model.W_sr_)).T
    explained = row_norms(builder, builder.matmul(found, whitening))
    variance = builder.sub(_own_variance(builder, model.kernel_, given), explained)
    alpha = builder.div(0.5, variance)
    slopes, weights = numpy.ravel(fitted.LAMBDAS), numpy.ravel(fitted.COEFS)
    steep = builder.unary("Sqrt", builder.div(alpha, builder.add(alpha, slopes**2)))
    curves = erf(builder, builder.mul(builder.mul(mean, slopes), steep))
    height = builder.div(
        builder.unary("Sqrt", builder.div(math.pi, alpha)),
        builder.mul(builder.unary("Sqrt", builder.mul(variance, 2.0 * math.pi)), 2.0),
    )
    parts = builder.mul(builder.mul(curves, height), weights)
    return both_sides(builder, builder.add(builder.reduce("ReduceSum", parts), 0.5 * float(weights.sum())))


@writes("predict", "GaussianProcessClassifier")
def predict_label(builder: Builder, model: Any, frame: Frame) -> Value:
    return emit(builder, model.base_estimator_, "predict", frame)


@writes("predict_proba", "GaussianProcessClassifier")
def predict_all(builder: Builder, model: Any, frame: Frame) -> Value:
    if model.n_classes_ > 2 and model.multi_class == "one_vs_one":
        refuse(model, "gives no probabilities with `multi_class='one_vs_one'`")
    return emit(builder, model.base_estimator_, "predict_proba", frame)
