# SPDX-License-Identifier: Apache-2.0
"""Pictures compared with texts: labels of the bundle, of the request, of a table; and rows that disagree."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from packager.server.errors import RequestError
from packager.server.pipeline.pipeline import open_pipeline
from packager.server.protocol.interface import Interface
from tests.support.raw_models import Made
from tests.unit.pipelines.test_images import jpeg
from tests.unit.pipelines.test_served import serving

SPEC = {"task": "zero-shot-image-classification", "labels": ["cat", "dog", "owl"], "template": "a photo of a {}"}


def test_a_picture_and_its_labels(pair: Made, tmp_path: Path) -> None:
    facts = pair.step(tmp_path / "out", SPEC, strings=100)
    assert facts["inputs"] > 200 and facts["largest"] < 0.01 and facts["rows"] >= 10 and facts["max_abs"] < 1e-5
    encoded = base64.b64encode(jpeg()).decode()
    with serving(pair, tmp_path / "out") as client:
        expected = client.ask("/predict", jpeg(), content_type="image/jpeg")[1]["answers"]
        assert {item["label"] for item in expected[0]} == {"cat", "dog", "owl"}
        assert sum(item["score"] for item in expected[0]) == pytest.approx(1)
        (other,) = client.predict([{"image": encoded, "labels": ["owl", "dog", "cat", "a whale"]}])
        assert {item["label"] for item in other} == {"cat", "dog", "owl", "a whale"}
        assert client.predict([{"image": encoded, "labels": "owl, dog, cat"}])[0][0] == expected[0][0]
        assert len(client.predict([{"image": encoded}] * 3)) == 3


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"image": jpeg(), "labels": []}], "1 to 1000 different labels"),
        ([{"image": jpeg(), "labels": ["a", "a"]}], "1 to 1000 different labels"),
        ([{"image": jpeg(), "labels": [1]}], "a list of texts"),
        ([{"image": jpeg(), "labels": ["a"]}, {"image": jpeg(), "labels": ["b"]}], "the same `labels`"),
        ([{"image": jpeg()}], "the bundle has none of its own"),
        ([{"image": jpeg(), "labels": ["a"], "text": "b"}], "unknown member `text`"),
    ],
)
def test_rows_that_are_refused(pair: Made, tmp_path_factory: pytest.TempPathFactory, rows: Any, said: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "choices"
    if not folder.exists():
        pair.step(folder, {"task": SPEC["task"]}, strings=20)
    pipeline = open_pipeline(folder, Interface.from_json(pair.interface))
    with pytest.raises(RequestError, match=said):
        pipeline.prepare(rows)
