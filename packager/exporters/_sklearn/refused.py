# SPDX-License-Identifier: Apache-2.0
"""Transformers that have no ONNX form, each with its reason and a remedy."""

from __future__ import annotations

from typing import Any

from packager.exporters._sklearn import OTHERWISE, refuse, writes
from packager.exporters._sklearn.builder import Builder, Frame, Value

_PROJECT = "use a projection with a formula, such as `PCA` or `TruncatedSVD`"
_TARGETS = "leave it out of the pipeline: classifiers keep their labels themselves"
_NEIGHBOURS = "use an estimator that finds neighbours itself"
_REASONS = {
    "NMF": ("solves an optimisation per row", _PROJECT),
    "MiniBatchNMF": ("solves an optimisation per row", _PROJECT),
    "LatentDirichletAllocation": ("solves an optimisation per row", _PROJECT),
    "LocallyLinearEmbedding": ("solves new equations for every row", _PROJECT),
    "Isomap": ("walks through a graph of neighbours for every row", _PROJECT),
    "KNeighborsTransformer": ("makes a graph of neighbours, not columns", _NEIGHBOURS),
    "RadiusNeighborsTransformer": ("makes a graph of neighbours, not columns", _NEIGHBOURS),
    "DictVectorizer": ("takes dictionaries, and a graph takes columns", "use `OneHotEncoder` on columns"),
    "FeatureHasher": ("takes dictionaries, and a graph takes columns", "use `OneHotEncoder` on columns"),
    "LabelBinarizer": ("transforms targets, not inputs", _TARGETS),
    "LabelEncoder": ("transforms targets, not inputs", _TARGETS),
    "MultiLabelBinarizer": ("transforms targets, not inputs", _TARGETS),
    "PatchExtractor": ("makes several rows of one", OTHERWISE),
}


@writes("transform", *_REASONS)
def refuse_by_name(_: Builder, model: Any, frame: Frame) -> Value:
    return refuse(model, *_REASONS[type(model).__name__])
