# SPDX-License-Identifier: Apache-2.0
"""Rows at which predictors change their answer: by hyperplanes, between centres, at thresholds, on fitted rows.

A graph that is a little off shows it there first, and a row drawn at random seldom comes near. Rows keep a millionth
off what parts two answers: nearer than rounding, neither answer is the model's.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from packager.exporters._sklearn import refuse

Rows: TypeAlias = Any  # numpy.ndarray [rows, features]
_MOST = 256
_AT_ONCE = 256  # rows held against all fitted ones
_TIED = 1e-7  # relative: distances by brute force are differences of squares, which lose half of their digits
_BESIDE = (1e-6, -1e-6)
_LAST_BIT = 2.0**-53
_SEVERAL = 100  # rows that say what a model usually answers
_USUAL = 1e-6  # of a usual answer: a difference of two large numbers may be small, and is no rounding for that
_ABSOLUTE, _RELATIVE = 1e-5, 1e-4  # what an answer may be off by, where a recipe states nothing else


def critical_rows(estimator: Any) -> Rows | None:
    """Return rows [rows, features] of the estimator's own input that decide something; None where none are known.

    Members of ensembles are included in turn, where they are given the same columns.
    """
    found = [rows for rows in (find(estimator) for find in _FINDERS) if rows is not None and len(rows)]
    width = getattr(estimator, "n_features_in_", None)
    for member in _members(estimator):
        rows = critical_rows(member)
        if rows is not None and width in (None, rows.shape[1]):
            found.append(rows)
    found = [rows for rows in found if rows.shape[1] == found[0].shape[1]]
    return _thin(importlib.import_module("numpy").concatenate(found)) if found else None


def tied_rows(model: Any, given: Any) -> Any:
    """Say of every row whether the nearest neighbours are no definite set: the next one is just as far as the last.

    The library takes whichever its search meets first, so an answer there is not the model's. `given` is what the
    model is called with; steps of pipelines and members of ensembles are included in turn.
    """
    numpy = importlib.import_module("numpy")
    found = numpy.zeros(given.shape[0], dtype=bool)  # a sparse matrix has no length
    for part, own in _and_inside(model, given):
        count = getattr(part, "n_neighbors", None)
        if isinstance(count, int) and hasattr(part, "kneighbors") and count < part.n_samples_fit_:
            far, _ = part.kneighbors(own, n_neighbors=count + 1)
            found |= numpy.isclose(far[:, -1], far[:, -2], rtol=_TIED, atol=1e-12)
        if type(part).__name__ == "KNNImputer":
            found |= _tied_donors(numpy, part, numpy.asarray(own, dtype="float64"))
    return found


def refuse_rounding(model: Any, given: Any) -> None:
    """Raise StepError where a linear model answers with what rounding left of terms that cancel.

    A sum of doubles is off by up to 2**-53 of its terms' sizes (Higham, Accuracy and Stability of Numerical
    Algorithms, 4.2), and in which order it is added up is the processor's choice. That counts beside what the model
    usually answers on these rows. `given` is as for `tied_rows`.
    """
    numpy = importlib.import_module("numpy")
    for part, own in _and_inside(model, given):
        if not hasattr(part, "coef_") or not hasattr(part, "intercept_") or hasattr(own, "tocsr"):
            continue
        weights, offsets = numpy.atleast_2d(part.coef_), numpy.ravel(part.intercept_)
        rows = numpy.asarray(own)
        if weights.dtype.kind != "f" or rows.dtype.kind not in "fiub" or rows.shape[1:] != weights.shape[1:]:
            continue
        sizes = abs(rows.astype("float64")) @ abs(weights).T + abs(offsets)
        answers = abs(rows.astype("float64") @ weights.T + offsets)
        if len(answers) < _SEVERAL:
            continue  # a few rows do not say what is usual
        usual = float(numpy.median(answers))
        lost = _LAST_BIT * sizes > numpy.maximum(_ABSOLUTE + _RELATIVE * answers, _USUAL * usual)
        if (lost & numpy.isfinite(sizes)).any():
            position = int(numpy.flatnonzero(lost & numpy.isfinite(sizes))[0])
            refuse(
                part,
                f"adds up terms of {sizes.flat[position]:.1e} to an answer of {answers.flat[position]:.1e}: doubles "
                "keep 16 digits, so that what it answers there is rounding",
                hint="scale the columns before their powers and products, for example with `StandardScaler` in "
                "front of `PolynomialFeatures`; fitting warns of an ill-conditioned matrix",
            )


def _and_inside(model: Any, given: Any) -> Iterator[tuple[Any, Any]]:
    """Yield a model and every step and member inside it, each with what it is given."""
    yield model, given
    own = given
    for name, step in getattr(model, "steps", ()):
        if name == model.steps[-1][0] or hasattr(step, "transform"):
            yield from _and_inside(step, own)
        if name != model.steps[-1][0] and hasattr(step, "transform"):
            own = step.transform(own)
    for part, columns in _parts(model, given):
        yield from _and_inside(part, columns)
    for member in _members(model):
        if given.shape[1:] == (getattr(member, "n_features_in_", None),):
            yield from _and_inside(member, given)


def _parts(model: Any, given: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the transformers side by side in a model, each with what it is given."""
    index = importlib.import_module("sklearn.utils")._safe_indexing
    side_by_side = [(step, index(given, columns, axis=1)) for _, step, columns in getattr(model, "transformers_", ())]
    side_by_side += [(step, given) for _, step in getattr(model, "transformer_list", ())]
    yield from ((step, own) for step, own in side_by_side if hasattr(step, "transform"))


def _tied_donors(numpy: Any, model: Any, given: Any) -> Any:
    """Say of every row whether a missing value is filled from rows of which the last is as near as the next."""
    metrics = importlib.import_module("sklearn.metrics.pairwise")
    found = numpy.zeros(len(given), dtype=bool)
    holes = numpy.isnan(given) if model.missing_values != model.missing_values else given == model.missing_values
    for start in range(0, len(given), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        far = metrics.nan_euclidean_distances(given[part], model._fit_X, missing_values=model.missing_values)
        for position in numpy.flatnonzero(holes[part].any(axis=0)):
            near = numpy.sort(far[:, ~model._mask_fit_X[:, position]], axis=1)
            if near.shape[1] > model.n_neighbors:
                last, after = near[:, model.n_neighbors - 1], near[:, model.n_neighbors]
                found[part] |= holes[part, position] & numpy.isclose(last, after, rtol=_TIED, atol=1e-12)
    return found


def _members(estimator: Any) -> list[Any]:
    """Return the estimators inside one that see its input."""
    inside = [getattr(estimator, name, None) for name in ("best_estimator_", "estimator_", "regressor_", "nn_fit")]
    inside += [part.estimator for part in getattr(estimator, "calibrated_classifiers_", ())]
    if type(estimator).__name__ == "FrozenEstimator":
        inside.append(estimator.estimator)
    members = getattr(estimator, "estimators_", ())
    inside += list(members.ravel() if hasattr(members, "ravel") else members)
    return [member for member in inside if member is not None and not isinstance(member, str)]


def _thin(rows: Rows) -> Rows:
    numpy = importlib.import_module("numpy")
    rows = rows[numpy.isfinite(rows).all(axis=1)]
    return rows if len(rows) <= _MOST else rows[numpy.linspace(0, len(rows) - 1, _MOST).astype(int)]


# -- by what fitting left


def _by_hyperplanes(estimator: Any) -> Rows | None:
    """Return points on each plane w·x + b = 0, along the normal and the heaviest axes, moved to either side of it."""
    planes = _planes(estimator)
    if planes is None:
        return None
    numpy = importlib.import_module("numpy")
    found = []
    for weights, bias in planes:
        norm = float(weights @ weights)
        if not norm:
            continue
        directions = [weights, *(numpy.eye(len(weights))[axis] for axis in numpy.argsort(-numpy.abs(weights))[:4])]
        for way in directions:
            slope = float(weights @ way)
            if slope:
                foot = -bias / slope * way
                step = way / numpy.linalg.norm(way) * max(1.0, float(numpy.abs(foot).max()))
                found += [foot + beside * step for beside in _BESIDE]
    return numpy.array(found) if found else None


def _planes(estimator: Any) -> list[tuple[Any, float]] | None:
    """Return the normals and offsets between classes: of each score, and of each two scores that compete."""
    numpy = importlib.import_module("numpy")
    if not (hasattr(estimator, "decision_function") and hasattr(estimator, "intercept_")):
        return None
    weights = getattr(estimator, "coef_", None)
    if weights is None:
        return None
    weights = numpy.atleast_2d(weights.toarray() if hasattr(weights, "toarray") else weights).astype(float)
    offsets = numpy.broadcast_to(numpy.ravel(estimator.intercept_), (len(weights),))
    planes = list(zip(weights, offsets.tolist(), strict=True))
    pairs = [(one, other) for one in range(len(planes)) for other in range(one)][:_MOST]
    between = [(weights[one] - weights[other], float(offsets[one] - offsets[other])) for one, other in pairs]
    return planes if len(planes) == 1 else between


def _between_centres(estimator: Any) -> Rows | None:
    """Return centres, and points half way between two of them, a little to either side."""
    numpy = importlib.import_module("numpy")
    names = ("cluster_centers_", "subcluster_centers_", "centroids_", "means_", "theta_")
    centres = next((getattr(estimator, name) for name in names if hasattr(estimator, name)), None)
    if centres is None or not len(numpy.atleast_1d(centres)):
        return None
    return _and_midpoints(numpy, numpy.asarray(centres, dtype="float64"))


def _on_fitted_rows(estimator: Any) -> Rows | None:
    """Return rows that a model keeps and compares with, and the points half way to a neighbour of another answer."""
    numpy = importlib.import_module("numpy")
    names = ("_fit_X", "X_train_", "support_vectors_", "X_fit_")
    kept = next((getattr(estimator, name) for name in names if getattr(estimator, name, None) is not None), None)
    if kept is None or getattr(estimator, "kernel", None) == "precomputed":
        return None
    kept = numpy.asarray(kept.toarray() if hasattr(kept, "toarray") else kept, dtype="float64")
    chosen = kept if len(kept) <= _MOST // 2 else kept[numpy.linspace(0, len(kept) - 1, _MOST // 2).astype(int)]
    return _and_midpoints(numpy, chosen)


def _and_midpoints(numpy: Any, points: Any) -> Rows:
    """Return points, and for each the half way to its nearest other one, a little to either side."""
    if len(points) < 2:
        return points
    squares = ((points[:, None, :] - points[None, :, :]) ** 2).sum(axis=2)
    numpy.fill_diagonal(squares, numpy.inf)
    nearest = points[squares.argmin(axis=1)]
    half, way = (points + nearest) / 2, points - nearest
    return numpy.concatenate([points, *(half + beside * way for beside in _BESIDE)])


def _at_thresholds(estimator: Any) -> Rows | None:
    """Return the thresholds of isotonic regression, the numbers next to them, and some beyond."""
    numpy = importlib.import_module("numpy")
    if not hasattr(estimator, "X_thresholds_"):
        return None
    at = numpy.asarray(estimator.X_thresholds_, dtype="float64")
    beyond = numpy.array([at[0] - 1.0, at[-1] + 1.0])
    around = [at, numpy.nextafter(at, -numpy.inf), numpy.nextafter(at, numpy.inf), (at[1:] + at[:-1]) / 2, beyond]
    return numpy.concatenate(around).reshape(-1, 1)


_FINDERS: tuple[Callable[[Any], Rows | None], ...] = (
    _by_hyperplanes,
    _between_centres,
    _on_fitted_rows,
    _at_thresholds,
)
