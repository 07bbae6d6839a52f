# SPDX-License-Identifier: Apache-2.0
"""Rows of a file against distributions: what drifted comes first, what is missing or new is named, bad input is said."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_wine

from packager.deploy import drift
from packager.errors import UsageError
from packager.server.telemetry import distribution_file
from packager.server.telemetry.distribution_file import Distributions
from packager.server.telemetry.distributions import describe_numbers, describe_texts

WINE = load_wine()
NAMES = ["alcohol", "ash", "hue"]
PICKED = [WINE.feature_names.index(name) for name in NAMES]
ORDER = np.random.default_rng(0).permutation(len(WINE.data))
BEFORE, AFTER = (WINE.data[part][:, PICKED] for part in (ORDER[:89], ORDER[89:]))
KINDS = [str(WINE.target_names[label]) for label in WINE.target]
PSI = {"psi": 0.25}


@pytest.fixture(scope="module")
def known() -> Distributions:
    kinds = [KINDS[place] for place in ORDER[:89]]
    makers = [
        *(lambda bins, i=i: describe_numbers(NAMES[i], BEFORE[:, i].tolist(), bins) for i in range(3)),
        lambda bins: describe_texts("kind", kinds, bins),
    ]
    return distribution_file.describe("sha256:0", 89, makers, [lambda b: describe_numbers("y", range(100), b)])


def rows(**changed: Any) -> list[dict[str, Any]]:
    found = [
        {**dict(zip(NAMES, row, strict=True)), "kind": KINDS[place], "answer": {"y": number * 99 // 88}}
        for number, (row, place) in enumerate(zip(AFTER.tolist(), ORDER[89:], strict=True))
    ]
    return [{**row, **{name: change(row[name]) for name, change in changed.items()}} for row in found]


def write(path: Path, found: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [name for name in found[0] if name != "answer"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(found)
    elif path.suffix == ".parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(found), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_other_half_is_stable_in_every_form(known: Distributions, tmp_path: Path, suffix: str) -> None:
    found = drift.measure_drift(known, write(tmp_path / f"rows{suffix}", rows()), {}, PSI)
    assert found.outcome == "ok" and found.rows == 89 and not found.skipped
    assert {item.verdict for item in found.columns} <= {"stable", "unknown"}
    assert {item.found.name for item in found.columns} >= {*NAMES, "kind"}
    assert [item.role for item in found.columns].count("output") == (suffix != ".csv"), "answers are compared as well"


def test_what_moved_comes_first_with_its_threshold(known: Distributions, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", rows(hue=lambda value: value + 1, alcohol=lambda value: value))
    found = drift.measure_drift(known, data, {}, PSI)
    first = found.columns[0]
    assert found.outcome == "no" and first.found.name == "hue" and first.verdict == "drift"
    assert first.over[0].startswith("psi ") and first.over[0].endswith(" > 0.25")
    assert [item.verdict for item in found.columns].count("drift") == 1
    assert drift.measure_drift(known, data, {}, {"psi": 1e9}).outcome == "ok"
    assert drift.measure_drift(known, data, {}, {"ks": 0.3}).columns[0].found.name == "hue"


def test_missing_and_new_values_are_named(known: Distributions, tmp_path: Path) -> None:
    changed = rows(kind=lambda value: "class_9" if value == "class_1" else value)
    changed = [{**row, "ash": None} if number % 2 else row for number, row in enumerate(changed)]
    found = drift.measure_drift(known, write(tmp_path / "rows.jsonl", changed), {}, {"missing": 0.1, "new": 0.1})
    by_name = {item.found.name: item for item in found.columns}
    assert by_name["kind"].found.new[0][0] == "class_9" and by_name["kind"].over[0].startswith("new ")
    assert by_name["ash"].found.missing == (0, pytest.approx(44 / 89)) and "missing 0.494 > 0.1" in by_name["ash"].over
    assert json.loads(json.dumps(found.to_json()))["outcome"] == "no"


def test_few_rows_are_no_verdict(known: Distributions, tmp_path: Path) -> None:
    found = drift.measure_drift(known, write(tmp_path / "rows.jsonl", rows()[:5]), {}, PSI)
    assert found.outcome == "unknown" and {item.verdict for item in found.columns} == {"unknown"}
    some = drift.measure_drift(known, write(tmp_path / "some.jsonl", rows()[::7]), {}, PSI)
    assert some.outcome == "ok", "thirteen rows of the same wine differ by chance"


def test_columns_are_taken_by_another_name(known: Distributions, tmp_path: Path) -> None:
    renamed = [{"Alk": row["alcohol"], "text": "x"} for row in rows()] + [["no row"]]  # type: ignore[list-item]
    data = write(tmp_path / "rows.jsonl", renamed)  # type: ignore[arg-type]
    found = drift.measure_drift(known, data, {"alcohol": "Alk"}, PSI)
    assert [item.found.name for item in found.columns] == ["alcohol"] and found.unreadable == 1
    assert found.skipped == ("ash", "hue", "kind")
    with pytest.raises(UsageError, match="none of the bundle's columns, only `Alk`, `text`"):
        drift.measure_drift(known, data, {}, PSI)
    with pytest.raises(UsageError, match="the bundle has no column `other`"):
        drift.measure_drift(known, data, {"other": "Alk"}, PSI)
    with pytest.raises(UsageError, match="does not exist"):
        drift.measure_drift(known, tmp_path / "none.csv", {}, PSI)
    with pytest.raises(UsageError, match="no known form"):
        drift.measure_drift(known, write(tmp_path / "rows.txt", rows()), {}, PSI)
    with pytest.raises(UsageError, match="is a directory"):
        drift.measure_drift(known, tmp_path, {}, PSI)
    (tmp_path / "empty.csv").write_text("alcohol\n")
    with pytest.raises(UsageError, match="holds no row"):
        drift.measure_drift(known, tmp_path / "empty.csv", {}, PSI)


def test_thresholds() -> None:
    assert drift.read_thresholds([]) == {"psi": 0.25}
    assert drift.read_thresholds(["0.2", "missing=0.05"]) == {"psi": 0.2, "missing": 0.05}
    for wrong in ("much", "psi=", "mean=1", "-1", "psi=nan", "=1"):
        with pytest.raises(UsageError, match="expected a number, or METRIC=NUMBER"):
            drift.read_thresholds([wrong])
