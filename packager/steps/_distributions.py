# SPDX-License-Identifier: Apache-2.0
"""Describe the rows that a bundle is measured on, and what the source answers to them, without keeping one of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.server.telemetry import distribution_file
from packager.server.telemetry.distribution_file import Maker
from packager.server.telemetry.distributions import (
    Distribution,
    describe_numbers,
    describe_texts,
    name_columns,
    pick,
    split_name,
)

_MOST_VALUES = 1_000_000  # of one column: the first ones


class Answers:
    """The outputs of the source, run by run, of which as much is kept as is described."""

    def __init__(self, interface: JSON) -> None:
        self._ports = interface["outputs"]
        self._parts: dict[str, list[Any]] = {port["name"]: [] for port in self._ports}
        self._room = {port["name"]: _MOST_VALUES for port in self._ports}

    def add(self, results: Sequence[Any], rows: int) -> None:
        """Keep the outputs of a run of `rows` rows; those that do not begin with rows are not described."""
        for port, values in zip(self._ports, results, strict=True):
            name = port["name"]
            if not values.ndim or len(values) != rows:
                self._parts.pop(name, None)
            elif name in self._parts and self._room[name] > 0:
                self._room[name] -= values.size // max(_width(port), 1)
                self._parts[name].append(values)

    def columns(self) -> list[Maker]:
        """Return what makes the distributions."""
        return [
            make
            for port in self._ports
            if port["dtype"] != "bfloat16" and self._parts.get(port["name"])
            for make in list_columns(port, [row for part in self._parts[port["name"]] for row in part.tolist()])
        ]


def _width(port: JSON) -> int:
    return len(name_columns(port["name"], port["dtype"], port["shape"]))


def list_columns(port: JSON, cells: Sequence[Any]) -> list[Maker]:
    """Return what makes the distributions of an input or output, of which `cells` are the rows."""
    describe = describe_texts if port["dtype"] == "string" else describe_numbers
    names = name_columns(port["name"], port["dtype"], port["shape"])
    return [partial(_made, describe, name, cells) for name in names]


def _made(describe: Any, name: str, cells: Iterable[Any], bins: int) -> Distribution:
    index = split_name(name)[1]
    found: Distribution = describe(name, islice(_values(cells, index), _MOST_VALUES), bins)
    return found


def _values(cells: Iterable[Any], index: int | None) -> Iterator[Any]:
    for cell in cells:
        yield from pick(cell, index)


def digest_file(folder: Path) -> str:
    """Return the digest of the one file in a folder."""
    (path,) = folder.iterdir()
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def describe_rows(data: str, columns: Sequence[JSON], rows: Sequence[Mapping[str, JSON]], answers: Answers) -> JSON:
    """Return the distributions of rows, whose `columns` are the inputs of a graph or those of a pipeline."""
    makers = [make for port in columns for make in list_columns(port, [row.get(port["name"]) for row in rows])]
    return distribution_file.describe(data, len(rows), makers, answers.columns()).to_json()


def describe_arrays(data: str, interface: JSON, arrays: Mapping[str, Any], answers: Answers) -> JSON:
    """Return the distributions of rows that are given as one array per input."""
    makers = [make for port in interface["inputs"] for make in list_columns(port, arrays[port["name"]].tolist())]
    count = min((len(values) for values in arrays.values()), default=0)
    return distribution_file.describe(data, count, makers, answers.columns()).to_json()
