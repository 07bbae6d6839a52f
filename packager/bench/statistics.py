# SPDX-License-Identifier: Apache-2.0
"""Means with 95 % confidence intervals over rounds, and the ratio of two things measured in the same rounds.

Times and rates are compared as ratios, so logarithms are averaged. Rounds are independent (each starts its own server),
requests within one are not; therefore a round is one sample. The interval is Student's, for as few as two rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from packager.canonical import JSON

Verdict: TypeAlias = Literal["faster", "slower", "no difference shown"]
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""The 97.5 % quantiles of Student's distribution, by degrees of freedom from 1 on."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A geometric mean and the 95 % confidence interval around it; low and high are the mean's own for one sample."""

    mean: float
    low: float
    high: float

    def to_json(self) -> JSON:
        return {"mean": _short(self.mean), "low": _short(self.low), "high": _short(self.high)}


def estimate_interval(samples: Sequence[float]) -> Interval:
    """Return the geometric mean of positive samples with its interval. Raises ValueError without a positive sample."""
    logs = [math.log(sample) for sample in samples]
    if not logs:
        raise ValueError("no samples")
    mean = math.fsum(logs) / len(logs)
    if len(logs) == 1:
        return Interval(math.exp(mean), math.exp(mean), math.exp(mean))
    variance = math.fsum((value - mean) ** 2 for value in logs) / (len(logs) - 1)
    half = _T[min(len(logs) - 1, len(_T)) - 1] * math.sqrt(variance / len(logs))
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def estimate_ratio(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Return second over first, paired by round."""
    return estimate_interval([b / a for a, b in zip(first, second, strict=True)])


def judge(found: Interval, *, more_is_better: bool) -> Verdict:
    """Return what a ratio shows of the second: one sample shows nothing."""
    if found.low == found.high or found.low <= 1 <= found.high:
        return "no difference shown"
    return "faster" if (found.low > 1) == more_is_better else "slower"


def _short(value: float) -> float:
    return float(f"{value:.5g}")
