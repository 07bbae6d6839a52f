# SPDX-License-Identifier: Apache-2.0
"""The distributions of the data that a bundle was measured on, as a document: written, and read strictly.

    {"format": 1, "data": "sha256:…", "rows": 1797, "least": 10, "left_out": 0,
     "inputs": [{"name": "age", "kind": "number", "missing": 3, "edges": […], "counts": […]},
                {"name": "city", "kind": "category", "missing": 0, "values": {"Berlin": 120}, "other": 7}],
     "outputs": [{"name": "score", "kind": "number", "missing": 0, "edges": […], "counts": […]}]}

It has at most 64 kB: of many columns fewer bins are kept, and then fewer columns (`left_out` says how many are not
there; inputs are left out before outputs). Equal data give equal bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from packager.server.fields import record, text
from packager.server.telemetry.distributions import KINDS, LEAST, MOST_BINS, Distribution

FORMAT = 1
MOST_BYTES = 64 << 10
_HEAD = 1 << 10  # bytes of a document besides its columns
_FEWER_BINS = (MOST_BINS, 50, 20, 10)
_KEYS = frozenset({"format", "data", "rows", "least", "left_out", "inputs", "outputs"})


Maker: TypeAlias = Callable[[int], Distribution]
"""Makes a distribution with at most so many bins."""


@dataclass(frozen=True, slots=True)
class Distributions:
    """The distributions of `rows` rows of the file with the digest `data`, by column, and those of the answers."""

    data: str
    rows: int
    inputs: tuple[Distribution, ...]
    outputs: tuple[Distribution, ...] = ()
    left_out: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "data": self.data,
            "rows": self.rows,
            "least": LEAST,
            "left_out": self.left_out,
            "inputs": [column.to_json() for column in self.inputs],
            "outputs": [column.to_json() for column in self.outputs],
        }

    @classmethod
    def from_json(cls, value: Any) -> Distributions:
        """Read a document. Raises ValueError for one of another form."""
        fields = record(value, "distributions", _KEYS)
        if fields["format"] != FORMAT:
            raise ValueError(f"`distributions`: expected format {FORMAT}")
        inputs, outputs = _columns(fields["inputs"]), _columns(fields["outputs"])
        left = read_count(fields["left_out"])
        return cls(text(fields["data"], "distributions.data"), read_count(fields["rows"]), inputs, outputs, left)


def describe(data: str, rows: int, inputs: Sequence[Maker], outputs: Sequence[Maker]) -> Distributions:
    """Return distributions that take at most 64 kB as JSON, with as many bins as that allows."""
    most = MOST_BYTES - _HEAD
    for bins in _FEWER_BINS:
        given, answers = [make(bins) for make in inputs], [make(bins) for make in outputs]
        if _size(given) + _size(answers) <= most:
            break
    kept, said = list(given), list(answers)
    while kept and _size(kept) + _size(said) > most:
        kept.pop()
    while said and _size(said) > most:
        said.pop()
    left = len(given) + len(answers) - len(kept) - len(said)
    return Distributions(data, rows, tuple(kept), tuple(said), left)


def _size(columns: Sequence[Distribution]) -> int:
    return len(json.dumps([column.to_json() for column in columns]).encode())


def _columns(value: Any) -> tuple[Distribution, ...]:
    if not isinstance(value, list):
        raise ValueError("`distributions`: expected lists of columns")
    columns = tuple(_column(item) for item in value)
    if len({column.name for column in columns}) != len(columns):
        raise ValueError("`distributions`: a column is there twice")
    return columns


def _column(value: Any) -> Distribution:
    kind = value.get("kind") if isinstance(value, dict) else None
    own = {"values", "other"} if kind == "category" else {"edges", "counts"}
    fields = record(value, "distributions", {"name", "kind", "missing", *own})
    name, missing = text(fields["name"], "distributions.name"), read_count(fields["missing"])
    if kind not in KINDS:
        raise ValueError(f"`distributions`: expected one of {', '.join(KINDS)}")
    if kind == "category":
        return Distribution(name, kind, missing, values=_values(fields["values"]), other=read_count(fields["other"]))
    edges, counts = fields["edges"], fields["counts"]
    if not isinstance(edges, list) or not isinstance(counts, list) or len(counts) != len(edges) + 1:
        raise ValueError(f"`{name}`: expected one count more than edges")
    if not all(type(edge) in (int, float) and math.isfinite(edge) for edge in edges):
        raise ValueError(f"`{name}`: expected edges that are numbers")
    if len(edges) > MOST_BINS + 1 or any(left >= right for left, right in pairwise(edges)):
        raise ValueError(f"`{name}`: expected at most {MOST_BINS + 1} edges that grow")
    numbers = tuple(map(read_count, counts))
    return Distribution(name, kind, missing, tuple(map(float, edges)), numbers)


def _values(value: Any) -> Mapping[str, int]:
    if not isinstance(value, dict):
        raise ValueError("`distributions.values` is not an object")
    return {name: read_count(count) for name, count in value.items()}


def read_count(value: Any) -> int:
    """Return `value` if it is a count. Raises ValueError."""
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError("`distributions`: expected a count")
    return value
