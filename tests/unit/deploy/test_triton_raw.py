# SPDX-License-Identifier: Apache-2.0
"""A model of a Triton repository that takes rows as people have them: its configuration, its record, what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from packager import canonical
from packager.bundle.bundle import Bundle
from packager.bundle.knobs import knob_schema
from packager.deploy.triton import pipeline, render
from packager.deploy.triton.repository import Directory
from packager.errors import UsageError
from packager.knobs import catalogue, knobs
from packager.server.pipeline.document import digest_of
from packager.store.store import Store
from tests.support import bundles
from tests.unit.deploy.test_render import CONTRACT

TOKENIZER = b"{}"
TEXT = {
    "file": "tokenizer.json",
    "digest": digest_of(TOKENIZER),
    "longest": 16,
    "cut": "right",
    "pairs": True,
    "inputs": {"x": "ids"},
    "padding": {"id": 0, "type": 0, "side": "right"},
}
LABELS = {"output": "y", "function": "softmax", "labels": ["good", "bad"], "top": None}
ANSWERS: dict[str, Any] = {
    "text-classification": LABELS,
    "sentence-embedding": {"output": "y", "pooling": "none", "normalize": True},
    "token-classification": {"output": "y", "labels": ["good"], "grouping": "simple", "outside": []},
}
LOCK = b"tokenizers==0.22.1 \\\n    --hash=sha256:00\npillow==12.0.0\n"


def make(store: Store, task: str, locked: dict[str, bytes] | None = None) -> Bundle:
    document = canonical.dump({"format": 1, "task": task, "text": TEXT, "answer": ANSWERS[task]})
    contract = {**copy.deepcopy(CONTRACT), "format": 2, "values": {}}
    bound = {"atol": 1e-5, "rtol": 1e-4}
    more = {"path": "pipeline/pipeline.json", "digest": digest_of(document), "reference": "transformers"}
    contract["pipeline"] = {"task": task, **more, "inputs": 20, "largest": 0, "tolerance": bound}
    locked = {"deps/onnxruntime/requirements.txt": LOCK} if locked is None else locked
    files = {"pipeline/pipeline.json": document, "pipeline/tokenizer.json": TOKENIZER, **locked}
    files |= {"contract.json": canonical.dump(contract), knobs.FILE: catalogue.schema_bytes(contract)}
    return bundles.make(store, files)


def rendered(bundle: Bundle, root: Path, backend: Any = "python", *, raw: bool = True) -> Any:
    values = knobs.resolve(knob_schema(bundle), bundle.digest)
    return render.render_triton(bundle, values, Directory(root), backend, {}, raw=raw)


def config(root: Path, name: str) -> Any:
    return text_format.Parse((root / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


@pytest.mark.parametrize(
    ("task", "outputs"),
    [
        ("text-classification", {"label": ("TYPE_STRING", 2), "score": ("TYPE_FP32", 2)}),
        ("sentence-embedding", {"embedding": ("TYPE_FP32", 2)}),
        ("token-classification", {"answer": ("TYPE_STRING", 1)}),
    ],
)
def test_the_configuration_has_rows(task: str, outputs: dict[str, Any], tmp_path: Path) -> None:
    bundle = make(Store(tmp_path / "store"), task)
    model = rendered(bundle, tmp_path / "models")
    found = config(tmp_path / "models", bundle.name)
    assert found.max_batch_size == 0 and found.default_model_filename == "raw.py" and not found.model_warmup
    ports = [(port.name, list(port.dims), port.data_type, port.optional) for port in found.input]
    texts = model_config_pb2.TYPE_STRING
    assert ports == [("text", [-1], texts, False), ("text_pair", [-1], texts, True)]
    types = {port.name: (model_config_pb2.DataType.Name(port.data_type), len(port.dims)) for port in found.output}
    assert types == outputs
    version = tmp_path / "models" / bundle.name / str(model.number)
    record = json.loads((version / "deployment.json").read_bytes())
    assert record["libraries"] == {"tokenizers": "0.22.1"} and record["raw"] is True
    assert digest_of((version / record["pipeline"]["path"]).read_bytes()) == record["pipeline"]["digest"]
    assert record["files"]["pipeline/tokenizer.json"] == digest_of(TOKENIZER)
    assert {"raw.py", "model.py"} <= {path.name for path in version.iterdir()}
    assert (version / "packager" / "server" / "pipeline" / "pipeline.py").is_file()
    assert not (version / "__main__.py").exists()


def test_rows_and_tensors_are_two_versions(tmp_path: Path) -> None:
    bundle = make(Store(tmp_path / "store"), "text-classification")
    numbers = [rendered(bundle, tmp_path / "models", raw=raw).number for raw in (True, False, True)]
    assert numbers == [1, 2, 1] and [port.name for port in config(tmp_path / "models", bundle.name).input] == [
        "text",
        "text_pair",
    ]
    assert not (tmp_path / "models" / bundle.name / "2" / "raw.py").exists()


def test_what_cannot_take_rows_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(UsageError, match="--raw is for the Python backend"):
        rendered(make(store, "text-classification"), tmp_path / "models", "native")
    with pytest.raises(UsageError, match="locks no version of tokenizers"):
        rendered(make(store, "text-classification", {}), tmp_path / "models")
    tensors = bundles.make(
        store, {"contract.json": canonical.dump(CONTRACT), knobs.FILE: catalogue.schema_bytes(CONTRACT)}
    )
    with pytest.raises(UsageError, match="has no pipeline: it takes tensors"):
        rendered(tensors, tmp_path / "models")
    assert not (tmp_path / "models").exists() or not list((tmp_path / "models").rglob("*.pbtxt"))


def test_pins_of_tritons_own_lock_come_first(tmp_path: Path) -> None:
    locks = {f"deps/{name}/requirements.txt": data for name, data in (("onnxruntime", LOCK), ("triton", b"numpy==1\n"))}
    bundle = make(Store(tmp_path / "store"), "text-classification", locks)
    path = tmp_path / "models" / bundle.name / "1" / "deployment.json"
    rendered(bundle, tmp_path / "models")
    assert json.loads(path.read_bytes())["libraries"] == {"tokenizers": "0.22.1"}
    locks["deps/triton/requirements.txt"] = b"tokenizers==0.21.0\n"
    other = make(Store(tmp_path / "other"), "text-classification", locks)
    rendered(other, tmp_path / "others")
    path = tmp_path / "others" / other.name / "1" / "deployment.json"
    assert json.loads(path.read_bytes())["libraries"] == {"tokenizers": "0.21.0"}


def test_a_model_of_rows_is_no_step_of_an_ensemble(tmp_path: Path) -> None:
    bundle = make(Store(tmp_path / "store"), "text-classification")
    rendered(bundle, tmp_path / "models")
    text = f"name: chain\nsteps:\n  - model: {bundle.name}\n    inputs: {{text: said}}\n    outputs: {{label: mood}}\n"
    with pytest.raises(UsageError, match="takes rows as people have them, and an ensemble joins tensors"):
        render.render_ensemble(pipeline.parse(text.encode(), "chain.yaml"), Directory(tmp_path / "models"))
