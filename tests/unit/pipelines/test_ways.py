# SPDX-License-Identifier: Apache-2.0
"""The same raw rows through every way in: in process, `/predict`, `packager run`, a model of MLflow."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas
import pytest

from packager.pipelines.pictures import draw_pictures
from packager.server import batch, config
from tests.support.raw_models import Made
from tests.unit.pipelines.test_mlflow import model_of
from tests.unit.pipelines.test_run import installation, run
from tests.unit.pipelines.test_served import serving
from tests.unit.pipelines.test_sounds import wav

pytestmark = pytest.mark.slow  # every task once more; each has quick tests of its own
TEXTS = ["a small cat", "naïve 東京 🙂", "word " * 60]
PICTURES = [data for name, data in draw_pictures(0) if name in ("64x64 RGB PNG", "97x131 RGB JPEG", "320x241 L JPEG")]
SOUNDS = [wav(0.4 * np.sin(np.arange(12_000) / pitch)) for pitch in (3, 5, 9)]
CASES: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "encoder": ("sentence-embedding", [{"text": TEXTS[0]}]),  # it pads on the left: a row changes with its company
    "classifier": ("text-classification", [{"text": text} for text in TEXTS]),
    "tagger": ("token-classification", [{"text": text} for text in TEXTS]),
    "reader": ("question-answering", [{"question": "who?", "context": text * 3} for text in TEXTS]),
    "pictures_model": ("image-classification", [{"image": data} for data in PICTURES]),
    "detector": ({"task": "object-detection", "threshold": 0.2}, [{"image": data} for data in PICTURES]),
    "segmenter": ("image-segmentation", [{"image": data} for data in PICTURES]),
    "pair": (
        {"task": "zero-shot-image-classification", "labels": ["cat", "two dogs"], "template": "a {}"},
        [{"image": data} for data in PICTURES],
    ),
    "spectral": ("audio-classification", [{"audio": data} for data in SOUNDS]),
}


@pytest.fixture(autouse=True)
def own_path() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before


def plain(row: dict[str, Any]) -> dict[str, str]:
    return {name: base64.b64encode(cell).decode() if isinstance(cell, bytes) else cell for name, cell in row.items()}


def is_near(one: Any, other: Any) -> bool:
    """Say whether two answers are the same but for the last digits of numbers, which shared runs may change."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_near(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(is_near, one, other))
    return abs(one - other) <= 1e-4 * max(1, abs(one)) if isinstance(one, float | int) else bool(one == other)


@pytest.mark.parametrize("source", CASES)
def test_one_answer(source: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    made: Made = request.getfixturevalue(source)
    spec, rows = CASES[source]
    spec = spec if isinstance(spec, dict) else {"task": spec}
    out = model_of(made, spec, tmp_path)
    opened = batch.open_model(config.read(out / "serve.json"), 1)
    expected = [batch.answer_rows(opened, [plain(row)])[0]["answer"] for row in rows]
    assert all(expected)

    with serving(made, tmp_path / "pipeline") as client:
        served = [client.ask("/predict", {"rows": [plain(row)]})[1]["answers"][0] for row in rows]
    assert all(map(is_near, expected, served))

    site = installation(tmp_path, made)
    lines = "".join(json.dumps(plain(row)) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines)
    assert run(site, tmp_path / "rows.jsonl", "-o", tmp_path / "ran.jsonl")["refused"] == 0
    ran = [json.loads(line)["answer"] for line in (tmp_path / "ran.jsonl").read_text().splitlines()]
    assert all(map(is_near, expected, ran))

    model = mlflow.pyfunc.load_model(str(out), suppress_warnings=True)
    found = model.predict(pandas.DataFrame(rows))
    if spec["task"] == "sentence-embedding":
        assert is_near(expected, np.asarray(found).tolist())
        return
    cells = [
        [dict(zip(found.columns, item, strict=True)) for item in zip(*row, strict=True)]
        for row in found.itertuples(index=False)
    ]
    assert is_near([[{name: item[name] for name in found.columns} for item in row] for row in expected], cells)
