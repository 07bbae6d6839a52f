# SPDX-License-Identifier: Apache-2.0
"""`compat` against proof: what it says of graphs is what the record says of thousands of runs, and of new ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.matrix import predictions

RECORD = predictions.read()
CHANGING = {"mnn": {"ConstantOfShape", "Where NaN is larger"}}  # right or wrong from run to run
PAIRS = [(runtime, version) for runtime, versions in predictions.VERSIONS.items() for version in versions]


def test_no_verdict_is_false_of_thousands_of_runs() -> None:
    found = [predictions.judge(row) for row in RECORD]
    whole = sum(found, predictions.Confusion())
    assert not whole.wrong
    assert whole.counts.total() >= 2000 and whole.unknown <= 0.1
    assert whole.counts["no", False] >= 200


def test_the_record_is_whole() -> None:
    """Every version is in it, with every graph that there is: what is added is run as well."""
    assert [(row["runtime"], row["version"]) for row in RECORD] == PAIRS
    for row in RECORD:
        assert row["graphs"] + len(row["left"]) == len(predictions.MADE)
        assert {*row["left"], *row["failed"]} <= {*predictions.MADE}


def test_the_page_is_that_of_the_record() -> None:
    rows = "\n".join(predictions.table(RECORD))
    assert rows in predictions.PAGE.read_text()


def test_a_false_verdict_is_found() -> None:
    row = next(row for row in RECORD if row["runtime"] == "onnxruntime")
    name = next(name for name in predictions.MADE if name not in row["failed"])
    lying: dict[str, Any] = json.loads(json.dumps(row))
    lying["failed"][name] = "differs"
    assert [found[1] for found in predictions.judge(lying).wrong] == [name]


@pytest.mark.slow  # an environment for each version; the record is judged by default
@pytest.mark.parametrize(("runtime", "version"), PAIRS, ids=[" ".join(pair) for pair in PAIRS])
def test_the_record_is_what_happens(runtime: str, version: str) -> None:
    (known,) = (row for row in RECORD if (row["runtime"], row["version"]) == (runtime, version))
    found = predictions.prove(runtime, version)
    assert {*found["failed"]} ^ {*known["failed"]} <= CHANGING.get(runtime, set()) and found["left"] == known["left"]
    assert not predictions.judge(found).wrong
