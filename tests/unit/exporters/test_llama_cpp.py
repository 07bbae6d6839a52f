# SPDX-License-Identifier: Apache-2.0
"""GGUF files written of a source: the same bytes everywhere, and the source's tokens where llama.cpp is installed."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packager import plugins
from packager.errors import StepError, UsageError
from packager.formats import gguf, gguf_texts
from packager.lock import recipe_checks
from packager.recipe import recipe
from packager.runtime import load_runtime
from tests.support import language_models
from tests.unit.exporters.test_generation import Made, findings, reference, run

library = pytest.importorskip("gguf", reason="gguf is not installed")
PARAMS = {"runtime": "llama-cpp", "device": "cpu", "precision": "fp32", "path": "model/model.onnx"}
SOURCE = {"kind": "transformers", "payload": "."}
BUILT = load_runtime("llama-cpp").unmeasurable("cpu")
needs_llama = pytest.mark.skipif(BUILT is not None, reason=str(BUILT))


def files_of(source: Path, folder: Path) -> tuple[Path, Any]:
    """Write the files and facts of generation beside a graph, without tracing it."""
    found = plugins.load("exporters", "transformers").load_generative(source, ".")
    for path, data in found.files().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder, found.about()


def split_as(source: Path, name: str, **members: Any) -> None:
    """Have a saved tokenizer split texts in a way, and give it other members."""
    path = source / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pre_tokenizer": gguf_texts.split_of(name), **members}))


def compiled(source: Path, graph: Path, about: Any, out: Path, precision: str = "fp32") -> Any:
    params = {**PARAMS, **SOURCE, "generation": about, "precision": precision}
    return run("compile", {"graph": graph, "source": source}, out, params)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    folder = tmp_path_factory.mktemp("llama")
    source = language_models.write(folder / "source")
    return source, *files_of(source, folder / "graph")


def test_the_file_holds_the_model_and_its_tokenizer(llama: tuple[Path, Path, Any], tmp_path: Path) -> None:
    source, graph, about = llama
    facts = compiled(source, graph, about, tmp_path / "a")
    assert facts["path"] == "model.gguf" and facts["artefact"]["reproducibility"] == "bitwise"
    assert facts["artefact"]["header"] == {"version": 3, "architecture": "llama", "types": ["F32"]}
    values = gguf.read(tmp_path / "a" / "model.gguf").values
    assert values["llama.context_length"] == 256 and values["llama.attention.head_count_kv"] == 2
    assert values["tokenizer.ggml.pre"] == "gpt-2" and len(values["tokenizer.ggml.tokens"]) == 512
    assert values["tokenizer.chat_template"] == language_models.TEMPLATE
    assert values["tokenizer.ggml.token_type"][:5] == [3, 3, 3, 3, 1]


@pytest.mark.parametrize(
    ("precision", "types", "loss"), [("fp16", ["F16", "F32"], 1e-3), ("q8_0", ["F32", "Q8_0"], 0.02)]
)
def test_matrices_have_the_precision(
    precision: str, types: list[str], loss: float, llama: tuple[Path, Path, Any], tmp_path: Path
) -> None:
    source, graph, about = llama
    assert compiled(source, graph, about, tmp_path / "a", precision)["artefact"]["header"]["types"] == types
    compiled(source, graph, about, tmp_path / "b")
    found, exact = (tensors(tmp_path / name / "model.gguf") for name in ("a", "b"))
    assert list(found) == list(exact) and len(found) == 2 + 9 * 2
    assert max(float(np.abs(found[name] - exact[name]).max()) for name in found) < loss


def tensors(path: Path) -> dict[str, Any]:
    read = library.GGUFReader(str(path))
    return {tensor.name: library.dequantize(tensor.data, tensor.tensor_type) for tensor in read.tensors}


@pytest.mark.slow  # test_determinism.py does it for networks by default
def test_bytes_repeat_in_another_process_and_directory(llama: tuple[Path, Path, Any], tmp_path: Path) -> None:
    source, graph, about = llama
    compiled(source, graph, about, tmp_path / "here", "q8_0")
    away = shutil.copytree(source, tmp_path / "a" / "longer" / "path")
    params = {**PARAMS, **SOURCE, "generation": about, "precision": "q8_0"}
    code = (
        "import sys; from pathlib import Path; from packager import plugins\n"
        "out = Path(sys.argv[3]); out.mkdir()\n"
        f"plugins.load('steps', 'compile').run({{'graph': Path(sys.argv[1]), 'source': Path(sys.argv[2])}}, out, {params!r})"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    subprocess.run([sys.executable, "-c", code, graph, away, tmp_path / "there"], check=True, env=environment)
    first, second = ((tmp_path / name / "model.gguf").read_bytes() for name in ("here", "there"))
    assert hashlib.sha256(first).hexdigest() == hashlib.sha256(second).hexdigest()
    assert str(tmp_path).encode() not in first


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("gpt2", {}, "none of the architectures"),
        ("mistral", {"sliding_window": 16}, "sliding window of 16"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rope_type: linear"),
        ("llama", {"hidden_act": "gelu"}, "activation `gelu`"),
        ("llama", {"hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}, "blocks of q8_0 take 32"),
    ],
)
def test_what_has_no_form_is_refused(kind: str, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    source = language_models.write(tmp_path / "source", kind, **changes)
    graph, about = files_of(source, tmp_path / "graph")
    with pytest.raises(StepError, match=words) as refused:
        compiled(source, graph, about, tmp_path / "out", "q8_0")
    assert "promise `" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("pre_tokenizer", {"type": "Whitespace"}, "no name for here"),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}, "no name for here"),
        ("pre_tokenizer", None, "no name for here"),
        ("normalizer", {"type": "Lowercase"}, "normalises texts"),
        ("model", {"type": "Unigram", "vocab": []}, "no byte-level BPE"),
        ("post_processor", {"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}, "`BertProcessing`"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_not_repeat_is_refused(
    member: str, value: Any, words: str, llama: tuple[Path, Path, Any], tmp_path: Path
) -> None:
    source, graph, about = llama
    other = shutil.copytree(graph, tmp_path / "graph")
    path = other / "generation" / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), member: value}))
    with pytest.raises(StepError, match=words):
        compiled(source, other, about, tmp_path / "out")


def test_blocks_of_eight_bits_need_a_tolerance() -> None:
    text = 'name: x\nversion: 1.0.0\nsource: x\ntask: text-generation\nruns-on: {llama-cpp: {versions: ">=0.3", precision: q8_0}}\n'
    with pytest.raises(UsageError, match="`q8_0` is promised without a tolerance"):
        recipe_checks.check_targets(recipe.parse(text, "bundle.yaml"))
    recipe_checks.check_targets(recipe.parse(f"{text}tolerance: {{q8_0: {{atol: 1, rtol: 0}}}}\n", "bundle.yaml"))


def measured(made: Made, artefact: Path, out: Path) -> Any:
    inputs = {"graph": made.graph, "reference": made.reference, "artefact": artefact}
    asked = {"runtime": "llama-cpp", "path": "model.gguf", "generation": {"bos": 0, "eos": 0}}
    return run("measure_generation", inputs, out, asked)["cases"]


def made_of(kind: str, folder: Path, **changes: Any) -> tuple[Made, Any]:
    source = language_models.write(folder / "source", kind, **changes)
    if kind == "qwen2":
        split_as(source, "qwen2", normalizer={"type": "NFC"})  # what transformers' class does, whatever the file says
    graph, about = files_of(source, folder / "graph")
    return Made(source, graph, reference(source, folder / "reference"), None), about


@needs_llama
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_llama_cpp_gives_the_sources_tokens(kind: str, tmp_path: Path) -> None:
    made, about = made_of(kind, tmp_path, **({"sliding_window": None} if kind == "mistral" else {}))
    compiled(made.source, made.graph, about, tmp_path / "target")
    cases = measured(made, tmp_path / "target", tmp_path / "m")
    assert sum(case["name"].endswith("llama-cpp's own loop") for case in cases) == 9
    # transformers' class for Qwen 2 adds tokens that no file of this model has: what serves is not in question here.
    assert findings([case for case in cases if case["name"] != "2000 strings"]) == []
    assert max(case["outputs"]["logits"].get("max_abs", 0.0) for case in cases) < 1e-4


@needs_llama
def test_a_decoder_and_its_caches_need_no_session(llama: tuple[Path, Path, Any], tmp_path: Path) -> None:
    compiled(*llama, tmp_path / "target")
    path = tmp_path / "target" / "model.gguf"
    decoder = load_runtime("llama-cpp").opener()(path, threads=1, device="cpu").decoder()  # type: ignore[attr-defined]
    gc.collect()
    one, other = decoder.empty(), decoder.empty()
    first = decoder.step(np.array([[5, 6, 7]]), one)
    decoder.step(np.array([[9, 9]]), other)
    later = decoder.step(np.array([[8]]), one)
    decoder.leave(other)
    again = decoder.empty()
    assert np.abs(decoder.step(np.array([[5, 6, 7]]), again) - first).max() == 0
    assert np.abs(decoder.step(np.array([[8]]), again) - later).max() == 0
    with pytest.raises(ValueError, match="one row"):
        decoder.empty(2)


@needs_llama
def test_a_wrong_name_of_the_split_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from packager.runtimes.llama_cpp import _texts

    made, about = made_of("llama", tmp_path)
    monkeypatch.setattr(_texts, "choose_name", lambda split: "llama-bpe")
    compiled(made.source, made.graph, about, tmp_path / "target")
    found = findings(measured(made, tmp_path / "target", tmp_path / "m"))
    assert found and all("llama-cpp's own loop" in message and "`prompt_ids`" in message for message in found)
