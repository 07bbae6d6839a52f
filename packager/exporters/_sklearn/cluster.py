# SPDX-License-Identifier: Apache-2.0
"""Clusterers that assign new rows: to the nearest centre."""

from __future__ import annotations

import importlib
from typing import Any

from packager.exporters._sklearn import refuse, writes
from packager.exporters._sklearn.algebra import expanded_distances, numbers, products, squared_distances
from packager.exporters._sklearn.builder import Builder, Frame, Value

_MEANS = ("KMeans", "MiniBatchKMeans")


def nearest(builder: Builder, value: Value, points: Any) -> Value:
    """Return the position of the nearest point, the first of equals, as `pairwise_distances_argmin` finds it."""
    return builder.position_of("ArgMin", expanded_distances(builder, value, points))


def _nearest_mean(builder: Builder, value: Value, centres: Any) -> Value:
    """Return the position of the least |c|² - 2 x·c, the first of equals, as Lloyd's iteration finds it."""
    numpy = importlib.import_module("numpy")
    centres = numpy.asarray(centres, dtype="float64")
    scores = builder.add(builder.mul(products(builder, value, centres), -2.0), (centres**2).sum(axis=1))
    return builder.position_of("ArgMin", scores)


@writes("predict", *_MEANS)
def predict_cluster(builder: Builder, model: Any, frame: Frame) -> Value:
    return _nearest_mean(builder, numbers(builder, frame), model.cluster_centers_)


@writes("predict", "MeanShift", "AffinityPropagation")
def predict_nearest(builder: Builder, model: Any, frame: Frame) -> Value:
    if not hasattr(model, "cluster_centers_"):
        refuse(model, "predicts nothing with `affinity='precomputed'`")
    if not len(model.cluster_centers_):
        return builder.spread(frame.blocks[0], [-1], "int64")
    return nearest(builder, numbers(builder, frame), model.cluster_centers_)


@writes("predict", "Birch")
def predict_subcluster(builder: Builder, model: Any, frame: Frame) -> Value:
    position = nearest(builder, numbers(builder, frame), model.subcluster_centers_)
    return builder.look_up(model.subcluster_labels_.astype("int64"), position)


@writes("predict", "BisectingKMeans")
def predict_by_halves(builder: Builder, model: Any, frame: Frame) -> Value:
    """Descend the tree of bisections: at every node the nearer of two centres."""
    numpy = importlib.import_module("numpy")
    given, mean = numbers(builder, frame), getattr(model, "_X_mean", 0.0)

    def descend(node: Any) -> Value:
        if node.left is None:
            return builder.spread(given, [int(node.label)], "int64")
        right = _nearest_mean(builder, given, numpy.vstack([node.left.center, node.right.center]) + mean)
        return builder.where(builder.cast(right, "bool"), descend(node.right), descend(node.left))

    return descend(model._bisecting_tree)


@writes("transform", *_MEANS, "BisectingKMeans")
def distances_from_centres(builder: Builder, model: Any, frame: Frame) -> Value:
    return _euclidean(builder, numbers(builder, frame), model.cluster_centers_)


@writes("transform", "Birch")
def distances_from_subclusters(builder: Builder, model: Any, frame: Frame) -> Value:
    return _euclidean(builder, numbers(builder, frame), model.subcluster_centers_)


def _euclidean(builder: Builder, value: Value, centres: Any) -> Value:
    return builder.unary("Sqrt", squared_distances(builder, value, centres))
