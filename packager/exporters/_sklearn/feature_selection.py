# SPDX-License-Identifier: Apache-2.0
"""Selectors of `sklearn.feature_selection`: all keep the columns of `get_support()`, each in its own type."""

from __future__ import annotations

import importlib
from typing import Any

from packager.exporters._sklearn import refuse, writes
from packager.exporters._sklearn.builder import Builder, Frame

_SELECTORS = (
    "GenericUnivariateSelect",
    "RFE",
    "RFECV",
    "SelectFdr",
    "SelectFpr",
    "SelectFromModel",
    "SelectFwe",
    "SelectKBest",
    "SelectPercentile",
    "SequentialFeatureSelector",
    "VarianceThreshold",
)


@writes("transform", *_SELECTORS)
def select(builder: Builder, model: Any, frame: Frame) -> Frame:
    positions = importlib.import_module("numpy").flatnonzero(model.get_support()).tolist()
    if not positions:
        refuse(model, "keeps no column")
    return builder.select(frame, positions)
