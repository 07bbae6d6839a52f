# SPDX-License-Identifier: Apache-2.0
"""Find input values that the contract does not expect: outside a range, NaN, infinity, empty.

Requests are answered all the same; the counters show that inputs have drifted from those the model was made for.
A request is counted once per input and finding. Under load not every request is sampled, and of a long tensor only
the first elements: this costs some microseconds whatever the size and the rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from packager.server.protocol.tensors import Array

_SAMPLED = 2**14  # elements
FINDINGS = ("below_range", "above_range", "not_finite", "empty")

Ranges = Mapping[str, tuple[float, float]]


def list_findings(name: str, array: Array, ranges: Ranges) -> Iterator[str]:
    """Yield the findings of an input, each once."""
    if not array.size:
        yield "empty"
        return
    sample = array.reshape(-1)[:_SAMPLED]
    if sample.dtype == object:
        if not all(sample):
            yield "empty"
        return
    if sample.dtype.kind == "b":
        return
    low, high = float(sample.min()), float(sample.max())
    if not np.isfinite(low) or not np.isfinite(high):
        yield "not_finite"
        kept = sample[np.isfinite(sample)]
        if not kept.size:
            return
        low, high = float(kept.min()), float(kept.max())
    if name in ranges:
        if low < ranges[name][0]:
            yield "below_range"
        if high > ranges[name][1]:
            yield "above_range"


def has_non_finite(array: Array) -> bool:
    """Return whether a result holds NaN or infinity among its first elements."""
    return array.dtype.kind == "f" and not np.isfinite(array.reshape(-1)[:_SAMPLED]).all()
