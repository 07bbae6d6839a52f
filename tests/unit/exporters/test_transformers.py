# SPDX-License-Identifier: Apache-2.0
"""Hugging Face directories: inputs from the tokenizer, heads by name, pooling inside the graph, nothing invented."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
import transformers

from packager import exporters
from packager.errors import SourceError, StepError
from tests.unit.exporters.conftest import opened

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 50,
    "max_position_embeddings": 40,
}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "small", "cat"]


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded BERT classifier with a tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES, num_labels=3)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


@pytest.fixture
def encoder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a sentence-transformers directory."""

    def write(pooling: dict[str, Any], *, normalize: bool = True) -> Path:
        torch.manual_seed(0)
        transformers.BertModel(transformers.BertConfig(**SIZES)).save_pretrained(tmp_path)
        kinds = ["Transformer", "Pooling", "Normalize"][: 3 if normalize else 2]
        paths = ["", "1_Pooling", "2_Normalize"]
        entries = [
            {"idx": i, "path": paths[i], "type": f"sentence_transformers.models.{k}"} for i, k in enumerate(kinds)
        ]
        (tmp_path / "modules.json").write_text(json.dumps(entries))
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
        return tmp_path

    return write


def feeds(rows: int, length: int, *, types: bool = False) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(rows * 100 + length)
    mask = np.ones((rows, length), "int64")
    mask[-1, 1:] = 0
    found = {"input_ids": random.integers(0, 50, (rows, length)), "attention_mask": mask}
    return {**found, "token_type_ids": random.integers(0, 2, (rows, length))} if types else found


def test_a_head_by_its_architecture(bert: Path) -> None:
    model = opened(bert)
    names = [(port.name, port.dtype, port.shape, port.range) for port in model.interface.inputs]
    assert names == [
        ("input_ids", "int64", ("batch", "sequence"), (0, 49)),
        ("attention_mask", "int64", ("batch", "sequence"), (0, 1)),
        ("token_type_ids", "int64", ("batch", "sequence"), (0, 1)),
    ]
    assert model.interface.dimensions == {"batch": (1, 64), "sequence": (1, 40)}
    assert {"tokenizer/vocab.txt", "tokenizer/tokenizer_config.json"} <= set(model.extra_files())


def test_every_promised_length_works(bert: Path) -> None:
    model = opened(bert)
    proto = model.to_onnx(18)
    assert [value.name for value in proto.graph.output] == ["logits"]
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    for rows, length in ((1, 1), (2, 1), (1, 2), (3, 40)):
        given = feeds(rows, length, types=True)
        np.testing.assert_allclose(session.run(None, given)[0], model.run(given)[0], atol=1e-6)


def test_the_recipe_may_leave_inputs_out(bert: Path) -> None:
    shape = ["rows", "tokens"]
    wanted = {name: {"dtype": "int64", "shape": shape} for name in ("input_ids", "attention_mask")}
    model = opened(bert, inputs=wanted, dynamic={"rows": [1, 4], "tokens": [2, 16]})
    assert model.interface.dimensions == {"rows": (1, 4), "tokens": (2, 16)}
    assert model.interface.inputs[0].range == (0, 49)
    assert model.run(feeds(2, 5))[0].shape == (2, 3)


def test_an_unknown_input(bert: Path) -> None:
    with pytest.raises(StepError, match="the model has no input `pixels`, expected some of `input_ids`"):
        opened(bert, inputs={"pixels": {"dtype": "int64", "shape": ["batch", "sequence"]}})


def test_no_more_positions_than_the_model_has(bert: Path) -> None:
    with pytest.raises(StepError, match="the source accepts `sequence` from 1 to 40, got 1 to 41"):
        opened(bert, dynamic={"sequence": [1, 41]})


def mean(tokens: Any, mask: Any) -> Any:
    return (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)


def largest(tokens: Any, mask: Any) -> Any:
    return np.where(mask[..., None] == 1, tokens, -np.inf).max(1)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, mean),
        ({"pooling_mode": "mean", "include_prompt": True}, mean),
        ({"pooling_mode_cls_token": True}, lambda tokens, mask: tokens[:, 0]),
        ({"pooling_mode": "max"}, largest),
    ],
)
def test_pooling_in_numpy_agrees(encoder: Any, pooling: dict[str, Any], expected: Callable[..., Any]) -> None:
    source, given = encoder(pooling), feeds(3, 7)
    with torch.no_grad():
        tensors = {name: torch.from_numpy(array) for name, array in given.items()}
        tokens = transformers.BertModel.from_pretrained(source)(**tensors).last_hidden_state.numpy()
    vector = expected(tokens, given["attention_mask"])
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    np.testing.assert_allclose(opened(source).run(given)[0], vector, atol=1e-6)


def test_an_encoder_is_one_graph(encoder: Any) -> None:
    model = opened(encoder({"pooling_mode": "max"}, normalize=False))
    proto = model.to_onnx(18)
    assert [value.name for value in proto.graph.output] == ["sentence_embedding"]
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    for rows, length in ((1, 1), (4, 9)):
        given = feeds(rows, length)
        np.testing.assert_allclose(session.run(None, given)[0], model.run(given)[0], atol=1e-6)


def test_an_unknown_pooling(encoder: Any) -> None:
    with pytest.raises(StepError, match=r"expected pooling modes of mean, cls, max, .*, got attention"):
        opened(encoder({"pooling_mode": "attention"}))


def copied(bert: Path, folder: Path, **config: Any) -> Path:
    for file in bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stated, **config}))
    return folder


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, r"names its own code \(`auto_map`\), which is never run"),
        ({"architectures": ["NoSuchModel"]}, "architecture `NoSuchModel` is not in this version of transformers"),
        ({"architectures": []}, "architecture `nothing`"),
        ({"architectures": ["BertForQuestionAnswering"]}, "the weights lack `qa_outputs.bias`"),
        ({"architectures": ["BartForSequenceClassification"]}, r"encoder-decoder models \(`BartFor.*two graphs"),
    ],
)
def test_what_is_refused(bert: Path, tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(StepError, match=message):
        opened(copied(bert, tmp_path, **config))


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}, "gptq, 4 bits, groups of 128"),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm"}, "awq, 4 bits, groups of 64"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 32}}},
            },
            "compressed-tensors, 4 bits, groups of 32",
        ),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, 4 bits"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"config_groups": {"a": 1}}, "an unnamed method"),
        (["gptq"], "an unnamed method"),
    ],
)
def test_quantised_weights_are_named_before_anything_is_opened(stated: Any, words: str) -> None:
    """By the small files alone, so that `init` says it, in the layouts that the quantisers' own libraries write."""
    table = json.dumps({"architectures": ["LlamaForCausalLM"], "quantization_config": stated}).encode()
    with pytest.raises(SourceError) as refused:
        exporters.detect_kind(["config.json", "model.safetensors"], lambda path: table)
    assert f"the weights are quantised (`config.json`: {words})" in refused.value.message
    assert "`precision: int4`" in str(refused.value.hint)


def test_weights_are_never_invented(bert: Path, tmp_path: Path) -> None:
    folder = copied(bert, tmp_path)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights.pop("classifier.weight")
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        StepError, match=r"the weights lack `classifier\.weight`, which `BertForSequenceClassification`"
    ):
        opened(folder)


def test_broken_weights(bert: Path, tmp_path: Path) -> None:
    folder = copied(bert, tmp_path)
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(StepError, match=r"`model\.safetensors` is refused: its header claims"):
        opened(folder)


def test_pickled_weights_are_not_opened(bert: Path, tmp_path: Path) -> None:
    folder = copied(bert, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"`pytorch_model\.bin` is a pickle"):
        opened(folder)


def test_mlflow_keeps_the_tokenizer_apart(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "components" / "tokenizer").mkdir(parents=True)
    copied(bert, tmp_path / "model")
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / "model" / name).rename(tmp_path / "components" / "tokenizer" / name)
    (tmp_path / "MLmodel").write_text("flavors: {transformers: {model_binary: model}}\n")
    model = opened(tmp_path)
    assert [port.name for port in model.interface.inputs][2:] == ["token_type_ids"]
    assert model.extra_files()["tokenizer/vocab.txt"].parent.name == "tokenizer"


def test_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    model = opened(tmp_path)
    (port,) = model.interface.inputs
    assert (port.name, port.shape) == ("pixel_values", ("batch", 3, 32, 32))
    assert model.run({"pixel_values": np.zeros((2, 3, 32, 32), "float32")})[0].shape == (2, 2)
