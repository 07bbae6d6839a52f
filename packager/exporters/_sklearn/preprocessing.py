# SPDX-License-Identifier: Apache-2.0
"""Scalers, encoders and other transformers of `sklearn.preprocessing`."""

from __future__ import annotations

from typing import Any

from packager.exporters._sklearn import writes
from packager.exporters._sklearn.builder import Builder, Frame, Value


@writes("transform", "StandardScaler")
def standardise(builder: Builder, model: Any, frame: Frame) -> Value:
    """Subtract the mean, then divide by the scale, in that order: thresholds behind it see every rounding."""
    found = builder.matrix(frame)
    if model.with_mean and model.mean_ is not None:
        found = builder.sub(found, model.mean_)
    return builder.div(found, model.scale_) if model.with_std and model.scale_ is not None else found
