# SPDX-License-Identifier: Apache-2.0
"""Is an answer right? Names, dtypes and shapes exactly; numbers within the contract's tolerance of the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from suite.contract import Contract


@dataclass(frozen=True, slots=True)
class Drift:
    """How far an answer is from the reference: the largest difference, and whether the bits are equal."""

    max_abs: float
    bitwise: bool


def interface_problem(contract: Contract, feeds: Mapping[str, Any], outputs: Mapping[str, Any]) -> str | None:
    """Return how `outputs` break the interface for these inputs, or None."""
    promised = {port.name: port for port in contract.outputs}
    if set(outputs) != set(promised):
        return f"expected outputs {sorted(promised)}, got {sorted(outputs)}"
    sizes: dict[str, int] = {}
    for port in contract.inputs:
        sizes.update(
            {name: size for name, size in zip(port.shape, feeds[port.name].shape, strict=True) if isinstance(name, str)}
        )
    for name, port in promised.items():
        got = outputs[name]
        dtype = "string" if got.dtype.kind in "OUS" else got.dtype.name
        if dtype != port.dtype:
            return f"output `{name}`: expected {port.dtype}, got {dtype}"
        expected = [sizes.get(size, size) if isinstance(size, str) else size for size in port.shape]
        if len(expected) != got.ndim or any(
            isinstance(size, int) and size != actual for size, actual in zip(expected, got.shape, strict=True)
        ):
            return f"output `{name}`: expected shape {expected}, got {list(got.shape)}"
    return None


def difference(expected: Any, got: Any, bounds: Mapping[str, float]) -> tuple[Drift, str | None]:
    """Return the drift of one output, and the sentence about its worst element where that is out of tolerance."""
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return Drift(float("inf"), False), (
            f"expected {expected.dtype}{list(expected.shape)}, got {got.dtype}{list(got.shape)}"
        )
    if expected.dtype.kind != "f":
        return _exactly(expected, got)
    left, right = expected.astype("float64"), got.astype("float64")
    with np.errstate(invalid="ignore", over="ignore"):
        same = (left == right) | (np.isnan(left) & np.isnan(right))
        away = np.where(same, 0.0, np.abs(right - left))
        allowed = bounds["atol"] + bounds["rtol"] * np.abs(left)
        wrong = ~same & ~(away <= allowed)
    finite = away[np.isfinite(away)]
    drift = Drift(float(finite.max(initial=0.0)), expected.tobytes() == got.tobytes())
    if not wrong.any():
        return drift, None
    excess = np.where(wrong, np.where(np.isfinite(away), away / np.maximum(allowed, 1e-300), np.inf), -1.0)
    position = np.unravel_index(int(excess.argmax()), excess.shape)
    wanted, seen = float(left[position]), float(right[position])
    return drift, (
        f"{int(wrong.sum())} of {wrong.size} elements are out of tolerance (atol {bounds['atol']}, rtol "
        f"{bounds['rtol']}); worst {[int(i) for i in position]}: expected {wanted!r}, got {seen!r}"
    )


def _exactly(expected: Any, got: Any) -> tuple[Drift, str | None]:
    wrong = expected != got
    if not np.any(wrong):
        return Drift(0.0, True), None
    position = np.unravel_index(int(np.argmax(wrong)), expected.shape)
    text = (
        f"{int(np.sum(wrong))} elements differ; first {[int(i) for i in position]}: expected {expected[position]!r}, "
    )
    return Drift(float("inf"), False), text + f"got {got[position]!r}"


def differences(
    contract: Contract, target: str, expected: Mapping[str, Any], got: Mapping[str, Any]
) -> tuple[dict[str, Drift], str | None]:
    """Compare all outputs of a case by the tolerances of `target`."""
    bounds = contract.document["targets"][target]["tolerance"]
    drifts: dict[str, Drift] = {}
    problems = []
    for name, array in expected.items():
        drifts[name], problem = difference(array, got[name], bounds[name])
        if problem:
            problems.append(f"output `{name}`: {problem}")
    return drifts, "; ".join(problems) or None


def same_bits(left: Mapping[str, Any], right: Mapping[str, Any]) -> str | None:
    """Return which output differs in any bit, or None."""
    for name, array in left.items():
        other = right[name]
        equal = (array == other).all() if array.dtype.kind in "OUS" else array.tobytes() == other.tobytes()
        if array.shape != other.shape or not equal:
            return f"output `{name}` differs between two runs on the same inputs"
    return None
