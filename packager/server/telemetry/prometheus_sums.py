# SPDX-License-Identifier: Apache-2.0
"""Add sums of observations to a Prometheus histogram; the only module that uses private members of prometheus_client.

`Histogram` keeps the bounds of its buckets in `_upper_bounds`, their values in `_buckets`, and the sum in `_sum`; its
own `observe` takes one amount at a time. tests/unit/test_private_members.py fails when one is gone.
"""

from __future__ import annotations

from collections.abc import Sequence

import prometheus_client as prometheus


class SummedHistogram(prometheus.Histogram):
    """A histogram without labels that takes counts by bucket."""

    @property
    def bounds(self) -> Sequence[float]:
        """Return the upper bound of every bucket, the last one infinite."""
        bounds: Sequence[float] = self._upper_bounds
        return bounds

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add `counts`, observations by bucket, and `total`, the sum of their amounts."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
