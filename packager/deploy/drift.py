# SPDX-License-Identifier: Apache-2.0
"""Compare the rows of a file with the distributions that a bundle was measured on: which columns have drifted.

The file is read once, row by row; counts are kept, and no row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, TypeAlias

from packager.canonical import JSON
from packager.contract.runtime_tables import Outcome
from packager.deploy import table_files
from packager.deploy.table_files import ANSWER, Unreadable
from packager.errors import UsageError
from packager.server.telemetry.distribution_file import Distributions
from packager.server.telemetry.distributions import LEAST, Distribution, Drift, Tally, compare, pick, split_name

STABLE, DRIFTED = 0.1, 0.25  # of PSI (Siddiqi 2006)
METRICS = ("psi", "ks", "missing", "new")
Role: TypeAlias = Literal["input", "output"]
DriftVerdict: TypeAlias = Literal["drift", "shifted", "stable", "unknown"]
_ORDER: tuple[DriftVerdict, ...] = ("drift", "shifted", "unknown", "stable")
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """How far one column lies from its distribution. `over` are the thresholds that it exceeds, as `psi 0.41 > 0.25`.

    `unknown` is a column with too few values, here or in the data that the bundle was measured on.
    """

    role: Role
    found: Drift
    verdict: DriftVerdict
    over: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JSON]:
        found = self.found
        return {
            "column": found.name,
            "role": self.role,
            "kind": found.kind,
            "rows": int(found.rows),
            "psi": found.psi,
            "by_chance": found.chance if found.chance != float("inf") else None,
            "ks": found.ks,
            "missing": {"reference": found.missing[0], "data": found.missing[1]},
            "unlisted": {"reference": found.unlisted[0], "data": found.unlisted[1]},
            "new": [{"value": value[:200], "rows": count} for value, count in found.new],
            "verdict": self.verdict,
            "over": list(self.over),
        }


@dataclass(frozen=True, slots=True)
class DriftReport:
    """The columns of a file, the one that drifted most first. `skipped` are columns that the file does not have."""

    data: str
    reference: str
    rows: int
    unreadable: int
    columns: tuple[ColumnDrift, ...]
    skipped: tuple[str, ...]
    left_out: int

    @property
    def outcome(self) -> Outcome:
        """`no` where a column has drifted, `unknown` where no column could be compared."""
        verdicts = {column.verdict for column in self.columns}
        return "no" if "drift" in verdicts else "ok" if verdicts & {"stable", "shifted"} else "unknown"

    def to_json(self) -> dict[str, JSON]:
        return {
            "ok": self.outcome == "ok",
            "outcome": self.outcome,
            "data": self.data,
            "reference": self.reference,
            "rows": self.rows,
            "unreadable": self.unreadable,
            "columns": [column.to_json() for column in self.columns],
            "skipped": list(self.skipped),
            "left_out": self.left_out,
        }


def read_thresholds(texts: Sequence[str]) -> dict[str, float]:
    """Read `NUMBER`, which is one of PSI, and `METRIC=NUMBER`; without any it is PSI 0.25. Raises UsageError."""
    found: dict[str, float] = {}
    for text in texts:
        metric, equals, number = text.rpartition("=")
        name = metric if equals else "psi"
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if name not in METRICS or not 0 <= value < float("inf"):
            raise UsageError(
                f"`--fail-over {text:.60}`: expected a number, or METRIC=NUMBER",
                hint=f"METRIC is one of {', '.join(METRICS)}; `--fail-over 0.25` is of psi",
            )
        found[name] = value
    return found or {"psi": DRIFTED}


def measure_drift(
    known: Distributions, data: Path, columns: Mapping[str, str], thresholds: Mapping[str, float]
) -> DriftReport:
    """Compare the rows of `data`; `columns` are names of its columns where they are others than the bundle's.

    Answers of `packager run` in the column `answer` are compared as well. Raises UsageError for a file without any of
    the columns, and what reading it raises.
    """
    if data.is_dir():
        raise UsageError(f"`{data}` is a directory", hint="give a .csv, .parquet or .jsonl file")
    if not data.exists():
        raise UsageError(f"`{data}` does not exist")
    if other := sorted(set(columns) - {split_name(column.name)[0] for column in (*known.inputs, *known.outputs)}):
        raise UsageError(f"the bundle has no column `{other[0]:.60}`", hint=f"it has {_listed(known)}")
    rows = table_files.read_rows(data)
    first = next((row for row in rows if not isinstance(row, Unreadable)), None)
    if first is None:
        raise UsageError(f"`{data}` holds no row")
    tallies = [_Column(role, column, columns) for role, found in _roles(known) for column in found]
    present = [tally for tally in tallies if tally.is_in(first)]
    if not present:
        raise UsageError(
            f"`{data}` has none of the bundle's columns, only {', '.join(f'`{name:.40}`' for name in [*first][:8])}",
            hint=f"the bundle has {_listed(known)}; name the one to take with `--column NAME=COLUMN`",
        )
    count, unreadable = 0, 0
    for row in chain([first], rows):
        if isinstance(row, Unreadable):
            unreadable += 1
            continue
        count += 1
        for tally in present:
            tally.add(row)
    made = [tally.judge(thresholds) for tally in present]
    made.sort(key=lambda item: (_ORDER.index(item.verdict), -item.found.psi, item.found.name))
    skipped = tuple(tally.name for tally in tallies if tally not in present and tally.role == "input")
    return DriftReport(str(data), known.data, count, unreadable, tuple(made), skipped, known.left_out)


def _roles(known: Distributions) -> list[tuple[Role, Sequence[Distribution]]]:
    return [("input", known.inputs), ("output", known.outputs)]


def _listed(known: Distributions) -> str:
    return ", ".join(f"`{name}`" for name in dict.fromkeys(split_name(column.name)[0] for column in known.inputs))


class _Column:
    """One column of the bundle: the member of a row that it is taken from, and what was counted."""

    def __init__(self, role: Role, about: Distribution, columns: Mapping[str, str]) -> None:
        self.role, self.name = role, about.name
        source, self._index = split_name(about.name)
        self._source, self._own = columns.get(source, source), source
        self._tally = Tally(about)

    def is_in(self, row: Mapping[str, JSON]) -> bool:
        """Say whether a row has the column."""
        return self._source in row or (self.role == "output" and self._own in self._answer(row))

    def _answer(self, row: Mapping[str, JSON]) -> Mapping[str, JSON]:
        answer = row.get(ANSWER)
        return answer if isinstance(answer, dict) else {}

    def add(self, row: Mapping[str, JSON]) -> None:
        """Count what a row has; a cell that is absent is missing."""
        value = row[self._source] if self._source in row else self._answer(row).get(self._own)
        for item in _values(value, self._index):
            self._tally.add(item if isinstance(item, _PLAIN) else None)

    def judge(self, thresholds: Mapping[str, float]) -> ColumnDrift:
        """Return the verdict. A difference that equal populations show as well is none."""
        found, about = compare(self._tally), self._tally.about
        if not about.comparable or found.rows < LEAST:
            return ColumnDrift(self.role, found, "unknown")
        real = found.psi > found.chance
        reached = {
            "psi": found.psi,
            "ks": found.ks or 0.0,
            "missing": abs(found.missing[1] - found.missing[0]),
            "new": max(0.0, found.unlisted[1] - found.unlisted[0]),
        }
        over = [name for name, most in thresholds.items() if reached[name] > most and real]
        words = tuple(f"{name} {reached[name]:.3g} > {thresholds[name]:g}" for name in over)
        verdict: DriftVerdict = "drift" if over else "shifted" if real and found.psi >= STABLE else "stable"
        return ColumnDrift(self.role, found, verdict, words)


def _values(value: JSON, index: int | None) -> Iterator[JSON]:
    yield from pick(value, index)
