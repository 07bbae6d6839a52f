# SPDX-License-Identifier: Apache-2.0
"""How far sampled inputs and outputs lie from those that the bundle was measured on, as gauges: PSI and KS by column.

A sample takes some rows of some columns, twenty times a second at most, after its answer was sent. Counts of 10 000
values are halved, so old traffic fades; memory is that of the reference. Below a supervisor every process counts what
it serves, and the largest value of all is shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import prometheus_client as prometheus

from packager.server.protocol.tensors import Array
from packager.server.telemetry.distribution_file import Distributions
from packager.server.telemetry.distributions import MOST_FEATURES, Distribution, Tally, compare, find_bounds, split_name

_SECONDS = 0.05  # between two samples
_COLUMNS = 16  # of one sample
_ROWS = 256
_WINDOW = 10_000  # values of a column
_FEWEST = 200  # values of which the gauges are shown
_GAUGES = {
    "drift_psi": ("Population stability index of sampled values against the reference data.", "livemax"),
    "drift_psi_by_chance": ("PSI that equal populations exceed once in a thousand times.", "livemax"),
    "drift_ks": ("Largest distance of the cumulative shares against the reference data.", "livemax"),
    "drift_values": ("Sampled values that the figures are of.", "livesum"),
}


class _Column:
    """One column of a tensor, and what was counted of it."""

    def __init__(self, about: Distribution) -> None:
        self.name = about.name
        self.source, self._index = split_name(about.name)
        self.tally = Tally(about)
        self._bounds = np.array(find_bounds(about.edges))

    def add(self, array: Array) -> None:
        """Count the rows of a tensor, or of all its elements the first ones."""
        if self._index is not None:
            if array.ndim != 2 or self._index >= array.shape[1]:
                return
            values = array[:_ROWS, self._index]
        else:
            values = array.reshape(-1)[:_ROWS]
        if self.tally.about.kind == "number" and values.dtype.kind in "fiub":
            self._add_numbers(values.astype(np.float64))
        else:
            for value in values.tolist():
                self.tally.add(value)
        if self.tally.present + self.tally.missing > _WINDOW:
            self.tally.halve()

    def _add_numbers(self, values: Any) -> None:
        finite = values[np.isfinite(values)]
        self.tally.missing += len(values) - len(finite)
        places = np.searchsorted(self._bounds, finite, side="left")
        found = np.bincount(places, minlength=len(self.tally.counts)).tolist()
        self.tally.counts = [before + more for before, more in zip(self.tally.counts, found, strict=True)]


class ReferenceDrift:
    """The drift of one model that is served; `clock` gives seconds."""

    def __init__(
        self,
        known: Distributions,
        registry: prometheus.CollectorRegistry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._columns = [_Column(about) for about in (*known.inputs, *known.outputs) if about.comparable]
        self._columns = self._columns[: 2 * MOST_FEATURES]
        self._next, self._clock, self._sampled_at = 0, clock, -_SECONDS
        self._gauges: dict[str, Any] = {
            name: prometheus.Gauge(
                f"packager_server_{name}",
                text,
                ["column"],
                registry=registry,
                multiprocess_mode="livesum" if mode == "livesum" else "livemax",
            )
            for name, (text, mode) in _GAUGES.items()
        }

    def count(self, *tensors: Mapping[str, Array]) -> None:
        """Count a request and its results, unless the last sample is too recent."""
        now = self._clock()
        if now < self._sampled_at + _SECONDS or not self._columns:
            return
        self._sampled_at = now
        arrays = {name: array for found in tensors for name, array in found.items()}
        for column in self._turn():
            if column.source in arrays:
                column.add(arrays[column.source])

    def _turn(self) -> Sequence[_Column]:
        """Return the columns whose turn it is."""
        count = len(self._columns)
        chosen = [self._columns[(self._next + step) % count] for step in range(min(_COLUMNS, count))]
        self._next = (self._next + _COLUMNS) % count
        return chosen

    def refresh(self) -> None:
        """Bring the gauges up to date."""
        for column in self._columns:
            tally = column.tally
            if tally.present + tally.missing < _FEWEST:
                continue
            found = compare(tally)
            self._gauges["drift_psi"].labels(column.name).set(found.psi)
            self._gauges["drift_psi_by_chance"].labels(column.name).set(found.chance)
            self._gauges["drift_values"].labels(column.name).set(round(found.rows))
            if found.ks is not None:
                self._gauges["drift_ks"].labels(column.name).set(found.ks)
