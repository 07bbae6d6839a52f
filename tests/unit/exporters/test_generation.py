# SPDX-License-Identifier: Apache-2.0
"""Decoders with a key-value cache against transformers' own tokens, and faults that the comparison must find."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packager.policies import parity

from packager import json_schema, plugins
from packager.errors import StepError, UsageError
from packager.exporters._generation import files as tokenizer_files
from packager.lock import draft, recipe_checks
from packager.pipelines.strings import draw_strings
from packager.recipe import recipe
from packager.recipe.clauses import Tolerance
from packager.server.generation.tokenizer import Tokenizer
from tests.support import language_models
from tests.support.once import made_once

EXPORT = {"kind": "transformers", "payload": ".", "opset": 18, "ir": 10}
STEPS = 8


@dataclass
class Made:
    """A model that was exported and answered the prompts."""

    source: Path
    graph: Path
    reference: Path
    facts: Any


def run(step: str, inputs: dict[str, Path], out: Path, params: dict[str, Any]) -> Any:
    module = plugins.load("steps", step)
    out.mkdir()
    facts = module.run(inputs, out, params)
    assert next(json_schema.check(facts, module.ANSWER, "facts"), None) is None
    return facts


def reference(source: Path, out: Path) -> Path:
    run("reference", {"source": source}, out, {**EXPORT, "steps": STEPS})
    return out


def make(folder: Path, kind: str, **changes: Any) -> Made:
    source = language_models.write(folder / "source", kind, **changes)
    facts = run("export_generation", {"source": source}, folder / "graph", EXPORT)
    return Made(source, folder / "graph", reference(source, folder / "reference"), facts)


def make_llama(factory: pytest.TempPathFactory) -> Made:
    """Return the Llama of several files of tests, exported once in a run."""

    def fill(folder: Path) -> None:
        (folder / "facts.json").write_text(json.dumps(make(folder, "llama").facts))

    place = made_once(factory, "exported-llama", fill)
    facts = json.loads((place / "facts.json").read_text())
    return Made(place / "source", place / "graph", place / "reference", facts)


def measure(made: Made, out: Path, **instead: Path) -> Any:
    inputs = {"graph": made.graph, "artefact": made.graph, "reference": made.reference, **instead}
    params = {
        "runtime": "onnxruntime",
        "path": "model/model.onnx",
        "generation": {"bos": made.facts["generation"]["special"]["bos"], "eos": 0},
    }
    return run("measure_generation", inputs, out, params)["cases"]


def findings(cases: Any) -> list[str]:
    """Return what the rule `parity` says of cases."""
    bound = Tolerance(1e-3, 1e-4).to_json()
    names = plugins.load("steps", "measure_generation").OUTPUTS
    target = {
        "precision": "fp32",
        "engine": "onnxruntime",
        "tolerance": dict.fromkeys(names, bound),
        "unmeasured": None,
        "cases": cases,
    }
    return [finding.message for finding in parity.check({"targets": {"t": target}})]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_llama(tmp_path_factory)


def test_tokens_logits_ids_and_texts_are_those_of_the_source(llama: Made, tmp_path: Path) -> None:
    cases = measure(llama, tmp_path / "m")
    assert [case["name"] for case in cases] == [
        *(
            f"prompt {n}"
            for n in ("plain", "question", "numbers", "code", "accents", "scripts", "spaces", "chat", "long")
        ),
        "prompts plain and scripts in one batch",
        "2000 strings",
    ]
    for case in cases:
        assert case["outputs"]["logits"].get("max_abs", 0.0) < 1e-5, case["name"]
        assert [case["outputs"][name]["unequal"] for name in ("prompt_ids", "text", "tokens")] == [0, 0, 0]
    assert findings(cases) == []


def test_the_contract_has_what_a_site_needs(llama: Made) -> None:
    assert llama.facts["generation"] == {
        "task": "text-generation",
        "architecture": "LlamaForCausalLM",
        "vocabulary": 512,
        "context": 256,
        "special": {"bos": 0, "eos": [0], "pad": 0},
        "cache": {"layers": 2, "bytes": 2 * 2 * 2 * 16 * 4},
        "sampling": {},
    }
    assert set(llama.facts["graph"]["opset"]) == {"ai.onnx"}
    ports = {port["name"]: port["shape"] for port in llama.facts["interface"]["inputs"]}
    assert ports["attention_mask"] == ["batch", "total"]
    assert ports["past_key_values.1.value"] == ["batch", 2, "past", 16]


def test_the_reference_is_small_and_says_how_certain_each_token_was(llama: Made) -> None:
    outputs = json.loads((llama.reference / "outputs.json").read_text())["prompts"]
    assert (llama.reference / "outputs.json").stat().st_size < 100_000
    for row in outputs:
        assert len(row["tokens"]) == len(row["gaps"]) == len(row["top"]) <= STEPS
        assert all(top[0][0] == token for top, token in zip(row["top"], row["tokens"], strict=True))
        assert all(gap >= 0 for gap in row["gaps"])


@pytest.mark.slow
def test_bytes_repeat_in_another_process_and_directory(llama: Made, tmp_path: Path) -> None:
    away = shutil.copytree(llama.source, tmp_path / "a" / "longer" / "path")
    code = (
        "import sys; from pathlib import Path; from packager import plugins\n"
        "out = Path(sys.argv[2]); out.mkdir()\n"
        f"plugins.load('steps', 'export_generation').run({{'source': Path(sys.argv[1])}}, out, {EXPORT!r})"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    subprocess.run([sys.executable, "-c", code, away, tmp_path / "again"], check=True, env=environment)

    def digests(folder: Path) -> dict[str, str]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    assert digests(tmp_path / "again") == digests(llama.graph)


def test_another_rotary_base_is_found_with_the_prompt_and_the_step(llama: Made, tmp_path: Path) -> None:
    other = shutil.copytree(llama.source, tmp_path / "other")
    language_models.edit(other / "config.json", rope_parameters={"rope_theta": 500.0, "rope_type": "default"})
    cases = measure(llama, tmp_path / "m", reference=reference(other, tmp_path / "r"))
    (logits, tokens) = findings(cases)
    assert "case `prompt " in logits and "output `logits`: off by" in logits and "worst element [0, " in logits
    assert "output `tokens`" in tokens and "worst element [" in tokens


def test_a_wrong_class_of_the_tokenizer_is_found(llama: Made, tmp_path: Path) -> None:
    """The class selects code in transformers: with this one texts are split in another way than its file says."""
    other = shutil.copytree(llama.source, tmp_path / "other")
    language_models.edit(other / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", add_prefix_space=True)
    cases = measure(llama, tmp_path / "m", reference=reference(other, tmp_path / "r"))
    assert any("output `prompt_ids`" in found and "case `" in found for found in findings(cases))


def test_a_tokenizer_that_differs_in_one_string_of_hundreds_is_found(llama: Made, tmp_path: Path) -> None:
    """No prompt shows it: only what stands before U+0345 and two other marks is split in another way."""
    other = shutil.copytree(llama.graph, tmp_path / "graph")
    path = other / "generation" / "tokenizer.json"
    table = json.loads(path.read_text())
    mark = {"type": "Replace", "pattern": {"String": "\u0345"}, "content": "x"}
    path.write_text(json.dumps({**table, "normalizer": mark}))
    (found,) = findings(measure(llama, tmp_path / "m", graph=other))
    assert "case `2000 strings`, output `prompt_ids`" in found and "u{345}" in found and " ids " in found


def test_a_tokenizer_with_other_tokens_than_the_model_is_refused(llama: Made, tmp_path: Path) -> None:
    other = shutil.copytree(llama.source, tmp_path / "other")
    language_models.edit(other / "tokenizer_config.json", tokenizer_class="RobertaTokenizer")
    with pytest.raises(StepError, match="of the prompt `plain`, outside of the model's vocabulary"):
        reference(other, tmp_path / "r")


def test_onnxruntime_genai_gives_the_same_tokens(llama: Made, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai")
    params = {
        "runtime": "onnxruntime-genai",
        "device": "cpu",
        "precision": "fp32",
        "path": "model/model.onnx",
        "interface": llama.facts["interface"],
        "generation": llama.facts["generation"],
        "opset": 18,
        "ir": 8,
    }
    made = run("compile", {"graph": llama.graph}, tmp_path / "target", params)
    assert (tmp_path / "target" / "genai_config.json").is_file() and made["path"] == "model.onnx"
    inputs = {"graph": llama.graph, "reference": llama.reference, "artefact": tmp_path / "target"}
    asked = {"runtime": "onnxruntime-genai", "path": made["path"], "generation": {"bos": 0, "eos": 0}}
    cases = run("measure_generation", inputs, tmp_path / "m", asked)["cases"]
    assert len(cases) == 10 and findings(cases) == []


def test_onnxruntime_genai_needs_a_task() -> None:
    text = 'name: x\nversion: 1.0.0\nsource: x\nruns-on: {onnxruntime-genai: ">=0.18"}\n'
    with pytest.raises(UsageError, match="states no `task`") as refused:
        recipe_checks.check_targets(recipe.parse(text, "bundle.yaml"))
    assert "task: text-generation" in (refused.value.hint or "")
    recipe_checks.check_targets(recipe.parse(f"{text}task: text-generation\n", "bundle.yaml"))


def test_another_template_is_found(llama: Made, tmp_path: Path) -> None:
    other = shutil.copytree(llama.graph, tmp_path / "graph")
    path = other / "generation" / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|end|>", ""))
    cases = measure(llama, tmp_path / "m", graph=other)
    (found,) = findings(cases)
    assert "case `prompt chat`, output `prompt_ids`" in found


@pytest.mark.parametrize(
    ("kind", "words"),
    [("bert", "takes no key-value cache"), ("t5", "encoder-decoder"), ("mamba", "takes no key-value cache")],
)
def test_what_generates_otherwise_is_refused(kind: str, words: str, tmp_path: Path) -> None:
    source = language_models.write(tmp_path / "source", kind)
    with pytest.raises(StepError, match=words) as refused:
        run("export_generation", {"source": source}, tmp_path / "out", EXPORT)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"suppress_tokens": [3]}, "suppress_tokens"),
        ({"num_beams": 4}, "num_beams"),
        ({"eos_token_id": 512}, "outside of the model's vocabulary"),
    ],
)
def test_settings_that_change_tokens_unseen_are_refused(
    llama: Made, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    source = shutil.copytree(llama.source, tmp_path / "source")
    language_models.edit(source / "generation_config.json", **changes)
    with pytest.raises(StepError, match=words):
        run("export_generation", {"source": source}, tmp_path / "out", EXPORT)


def test_the_class_that_transformers_takes_makes_the_ids_of_the_file(tmp_path: Path) -> None:
    """It follows from `model_type` for some models, `qwen2` among them, whatever `tokenizer_config.json` names."""
    texts = ["don't count 12345\n\n  of e\u0301", *draw_strings(40)]
    for kind in ("llama", "qwen2"):
        language_models.tokenizer(kind).save_pretrained(tmp_path / kind)
    for kind in ("llama", *(kind for kind, _ in language_models.ARCHITECTURES)):
        folder = tmp_path / (kind if kind == "qwen2" else "llama")
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))
        opened, made = tokenizer_files.open_tokenizer(folder, folder), Tokenizer.open(folder / "tokenizer.json")
        assert [list(opened(text).input_ids) for text in texts] == [made.encode(text) for text in texts], kind
        assert len(opened) == language_models.VOCABULARY, kind


@pytest.mark.slow  # a quarter of a minute of tracing each
@pytest.mark.parametrize(("kind", "changes"), language_models.ARCHITECTURES)
def test_architectures(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    made = make(tmp_path, kind, **changes)
    assert findings(measure(made, tmp_path / "m")) == []


@pytest.mark.parametrize(
    ("config", "files", "found"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, ("tokenizer.json",), "text-generation"),
        ({"architectures": ["GPT2LMHeadModel"]}, ("tokenizer_config.json",), "text-generation"),
        ({"architectures": ["LlamaForCausalLM"]}, (), None),
        ({"architectures": ["BertForMaskedLM"]}, ("tokenizer.json",), None),
        ({"architectures": ["BartForCausalLM"], "is_encoder_decoder": True}, ("tokenizer.json",), None),
        ({}, ("tokenizer.json",), None),
        ([], ("tokenizer.json",), None),
    ],
)
def test_a_draft_proposes_the_task(config: Any, files: tuple[str, ...], found: str | None) -> None:
    content = {"config.json": json.dumps(config).encode(), **dict.fromkeys(files, b"{}")}
    module = plugins.load("exporters", "transformers")
    assert module.task(".", list(content), content.__getitem__) == found


def test_mlflow_keeps_the_tokenizer_apart(llama: Made, tmp_path: Path) -> None:
    """MLflow's transformers flavour: weights in `model`, the tokenizer in `components/tokenizer`."""
    source = tmp_path / "flavour"
    shutil.copytree(llama.source, source / "model", ignore=shutil.ignore_patterns("tokenizer*", "chat_template*"))
    shutil.copytree(llama.source, source / "components" / "tokenizer", ignore=shutil.ignore_patterns("*.safetensors"))
    made = plugins.load("exporters", "transformers").load_generative(source, "model")
    expected = {path: (llama.graph / path).read_bytes() for path in made.files()}
    assert made.files() == expected and len(expected) == 2
    assert made.about() == llama.facts["generation"]


def test_a_draft_has_a_task_or_a_pipeline_never_both(tmp_path: Path) -> None:
    def drafted(name: str) -> str:
        text = draft.draft(name, draft.inspect_source(name, tmp_path))
        recipe.parse(text, "bundle.yaml")
        return text

    language_models.write(tmp_path / "causal")
    language_models.write(tmp_path / "classifier", "bert")
    language_models.edit(tmp_path / "classifier" / "config.json", architectures=["BertForSequenceClassification"])
    assert "\ntask: text-generation " in drafted("causal") and "\npipeline:" not in drafted("causal")
    assert "\npipeline: text-classification" in drafted("classifier") and "\ntask:" not in drafted("classifier")
