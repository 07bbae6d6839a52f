# SPDX-License-Identifier: Apache-2.0
"""Count how much of a model for tables the cases of a measurement exercise: columns, categories, classes, leaves."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

from packager.exporters import Arrays, Feeds
from packager.exporters._tables import nested
from packager.exporters._tables.table import Table


class Coverage:
    """Counts what rows reach. `add` every case that was run, then read the `totals`."""

    def __init__(self, model: Any, table: Table) -> None:
        self._model, self._table = model, table
        self._columns: dict[str, set[Any]] = {port.name: set() for port in table.ports}
        self._classes: set[Any] = set()
        self._leaves: list[set[int]] = []

    def add(self, feeds: Feeds, outputs: Arrays) -> None:
        """Count a case: its inputs, and what the source answers."""
        for name, seen in self._columns.items():
            if len(seen) < _MANY:
                seen.update(feeds[name].reshape(-1).tolist())
        if outputs[0].ndim == 1 and outputs[0].dtype.kind != "f":
            self._classes.update(outputs[0].tolist())
        leaves = self._reached(feeds)
        if leaves is not None:
            self._leaves = self._leaves or [set() for _ in range(leaves.shape[1])]
            for seen, column in zip(self._leaves, leaves.T, strict=True):
                seen.update(column.tolist())

    def _reached(self, feeds: Feeds) -> Any:
        """Return the leaf of every row in every tree of the last step, None where that is not available."""
        numpy, last = importlib.import_module("numpy"), _last(self._model)
        if not hasattr(last, "apply") or not _tree_sizes(last):
            return None
        given = self._table.given(feeds)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for step in _before(self._model):
                given = step.transform(given)
            found = numpy.asarray(last.apply(given))
        return found.reshape(len(found), -1)

    def totals(self) -> dict[str, dict[str, int]]:
        """Return numbers reached and numbers there are, by what."""
        varied = sum(len(seen) > 1 for seen in self._columns.values())
        found = {"columns": {"reached": varied, "of": len(self._columns)}}
        known = [item for part in nested.inner_estimators(self._model) for item in _categories(part)]
        if known:
            seen = set().union(*self._columns.values())
            found["categories"] = {"reached": sum(item in seen for item in known), "of": len(known)}
        classes = getattr(self._model, "classes_", None)
        if self._classes and classes is not None and not isinstance(classes, list):
            found["classes"] = {"reached": len(self._classes), "of": len(classes)}
        if self._leaves:
            found["leaves"] = {"reached": sum(map(len, self._leaves)), "of": sum(_tree_sizes(_last(self._model)))}
        return found


_MANY = 100_000  # distinct values of one column that are counted


def _last(model: Any) -> Any:
    return model.steps[-1][1] if hasattr(model, "steps") else model


def _before(model: Any) -> list[Any]:
    steps = model.steps[:-1] if hasattr(model, "steps") else []
    return [step for _, step in steps if step not in (None, "passthrough")]


def _categories(part: Any) -> list[Any]:
    """Return the texts and whole numbers that an encoder knows."""
    known: Sequence[Any] = getattr(part, "categories_", ()) if hasattr(part, "handle_unknown") else ()
    return [item for column in known for item in column.tolist() if isinstance(item, str | int) and item != ""]


def _tree_sizes(model: Any) -> list[int]:
    """Return the number of leaves of every tree of scikit-learn's own, nothing for other models."""
    if hasattr(model, "tree_"):
        return [int(model.tree_.n_leaves)]
    listed = getattr(model, "estimators_", ())
    flat = list(getattr(listed, "ravel", lambda: listed)())
    return [int(item.tree_.n_leaves) for item in flat] if all(hasattr(item, "tree_") for item in flat) else []
