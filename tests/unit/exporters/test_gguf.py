# SPDX-License-Identifier: Apache-2.0
"""GGUF files as a source: by consent, through transformers, after our own look at the header."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from packager import plugins
from packager.edits import Edit
from packager.errors import SourceError, StepError, UsageError
from packager.exporters import detect_kind
from packager.formats import gguf, gguf_texts
from packager.lock import draft, recipe_checks
from packager.pipelines.strings import draw_strings
from packager.recipe import recipe
from packager.server.generation.tokenizer import Tokenizer
from tests.support import language_models
from tests.unit.exporters.test_generation import EXPORT, STEPS, run
from tests.unit.exporters.test_llama_cpp import compiled, files_of, split_as
from tests.unit.formats.test_gguf import made

pytest.importorskip("gguf", reason="gguf is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")
PARAMS = {**EXPORT, "kind": "gguf", "payload": "model.gguf"}
TEXT = "name: x\nversion: 1.0.0\nsource: x.gguf\ntask: text-generation\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a Llama whose matrices are blocks of eight bits."""
    folder = tmp_path_factory.mktemp("gguf")
    original = language_models.write(folder / "original")
    compiled(original, *files_of(original, folder / "graph"), folder / "source", "q8_0")
    assert gguf.read(folder / "source" / "model.gguf").quantised == ("Q8_0",)
    return folder / "source"


def test_it_becomes_a_source_with_tokenizer_and_template(source: Path, tmp_path: Path) -> None:
    found = plugins.load("exporters", "gguf").load_generative(source, "model.gguf")
    about = found.about()
    assert (about["architecture"], about["vocabulary"], about["context"]) == ("LlamaForCausalLM", 512, 256)
    assert about["special"] == {"bos": 0, "eos": [0], "pad": 0}
    assert found.files()["generation/chat_template.jinja"].decode() == language_models.TEMPLATE
    own = plugins.load("exporters", "transformers").load_generative(source.parent / "original", ".")
    for text in ("What is a module?", "  two\n\tlines ", "naïve 東京 🙂", "<|user|>hi<|end|>"):
        assert found.encode(text) == own.encode(text)
    answers = [next(iter(kind.answers(STEPS)))[2][0] for kind in (found, own)]
    assert 0 < abs(answers[0] - answers[1]).max() < 0.1, "what the blocks lost, and no more"


@pytest.mark.slow  # what is read of the blocks is held above, the graph of a decoder in test_generation.py
def test_the_graph_gives_what_the_blocks_say(source: Path, tmp_path: Path) -> None:
    facts = run("export_generation", {"source": source}, tmp_path / "graph", PARAMS)
    run("reference", {"source": source}, tmp_path / "reference", {**PARAMS, "steps": STEPS})
    inputs = {"graph": tmp_path / "graph", "artefact": tmp_path / "graph", "reference": tmp_path / "reference"}
    asked = {"runtime": "onnxruntime", "path": "model/model.onnx", "generation": {"bos": 0, "eos": 0}}
    cases = run("measure_generation", inputs, tmp_path / "m", asked)["cases"]
    assert facts["generation"]["context"] == 256 and len(cases) == 11
    for case in cases:
        assert [case["outputs"][name]["unequal"] for name in ("prompt_ids", "text", "tokens")] == [0, 0, 0]


@pytest.mark.parametrize(("kind", "changes"), [("llama", {}), ("qwen2", {}), ("qwen3", {"head_dim": 128})])
def test_transformers_reads_what_the_file_was_made_of(kind: str, changes: dict[str, int], tmp_path: Path) -> None:
    """Of Qwen 3 transformers reads no size of a head: it takes 128, which every published one has."""
    original = language_models.write(tmp_path / "original", kind, **changes)
    if kind == "qwen2":
        split_as(original, "qwen2")
    compiled(original, *files_of(original, tmp_path / "graph"), tmp_path / "source")
    found = plugins.load("exporters", "gguf").load_generative(tmp_path / "source", "model.gguf")
    own = plugins.load("exporters", "transformers").load_generative(original, ".")
    for (prompt, answer, logits), (other, expected, theirs) in zip(found.answers(4), own.answers(4), strict=True):
        assert prompt == other and answer["tokens"] == expected["tokens"]
        assert abs(logits - theirs).max() < 1e-5


@pytest.mark.parametrize("name", gguf_texts.NAMES)
def test_texts_are_split_as_the_file_names_it(name: str, tmp_path: Path) -> None:
    """The same vocabulary, split in each of the ways: ids of 500 strings are those of the tokenizer it was made of."""
    original = language_models.write(tmp_path / "original")
    split_as(original, name)
    compiled(original, *files_of(original, tmp_path / "graph"), tmp_path / "source")
    header = gguf.read(tmp_path / "source" / "model.gguf")
    assert header.values["tokenizer.ggml.pre"] == name
    (tmp_path / "tokenizer.json").write_bytes(gguf_texts.build_tokenizer(header))
    own, expected = (Tokenizer.open(place) for place in (tmp_path / "tokenizer.json", original / "tokenizer.json"))
    for text in draw_strings(500, tokens=language_models.SPECIAL):
        assert own.encode(text) == expected.encode(text), text
        assert own.decode(own.encode(text)) == expected.decode(expected.encode(text))


def test_nothing_is_dequantised_without_a_word() -> None:
    with pytest.raises(StepError, match=r"`x.gguf` may hold weights in blocks of fewer bits") as refused:
        recipe_checks.check_dequantize(recipe.parse(TEXT, "bundle.yaml"), "gguf", "x.gguf")
    assert "dequantize: true" in (refused.value.hint or "")
    assert list(refused.value.edits) == [Edit(("dequantize",), True, consents=True)]
    agreed = recipe.parse(f"{TEXT}dequantize: true\n", "bundle.yaml")
    recipe_checks.check_dequantize(agreed, "gguf", "x.gguf")
    with pytest.raises(UsageError, match="has no blocks"):
        recipe_checks.check_dequantize(agreed, "transformers", ".")
    assert "dequantize" not in recipe.parse(TEXT, "bundle.yaml").to_json() and agreed.to_json()["dequantize"] is True


def test_one_file_is_a_source_and_safetensors_come_first() -> None:
    def detected(*paths: str) -> tuple[str, str]:
        return detect_kind(paths, lambda path: b"{}")

    assert detected("model.Q4_1.gguf", "README.md") == ("gguf", "model.Q4_1.gguf")
    assert detected("config.json", "model.safetensors", "model.gguf") == ("transformers", ".")
    with pytest.raises(SourceError, match="holds 2 GGUF files") as refused:
        detected("a.gguf", "b.gguf")
    assert "give the path of one" in (refused.value.hint or "")


def test_one_pass_is_refused(source: Path) -> None:
    with pytest.raises(StepError, match="one pass") as refused:
        plugins.load("exporters", "gguf").load(source, "model.gguf", None)
    assert "task: text-generation" in (refused.value.hint or "")


def changed(key: str, value: int) -> Any:
    """Return what writes another number behind a key, and leaves all else."""
    begin = key.encode() + struct.pack("<I", 4)

    def change(data: bytes) -> bytes:
        place = data.index(begin) + len(begin)
        return data[:place] + struct.pack("<I", value) + data[place + 4 :]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-1000], "its tensors end at byte"),
        (lambda data: data.replace(b"llama", b"lamma"), "of the architecture `lamma`, and llama, qwen2, qwen3"),
        (
            lambda data: data.replace(b"\x05\0\0\0\0\0\0\0gpt-2", b"\x05\0\0\0\0\0\0\0dbrx5"),
            "`gpt2` split as `dbrx5`, and `gpt2` is read",
        ),
        (lambda data: data.replace(b"blk.1.ffn_up", b"blk.1.ffn_pu"), r"`blk.1.ffn_up.weight` .* it holds \[\]"),
        (lambda data: made(), "states no `llama.embedding_length`"),
        (changed("llama.embedding_length", 1 << 20), r"makes `token_embd.weight` \[1048576, 512\]"),
        (changed("llama.feed_forward_length", 1 << 30), r"makes `blk.0.ffn_up.weight` \[64, 1073741824\]"),
        (changed("llama.block_count", 1 << 24), r"makes `blk.2.attn_norm.weight` \[64\], and it holds \[\]"),
        (changed("llama.vocab_size", 1 << 28), r"makes `output.weight` \[64, 268435456\]"),
        (changed("llama.block_count", 0), "states no `llama.block_count`"),
        (changed("llama.attention.key_length", 1 << 24), "makes `blk.0.attn_q.weight`"),
        (changed("llama.attention.head_count", 1 << 24), "makes `blk.0.attn_q.weight`"),
    ],
)
def test_a_broken_file_ends_in_a_sentence(change: Any, words: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(change((source / "model.gguf").read_bytes()))
    with pytest.raises(StepError, match=words) as refused:
        run("export_generation", {"source": tmp_path}, tmp_path / "out", PARAMS)
    assert refused.value.hint and "\n" not in refused.value.message


def test_a_draft_states_the_task_and_asks_for_consent(source: Path) -> None:
    text = draft.draft("model.gguf", draft.inspect_source(str(source / "model.gguf"), source))
    assert "\ntask: text-generation " in text and "\ndequantize: false " in text
    recipe.parse(text, "bundle.yaml")
