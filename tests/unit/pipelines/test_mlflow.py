# SPDX-License-Identifier: Apache-2.0
"""Texts in a data frame to MLflow's loader: what comes back is what the pipeline of the bundle answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas
import pytest
from mlflow.exceptions import MlflowException

from packager.deploy import server_files
from packager.server import batch, config
from packager.server.pipeline.document import digest_of
from tests.support.deployments import rendered
from tests.support.raw_models import Made
from tests.unit.deploy.test_mlflow import bundle_of

TEXTS = ["a small cat", "", "naïve 東京 🙂", "word " * 60]
CASES = {
    "encoder": {"task": "sentence-embedding"},
    "classifier": {"task": "text-classification", "top": 2},
    "tagger": {"task": "token-classification"},
}


@pytest.fixture(autouse=True)
def own_path() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before


def model_of(made: Made, spec: Any, folder: Path) -> Path:
    """Render the bundle of an exported source with its pipeline."""
    made.step(folder / "pipeline", spec, strings=20)
    files = {f"pipeline/{path.name}": path.read_bytes() for path in (folder / "pipeline").iterdir()}
    said = {
        "task": spec["task"],
        "path": "pipeline/pipeline.json",
        "digest": digest_of(files["pipeline/pipeline.json"]),
        "reference": "transformers",
        "inputs": 20,
        "largest": 0,
        "tolerance": {"atol": 1e-5, "rtol": 1e-4},
    }
    files |= {f"model/{path.name}": path.read_bytes() for path in (made.graph / "model").iterdir() if path.is_file()}
    graph = files.pop("model/model.onnx")
    more = {"format": 2, "values": {}, "pipeline": said}
    return rendered(
        "mlflow", bundle_of(folder / "store", graph, made.interface, contract=more, **files), folder / "out"
    )


@pytest.mark.parametrize("source", CASES)
def test_texts_in_answers_out(source: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    out = model_of(request.getfixturevalue(source), CASES[source], tmp_path)
    opened = mlflow.pyfunc.load_model(str(out), suppress_warnings=True)
    found = opened.predict(pandas.DataFrame({"text": TEXTS}))
    own = batch.open_model(config.read(out / "serve.json"), 1)
    expected = [item["answer"] for item in batch.answer_rows(own, TEXTS)]
    if source == "encoder":
        np.testing.assert_array_equal(found, np.array(expected, np.float32))
        assert opened.metadata.signature.outputs.input_names() == ["embedding"]
    else:
        rows = [
            [dict(zip(found.columns, item, strict=True)) for item in zip(*cells, strict=True)]
            for cells in found.itertuples(index=False)
        ]
        assert rows == [[{key: item[key] for key in found.columns} for item in row] for row in expected]
        assert opened.metadata.signature.outputs.input_names() == list(found.columns)
    assert json.loads((out / server_files.CONFIG).read_text())["pipeline"]["path"] == "bundle/pipeline/pipeline.json"


def test_pairs_and_refused_rows(classifier: Made, tmp_path: Path) -> None:
    opened = mlflow.pyfunc.load_model(str(model_of(classifier, CASES["classifier"], tmp_path)), suppress_warnings=True)
    pairs = pandas.DataFrame({"text": ["a", "a"], "text_pair": ["b", None]})
    together, alone = opened.predict(pairs)["score"].tolist(), opened.predict(pandas.DataFrame({"text": ["a"]}))
    assert together[0] != together[1] == alone["score"][0]
    with pytest.raises(MlflowException, match="row 1"):
        opened.predict(pandas.DataFrame({"text": ["a", 3]}))
