# SPDX-License-Identifier: Apache-2.0
"""Encoder-decoders as two graphs against transformers' own tokens, and faults that the comparison must find."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packager.policies import parity

from packager import json_schema, plugins
from packager.conform.generation import Reference, judge
from packager.deploy import conversation
from packager.errors import StepError, UsageError
from packager.recipe.clauses import Tolerance
from tests.support import language_models

EXPORT = {"kind": "transformers", "payload": ".", "opset": 18, "ir": 10}
STEPS = 8
TEXTS = "text2text-generation"
SPEECH = "automatic-speech-recognition"
BEAMS = {"num_beams": 3, "max_length": 40, "no_repeat_ngram_size": 2}


@dataclass
class Made:
    """A model that was exported and answered the prompts."""

    source: Path
    graph: Path
    reference: Path
    facts: Any
    task: str


def run(step: str, inputs: dict[str, Path], out: Path, params: dict[str, Any]) -> Any:
    module = plugins.load("steps", step)
    out.mkdir()
    facts = module.run(inputs, out, params)
    assert next(json_schema.check(facts, module.ANSWER, "facts"), None) is None
    return facts


def reference(source: Path, out: Path, task: str = TEXTS) -> Path:
    run("reference_seq2seq", {"source": source}, out, {**EXPORT, "task": task, "steps": STEPS})
    return out


def make(folder: Path, kind: str, generation: dict[str, Any]) -> Made:
    task = SPEECH if kind == "whisper" else TEXTS
    source = language_models.write(folder / "source", kind, generation=generation)
    facts = run("export_generation", {"source": source}, folder / "graph", {**EXPORT, "task": task})
    return Made(source, folder / "graph", reference(source, folder / "reference", task), facts, task)


def measure(made: Made, out: Path, **instead: Any) -> Any:
    about = {**made.facts["generation"], "tokenizer": f"sha256:{'0' * 64}", "template": None}
    about = instead.pop("about", about)
    inputs = {"graph": made.graph, "artefact": made.graph, "reference": made.reference, **instead}
    params = {"runtime": "onnxruntime", "path": "model/model.onnx", "generation": about}
    return run("measure_seq2seq", inputs, out, params)["cases"]


def findings(cases: Any) -> list[str]:
    """Return what the rule `parity` says of cases."""
    names = plugins.load("steps", "measure_seq2seq").OUTPUTS
    bound = Tolerance(1e-3, 1e-4).to_json()
    more = {"precision": "fp32", "engine": "onnxruntime", "unmeasured": None, "cases": cases}
    target = {**more, "tolerance": dict.fromkeys(names, bound)}
    return [finding.message for finding in parity.check({"targets": {"t": target}})]


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("t5"), "t5", BEAMS)


def test_tokens_beams_and_texts_are_those_of_the_source(t5: Made, tmp_path: Path) -> None:
    cases = measure(t5, tmp_path / "m")
    assert len(cases) >= 7 and cases[-1]["name"].endswith("in one batch")
    assert findings(cases) == []
    for case in cases:
        assert case["outputs"]["logits"]["max_abs"] < 1e-4, case["name"]
        assert [case["outputs"][name]["unequal"] for name in ("beams", "prompt_ids", "text", "tokens")] == [0] * 4
    answers = json.loads((t5.reference / "outputs.json").read_text())["prompts"]
    assert all(row["beams"]["tokens"] for row in answers)
    assert len({tuple(row["tokens"]) for row in answers}) > 2, "answers depend on their sources"


def test_the_contract_has_what_a_site_needs(t5: Made) -> None:
    about = t5.facts["generation"]
    assert (about["task"], about["context"], about["cache"]) == (TEXTS, 256, {"layers": 1, "bytes": 2 * 2 * 16 * 4})
    assert about["decoding"]["start"] == [1] and about["decoding"]["beams"] == 3
    assert about["decoding"]["longest"] == 40 and about["decoding"]["rules"]["no_repeat"] == 2
    ports = {port["name"]: port["shape"] for port in t5.facts["interface"]["inputs"]}
    assert ports["past_key_values.0.encoder.key"] == ["batch", 2, "source", 16]
    assert ports["past_key_values.0.decoder.value"] == ["batch", 2, "past", 16]
    assert set(t5.facts["graph"]["opset"]) == {"ai.onnx"}


def test_another_rule_or_weight_is_found(t5: Made, tmp_path: Path) -> None:
    import copy

    about = copy.deepcopy({**t5.facts["generation"], "tokenizer": f"sha256:{'0' * 64}", "template": None})
    about["decoding"]["rules"]["no_repeat"] = 0
    about["decoding"]["beams"] = 2
    found = findings(measure(t5, tmp_path / "rules", about=about))
    assert any("output `tokens`" in row for row in found) and any("output `beams`" in row for row in found)
    other = language_models.write(tmp_path / "other", "t5", generation=BEAMS, layer_norm_epsilon=1e-2)
    found = findings(measure(t5, tmp_path / "weights", reference=reference(other, tmp_path / "r")))
    assert any("output `logits`: off by" in row for row in found)


@pytest.fixture(scope="module")
def site(t5: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the configuration of a server over the graphs, as an installation has it."""
    digest = f"sha256:{'0' * 64}"
    named = {"name": "words", "version": "1.0.0", "digest": digest, "target": "onnxruntime-cpu-fp32"}
    value = {
        **named,
        "runtime": "onnxruntime",
        "artefact": str(t5.graph / "model" / "model.onnx"),
        "files": str(t5.graph),
        "interface": t5.facts["interface"],
        "generation": {**t5.facts["generation"], "tokenizer": digest, "template": None},
    }
    path = tmp_path_factory.mktemp("site") / "serve.json"
    path.write_text(json.dumps(value))
    return path


@pytest.fixture(scope="module")
def prompt(t5: Made) -> tuple[str, str]:
    """Return a text, and what the source answers with its beams."""
    from transformers import AutoTokenizer

    (asked, *_) = json.loads((t5.reference / "prompts.json").read_text())["prompts"]
    (row, *_) = json.loads((t5.reference / "outputs.json").read_text())["prompts"]
    tokenizer = AutoTokenizer.from_pretrained(t5.source)
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    return asked["text"], tokenizer.decode(row["beams"]["tokens"], **options)


def test_the_server_answers_as_the_source(site: Path, prompt: tuple[str, str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "packager.server", str(site), "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def ask(path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error).get("error", "")

    try:
        for _ in range(300):
            assert server.poll() is None
            with contextlib.suppress(OSError):
                if ask("/v2/health/ready")[0] == 200:
                    break
            time.sleep(0.1)
        text, expected = prompt
        rows = json.dumps({"rows": [text, {"text": text}], "max_tokens": STEPS}).encode()
        status, found = ask("/predict", rows)
        assert status == 200 and [row["text"] for row in found["answers"]] == [expected] * 2
        status, found = ask("/predict", text.encode(), "text/plain")
        assert status == 200 and 0 < found["answers"][0]["tokens"] <= 39
        assert ask("/predict/about")[1]["task"] == TEXTS and ask("/v1/models")[1]["data"][0]["id"] == "words"
        for body, kind, status, words in (
            (b"word " * 400, "text/plain", 400, "expected at most 256"),
            (b"", "text/plain", 400, "the text is empty"),
            (b"\xff", "text/plain", 400, "not UTF-8"),
            (b"RIFF", "audio/wav", 400, "reads texts, not audio"),
            (b"{}", "image/png", 415, "Content-Type"),
            (b'{"text": "a", "beams": 99}', "application/json", 400, "from 1 to 16"),
            (b'{"text": "a", "temperature": 1, "beams": 2}', "application/json", 400, "exclude each other"),
            (b'{"text": "a", "stop": "b"}', "application/json", 400, "expected a text"),
            (b'{"text": "a", "language": "de"}', "application/json", 400, "`language` is not supported"),
            (b'{"rows": []}', "application/json", 400, "1 to 64 rows"),
        ):
            refused = ask("/predict", body, kind)
            assert refused[0] == status and words in refused[1], (body, refused)
        assert ask("/v1/audio/transcriptions", b"x")[0] == 404
    finally:
        server.terminate()
        assert server.wait(60) == 0


def test_the_worker_answers_and_conforms(t5: Made, site: Path, prompt: tuple[str, str]) -> None:
    command = [sys.executable, "-P", "-m", "packager.server.generation.worker", str(site), "1"]
    document = json.loads((t5.reference / "prompts.json").read_text())
    answers = json.loads((t5.reference / "outputs.json").read_text())["prompts"]
    known = {row["name"]: row for row in answers}
    about = Reference(document["prompts"], known, 256, beams=3, longest=40, steps=STEPS)
    bound = {"atol": 1e-3, "rtol": 1e-4}
    found = judge(about, bound, lambda: conversation.start_conversation(command, os.environ), 4)
    assert found["outcome"] == "pass", found["reason"]
    known["plain"] = {**known["plain"], "beams": {**known["plain"]["beams"], "tokens": [7]}}
    found = judge(about, bound, lambda: conversation.start_conversation(command, os.environ), 3)
    assert "prompt plain: beams: token 0: expected 7" in found["reason"] and found["levels"]["L3"] == "fail"
    with conversation.start_conversation(command, os.environ) as model:
        pieces = list(model.ask({"text": prompt[0]}, {"max_tokens": STEPS}))
        assert "".join(piece for piece in pieces if isinstance(piece, str)) == prompt[1]
        with pytest.raises(UsageError, match="holds no conversation"):
            list(model.ask({"messages": []}, {}))


@pytest.mark.parametrize(
    ("kind", "task", "generation", "words"),
    [
        ("t5", SPEECH, {}, "reads texts"),
        ("bart", TEXTS, {"num_beams": 99}, "asks for 99 beams"),
        ("bart", TEXTS, {"num_beams": 2, "do_sample": True}, "2 beams that are drawn"),
        ("bart", TEXTS, {"num_beam_groups": 2}, "num_beam_groups"),
        ("bart", TEXTS, {"suppress_tokens": [4096]}, "expected a whole number from 0 to 511"),
        ("llama", TEXTS, {}, "is no encoder-decoder"),
    ],
)
def test_what_would_be_answered_otherwise_is_refused(
    kind: str, task: str, generation: dict[str, Any], words: str, tmp_path: Path
) -> None:
    source = language_models.write(tmp_path / "source", kind)
    if generation:
        language_models.edit(source / "generation_config.json", **generation)
    with pytest.raises(StepError, match=words) as refused:
        run("export_generation", {"source": source}, tmp_path / "out", {**EXPORT, "task": task})
    assert refused.value.hint


def test_an_extractor_that_is_not_whispers_is_refused(tmp_path: Path) -> None:
    source = language_models.write(tmp_path / "source", "whisper")
    language_models.edit(source / "preprocessor_config.json", do_normalize=True)
    with pytest.raises(StepError, match="sets `do_normalize` to `True`"):
        run("export_generation", {"source": source}, tmp_path / "out", {**EXPORT, "task": SPEECH})


@pytest.mark.slow  # half a minute of tracing each
@pytest.mark.parametrize(
    ("kind", "generation"),
    [
        ("mt5", BEAMS),
        ("bart", {"num_beams": 4, "forced_bos_token_id": 3, "forced_eos_token_id": 0, "min_length": 4}),
        ("mbart", {"num_beams": 2, "forced_bos_token_id": 7}),
        ("marian", {"num_beams": 3, "bad_words_ids": [[1], [5, 6]], "forced_eos_token_id": 0}),
        ("pegasus", {"num_beams": 4, "length_penalty": 0.8, "early_stopping": True}),
        ("m2m_100", {"num_beams": 5, "forced_bos_token_id": 9, "early_stopping": "never"}),
        ("whisper", {"suppress_tokens": [5, 6], "begin_suppress_tokens": [9], "no_timestamps_token_id": 511}),
    ],
)
def test_architectures(kind: str, generation: dict[str, Any], tmp_path: Path) -> None:
    made = make(tmp_path, kind, {**generation, "max_length": 40})
    assert findings(measure(made, tmp_path / "m")) == []


@pytest.mark.slow  # another export
def test_bytes_repeat_in_another_directory(t5: Made, tmp_path: Path) -> None:
    away = shutil.copytree(t5.source, tmp_path / "a" / "longer" / "path")
    run("export_generation", {"source": away}, tmp_path / "again", {**EXPORT, "task": TEXTS})
    for path in (path for path in t5.graph.rglob("*") if path.is_file()):
        assert (tmp_path / "again" / path.relative_to(t5.graph)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("config", "files", "found"),
    [
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, ("tokenizer.json",), TEXTS),
        ({"architectures": ["MarianMTModel"], "is_encoder_decoder": True}, ("tokenizer.json",), TEXTS),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, (), None),
        (
            {"architectures": ["WhisperForConditionalGeneration"], "is_encoder_decoder": True},
            ("tokenizer.json", "preprocessor_config.json"),
            SPEECH,
        ),
        ({"architectures": ["WhisperForConditionalGeneration"], "is_encoder_decoder": True}, ("tokenizer.json",), None),
        (
            {"architectures": ["ProphetNetForConditionalGeneration"], "is_encoder_decoder": True},
            ("tokenizer.json",),
            None,
        ),
    ],
)
def test_a_draft_proposes_the_task(config: Any, files: tuple[str, ...], found: str | None) -> None:
    content = {"config.json": json.dumps(config).encode(), **dict.fromkeys(files, b"{}")}
    module = plugins.load("exporters", "transformers")
    assert module.task(".", list(content), content.__getitem__) == found


def test_a_draft_refuses_what_the_build_would_refuse() -> None:
    config = {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}
    content = {"config.json": config, "tokenizer.json": {}, "generation_config.json": {"penalty_alpha": 0.6}}
    files = {name: json.dumps(value).encode() for name, value in content.items()}
    module = plugins.load("exporters", "transformers")
    with pytest.raises(StepError, match=r"sets `penalty_alpha` to `0.6`") as refused:
        module.task(".", list(files), files.__getitem__)
    assert refused.value.hint
