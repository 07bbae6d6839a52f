# SPDX-License-Identifier: Apache-2.0
"""Maps of `sklearn.kernel_approximation`."""

from __future__ import annotations

import importlib
import math
from typing import Any

from packager.exporters._sklearn import writes
from packager.exporters._sklearn.builder import Builder, Frame, Value
from packager.exporters._sklearn.kernels import pairwise
from packager.exporters._sklearn.numeric import cosine, matrix_and_wide

_INTERVALS = {1: 0.8, 2: 0.5, 3: 0.4}  # of AdditiveChi2Sampler, by its steps


@writes("transform", "Nystroem")
def project_on_landmarks(builder: Builder, model: Any, frame: Frame) -> Value:
    own, given = matrix_and_wide(builder, frame)
    parameters = {**(model.kernel_params or {}), **_stated(model)}
    between = pairwise(builder, model, given, model.components_, model.kernel, parameters)
    return builder.cast(builder.matmul(between, model.normalization_.T), own.dtype)


def _stated(model: Any) -> dict[str, Any]:
    found = {name: getattr(model, name) for name in ("gamma", "coef0", "degree")}
    return {name: value for name, value in found.items() if value is not None}


def _waves(builder: Builder, model: Any, given: Value, scale: float) -> Value:
    projected = builder.add(builder.matmul(given, model.random_weights_), model.random_offset_)
    return builder.mul(cosine(builder, projected), scale)


@writes("transform", "RBFSampler")
def sample_radial(builder: Builder, model: Any, frame: Frame) -> Value:
    own, given = matrix_and_wide(builder, frame)
    return builder.cast(_waves(builder, model, given, math.sqrt(2.0 / model.n_components)), own.dtype)


@writes("transform", "SkewedChi2Sampler")
def sample_skewed(builder: Builder, model: Any, frame: Frame) -> Value:
    own, given = matrix_and_wide(builder, frame)
    logarithm = builder.unary("Log", builder.add(given, float(model.skewedness)))
    return builder.cast(_waves(builder, model, logarithm, math.sqrt(2.0 / model.n_components)), own.dtype)


@writes("transform", "AdditiveChi2Sampler")
def sample_additive(builder: Builder, model: Any, frame: Frame) -> Value:
    """Write a root and a cosine and sine per step of every column; zero stays zero."""
    own, given = matrix_and_wide(builder, frame)
    stated = getattr(model, "sample_interval_", model.sample_interval)
    interval = float(stated if stated is not None else _INTERVALS[model.sample_steps])
    zero = builder.binary("Equal", given, 0.0)
    made = [builder.unary("Sqrt", builder.mul(given, interval))]
    turns = builder.mul(builder.unary("Log", builder.where(zero, 1.0, given)), interval)
    twice = builder.mul(builder.mul(given, 2.0), interval)
    for step in range(1, model.sample_steps):
        factor = builder.unary("Sqrt", builder.div(twice, math.cosh(math.pi * step * interval)))
        angle = builder.mul(turns, float(step))
        made += [builder.mul(factor, cosine(builder, angle)), builder.mul(factor, builder.unary("Sin", angle))]
    return builder.cast(builder.concat(made), own.dtype)


@writes("transform", "PolynomialCountSketch")
def sketch(builder: Builder, model: Any, frame: Frame) -> Value:
    """Multiply the spectra of the count sketches; their Fourier transforms are matrices like the sketches."""
    numpy = importlib.import_module("numpy")
    _, given = matrix_and_wide(builder, frame)
    given = builder.mul(given, math.sqrt(model.gamma))
    if model.coef0 != 0:
        given = builder.concat([given, builder.spread(given, [math.sqrt(model.coef0)])])
    size = int(model.n_components)
    turns = numpy.exp(-2j * numpy.pi * (numpy.outer(numpy.arange(size), numpy.arange(size)) % size) / size)
    real, imaginary = _spectrum(builder, model, given, turns, 0)
    for degree in range(1, model.degree):
        other, along = _spectrum(builder, model, given, turns, degree)
        real, imaginary = (
            builder.sub(builder.mul(real, other), builder.mul(imaginary, along)),
            builder.add(builder.mul(real, along), builder.mul(imaginary, other)),
        )
    return builder.add(builder.matmul(real, turns.real / size), builder.matmul(imaginary, turns.imag / size))


def _spectrum(builder: Builder, model: Any, given: Value, turns: Any, degree: int) -> tuple[Value, Value]:
    """Return real and imaginary part of the Fourier transform of one count sketch."""
    rows = turns[model.indexHash_[degree]] * model.bitHash_[degree][:, None]
    return builder.matmul(given, rows.real), builder.matmul(given, rows.imag)
