# SPDX-License-Identifier: Apache-2.0
"""The inputs a runtime is judged on: seeded, within the promised ranges, and where graphs usually break.

The rules are those by which parity is measured when a bundle is built, so that the same names give the same numbers:
every named dimension is swept over its low end, the next length, a prime in its middle and its high end while the
others stay small; then edge values at small lengths. The generator of a case is PCG64 seeded with the contract's seed
followed by the UTF-8 bytes of the case's name; inputs draw from it in the order of the interface.

Added here: `denormal`, and, outside the promise, `nan`, `inf` and `extreme`, which have no right answer: there a
runtime must stay alive, keep rows apart and answer the next request as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from suite.contract import Contract, Port

_FLOATS = 1 << 20  # elements of one input and case, so that the slowest runtime takes seconds
_INTEGERS = 1 << 12  # an index costs a whole network per element
_UNSTATED = {"uint8": (0, 255), "int8": (-128, 127)}
_TEXTS = (
    "",
    " ",
    "a",
    "Hello, World",
    "don't",
    "Straße",
    "café",
    "cafe\u0301",
    "İstanbul",
    "ΟΔΟΣ",
    "你好，世界",
    "😀",
    "\t\n",
)
_EDGES = ("zeros", "low", "high")
OUTSIDE = {"nan": float("nan"), "inf": float("inf"), "extreme": 3.0e38}


@dataclass(frozen=True, slots=True)
class Case:
    """One set of inputs: the length of every dimension, and how values are chosen."""

    name: str
    lengths: Mapping[str, int]
    fill: str = "random"


def promised(contract: Contract) -> list[Case]:
    """Return the cases inside the promise, without duplicates, in a fixed order."""
    ranges = dict(sorted(contract.dimensions.items()))
    small = smallish(contract)
    swept = [
        {**small, name: contract.near(name, length)}
        for name, bounds in ranges.items()
        for length in (*_sweep(*bounds), bounds[0] + contract.spans[name].get("step", 1))
        if "is" not in contract.spans[name]
    ]
    found = [_case(contract.follow(lengths)) for lengths in (*swept, shortest(contract))]
    found += [_case(small, fill) for fill in _EDGES]
    if any(port.dtype.startswith("float") for port in contract.inputs):
        found.append(_case(small, "denormal"))
    return list({case.name: case for case in (_fit(case, contract) for case in found)}.values())


def smallish(contract: Contract) -> dict[str, int]:
    """Return a small length for every dimension, different where the ranges allow, so that a mix-up shows."""
    ranges = sorted(contract.dimensions.items())
    return contract.follow(
        {name: contract.near(name, max(low, 3 + 4 * i)) for i, (name, (low, _)) in enumerate(ranges)}
    )


def shortest(contract: Contract) -> dict[str, int]:
    """Return the shortest measured length of every dimension."""
    return contract.follow({name: contract.near(name, 0) for name in sorted(contract.dimensions)})


def _case(lengths: Mapping[str, int], fill: str = "random") -> Case:
    at = ", ".join(f"{name}={length}" for name, length in lengths.items()) or "fixed shapes"
    return Case(at if fill == "random" else f"{fill} at {at}", lengths, fill)


def _sweep(low: int, high: int) -> list[int]:
    middle = next((n for n in range((low + high) // 2, high) if _is_prime(n)), (low + high) // 2)
    return sorted({low, min(low + 1, high), middle, high})


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _fit(case: Case, contract: Contract) -> Case:
    """Shorten the longest dimension until no input is larger than the budget; the name then has what is run."""
    lengths = dict(case.lengths)
    free = [name for name in lengths if "is" not in contract.spans[name]]
    while free and (excess := _excess(contract, lengths)) > 1:
        name = max(free, key=lambda dimension: lengths[dimension])
        shorter = contract.near(name, int(lengths[name] / excess))
        if shorter >= lengths[name]:
            break
        lengths = contract.follow({**lengths, name: shorter})
    return case if lengths == case.lengths else _case(lengths, case.fill)


def _excess(contract: Contract, lengths: Mapping[str, int]) -> float:
    budgets = ((port, _FLOATS if port.dtype.startswith("float") else _INTEGERS) for port in contract.inputs)
    return max((float(np.prod(shape(port, lengths))) / budget for port, budget in budgets), default=0.0)


def shape(port: Port, lengths: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of a port at these lengths of the named dimensions."""
    return tuple(lengths[size] if isinstance(size, str) else size for size in port.shape)


def feeds(contract: Contract, case: Case, seed: int = 0) -> dict[str, Any]:
    """Return the arrays of a case; the same contract, case and seed give the same values everywhere."""
    generator = np.random.Generator(np.random.PCG64([seed, *case.name.encode()]))
    listed = {name: limit.get("values") for name, limit in contract.document.get("values", {}).items()}
    return {
        port.name: (
            _chosen(generator, port, listed[port.name], case)
            if listed.get(port.name)
            else _values(generator, port, contract.ranges.get(port.name), case)
        ).astype("object" if port.dtype == "string" else port.dtype)
        for port in contract.inputs
    }


def _chosen(generator: Any, port: Port, listed: Any, case: Case) -> Any:
    """Return values of a list: any of them, or the first or last one throughout."""
    size = shape(port, case.lengths)
    places = {"zeros": 0, "low": 0, "high": len(listed) - 1}.get(case.fill)
    kind = "object" if port.dtype == "string" else port.dtype
    return np.array(
        np.broadcast_to(
            np.array(listed, kind)[generator.integers(0, len(listed), size=size) if places is None else places], size
        )
    )


def _values(generator: Any, port: Port, bounds: Any, case: Case) -> Any:
    size = shape(port, case.lengths)
    if port.name.rsplit(".", 1)[-1].endswith("attention_mask"):
        return _mask(generator, size) if case.fill == "random" else np.ones(size)
    if port.dtype == "string":
        return np.array(_TEXTS, dtype="object")[generator.integers(0, len(_TEXTS), size=size)]
    whole = not port.dtype.startswith("float")
    low, high = bounds or _UNSTATED.get(port.dtype, (0, 1) if whole else (-1, 1))
    if case.fill in _EDGES:
        return np.full(size, {"zeros": min(max(0, low), high), "low": low, "high": high}[case.fill])
    if case.fill == "denormal" and not whole:
        return np.full(size, np.finfo(port.dtype).smallest_subnormal if low <= 0 <= high else low)
    if case.fill in OUTSIDE and port.dtype in ("float32", "float64"):
        return np.full(size, OUTSIDE[case.fill])
    if whole:
        return generator.integers(int(low), int(high), size=size, endpoint=True)
    return low + (high - low) * generator.random(size) if bounds else generator.standard_normal(size)


def _mask(generator: Any, size: tuple[int, ...]) -> Any:
    """Return prefixes of ones: one row without padding, one with a single token, the others of random lengths."""
    rows = generator.integers(1, size[-1], size=size[:-1], endpoint=True)
    flat = rows.reshape(-1)
    flat[:1] = size[-1]
    flat[1:][-1:] = 1
    return np.arange(size[-1]) < rows[..., None]
