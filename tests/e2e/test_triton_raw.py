# SPDX-License-Identifier: Apache-2.0
"""Rows as people have them on a real Triton: the answers of the source's library, several rows, refusals, versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from packager.bundle.knobs import knob_schema
from packager.deploy.triton.render import render_triton
from packager.deploy.triton.repository import Directory
from packager.knobs import knobs
from tests.matrix import raw_calls
from tests.matrix.raw_sources import PIPELINES, Raw
from tests.matrix.raw_ways import largest_difference
from tests.support.triton_servers import tritonserver

pytestmark = pytest.mark.slow  # a source is exported and a Triton started for each
NAME = raw_calls.NAME


def rendered(raw: Raw, folder: Path) -> Path:
    made = raw_calls.bundle(raw, folder)
    values = knobs.resolve(knob_schema(made), made.digest, [])
    (folder / "models").mkdir()
    render_triton(made, values, Directory(folder / "models"), "python", {}, raw=True)
    (folder / "work").mkdir()
    return folder / "models"


def column(name: str, cells: list[Any]) -> Any:
    found = http.InferInput(name, [len(cells)], "BYTES")
    found.set_data_from_numpy(np.array([cell.encode() if isinstance(cell, str) else cell for cell in cells], object))
    return found


def infer(client: Any, **columns: list[Any]) -> Any:
    return client.infer(NAME, [column(name, cells) for name, cells in columns.items()])


def labelled(answer: Any) -> list[Any]:
    labels, scores = answer.as_numpy("label"), answer.as_numpy("score")
    return [
        [{"label": label.decode(), "score": float(score)} for label, score in zip(*row, strict=True)]
        for row in zip(labels, scores, strict=True)
    ]


@pytest.mark.parametrize(("pipeline", "name"), [("text classification", "text"), ("image classification", "image")])
def test_rows_are_answered_as_by_the_source(pipeline: str, name: str, tmp_path: Path) -> None:
    raw = PIPELINES[pipeline](tmp_path)
    models = rendered(raw, tmp_path)
    with tritonserver(models, tmp_path / "work", "--load-model", NAME, raw=True) as server:
        client = http.InferenceServerClient(server.http)
        ports = client.get_model_metadata(NAME)["inputs"]
        assert (ports[0]["name"], ports[0]["datatype"], ports[0]["shape"]) == (name, "BYTES", [-1])
        cells = [row[name] for row in raw.rows]
        single = [labelled(infer(client, **{name: [cell]}))[0] for cell in cells]
        together = labelled(infer(client, **{name: cells}))
        for answers in (single, together):
            found = [raw.comparable(answer) for answer in answers]
            assert largest_difference(list(raw.expected), found) < 1e-5
        bad: dict[str, Any] = {"text": (b"\xff", "expected UTF-8"), "image": (b"GIF89a", "row 0")}
        cell, words = bad[name]
        with pytest.raises(InferenceServerException, match=words):
            infer(client, **{name: [cell]})
        if name == "text":
            pair = infer(client, text=[cells[0]], text_pair=["another text"])
            assert labelled(pair) != single[:1]
            with pytest.raises(InferenceServerException, match="expected as many elements"):
                infer(client, text=cells[:2], text_pair=["one"])
        assert labelled(infer(client, **{name: cells[:1]})) == single[:1], "a refusal changes no later answer"


def test_another_version_of_a_library_or_another_file_does_not_load(tmp_path: Path) -> None:
    models = rendered(PIPELINES["text classification"](tmp_path), tmp_path)
    version = models / NAME / "1"
    record = json.loads((version / "deployment.json").read_bytes())
    with tritonserver(models, tmp_path / "work", raw=True) as server:
        client = http.InferenceServerClient(server.http)
        changed = {**record, "libraries": {"tokenizers": "0.0.1"}}
        (version / "deployment.json").chmod(0o644)
        (version / "deployment.json").write_text(json.dumps(changed))
        with pytest.raises(InferenceServerException, match=r"the pipeline was measured with tokenizers==0\.0\.1"):
            client.load_model(NAME)
        (version / "deployment.json").write_text(json.dumps(record))
        tokenizer = version / "pipeline" / "tokenizer.json"
        tokenizer.chmod(0o644)
        tokenizer.write_bytes(tokenizer.read_bytes() + b" ")
        with pytest.raises(InferenceServerException, match="not the file of the bundle"):
            client.load_model(NAME)
