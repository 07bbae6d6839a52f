# SPDX-License-Identifier: Apache-2.0
"""Directories of sentence-transformers: every module against the library's own call on sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import sentence_transformers as library
import torch
import transformers
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    Transformer,
)

from packager.errors import StepError
from tests.support.breadth import first_of_each, some_of
from tests.unit.exporters.conftest import opened
from tests.unit.exporters.test_transformers import SIZES, VOCABULARY

SENTENCES = ["a small cat", "a", "cat cat cat a small small cat"]
POOLINGS = ("mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@pytest.fixture(scope="session")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded BERT without a head, with a tokenizer."""
    folder = tmp_path_factory.mktemp("body")
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**SIZES)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


@pytest.fixture
def saved(body: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves an encoder of the given modules with the library itself."""

    def save(*modules: Any) -> Path:
        library.SentenceTransformer(modules=[Transformer(str(body)), *modules], device="cpu").save(str(tmp_path))
        return tmp_path

    return save


def agrees(folder: Path, *, side: str = "right", **params: Any) -> None:
    """Hold the source and its graph against the library on sentences, padded on the given side."""
    whole = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    whole.tokenizer.padding_side = side
    made = whole.tokenizer(SENTENCES, padding=True, return_tensors="np")
    source = opened(folder, **params)
    feeds = {port.name: made[port.name].astype("int64") for port in source.interface.inputs}
    expected = whole.encode(SENTENCES, convert_to_numpy=True)
    session = onnxruntime.InferenceSession(source.to_onnx(18).SerializeToString())
    np.testing.assert_allclose(source.run(feeds)[0], expected, atol=1e-6)
    np.testing.assert_allclose(session.run(None, feeds)[0], expected, atol=1e-6)


@pytest.mark.parametrize("mode", some_of(POOLINGS, "mean"))
def test_every_pooling(saved: Any, mode: str) -> None:
    agrees(saved(Pooling(32, mode), Normalize()))


@pytest.mark.parametrize(
    "mode", ["lasttoken", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("cls", "weightedmean"))]
)
def test_padding_on_the_left(saved: Any, mode: str) -> None:
    agrees(saved(Pooling(32, mode)), side="left")


@pytest.mark.slow
def test_several_poolings_are_joined_in_their_order(saved: Any) -> None:
    agrees(saved(Pooling(32, ("max", "mean", "lasttoken")), Normalize()))


@pytest.mark.slow
def test_old_pooling_switches_keep_the_library_order(saved: Any) -> None:
    folder = saved(Pooling(32, "mean"))
    switches = {f"pooling_mode_{name}": True for name in ("lasttoken", "mean_tokens", "cls_token")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **switches}))
    agrees(folder)


@pytest.mark.parametrize(
    "activation", first_of_each([torch.nn.Tanh(), torch.nn.GELU(), torch.nn.Identity(), None], lambda one: "named")
)
def test_dense_with_its_activation(saved: Any, activation: Any) -> None:
    agrees(saved(Pooling(32, "mean"), Dense(32, 8, activation_function=activation), Normalize()))


@pytest.mark.parametrize("width", [8, pytest.param(32, marks=pytest.mark.slow)])
def test_dense_with_a_residual_behind_other_modules(saved: Any, width: int) -> None:
    torch.manual_seed(0)
    agrees(saved(Pooling(32, "mean"), LayerNorm(32), Dropout(0.1), Dense(32, width, bias=False, use_residual=True)))


def test_dense_on_tokens_comes_before_the_pooling(saved: Any) -> None:
    plain = Dense(32, 8, activation_function=None, module_input_name="token_embeddings")
    agrees(saved(plain, Pooling(8, "mean")))


def test_weights_in_half_precision_are_computed_in_single(saved: Any) -> None:
    folder = saved(Pooling(32, "mean"), Dense(32, 8))
    for path in folder.rglob("*.safetensors"):
        from safetensors.torch import load_file, save_file

        save_file({k: v.bfloat16() for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stated, "dtype": "bfloat16"}))
    source = opened(folder)
    assert {weight.dtype for weight in source.module.parameters()} == {torch.float32}
    ids = np.ones((2, 3), "int64")
    assert source.run({port.name: ids for port in source.interface.inputs})[0].dtype == np.float32


def test_an_encoder_saved_with_a_head_is_opened_without_it(saved: Any, tmp_path: Path) -> None:
    folder = saved(Pooling(32, "mean"))
    torch.manual_seed(1)
    transformers.BertForMaskedLM(transformers.BertConfig(**SIZES)).save_pretrained(folder)
    agrees(folder)


def edited(folder: Path, name: str, **entries: Any) -> Path:
    stated = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**stated, **entries}))
    return folder


def test_an_unknown_module(saved: Any) -> None:
    folder = saved(Pooling(32, "mean"))
    entries = json.loads((folder / "modules.json").read_text())
    entries[1]["type"] = "sentence_transformers.models.CNN"
    (folder / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(StepError, match=r"expected the modules Transformer, then some of .* got `Transformer`, `CNN`"):
        opened(folder)


def test_an_activation_of_ones_own(saved: Any) -> None:
    folder = saved(Pooling(32, "mean"), Dense(32, 8))
    with pytest.raises(StepError, match=r"the activation `mine\.Tanh` of Dense is not one of torch's"):
        opened(edited(folder, "2_Dense/config.json", activation_function="mine.Tanh").parent / folder.name)


def test_pickled_weights_of_a_module(saved: Any) -> None:
    folder = saved(Pooling(32, "mean"), Dense(32, 8))
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(StepError, match=r"the module `2_Dense` has no `model\.safetensors`"):
        opened(folder)


@pytest.mark.slow
def test_a_prompt_that_the_pooling_leaves_out(saved: Any) -> None:
    folder = saved(Pooling(32, "mean", include_prompt=False))
    agrees(folder)
    edited(folder, "config_sentence_transformers.json", prompts={"query": "query: "})
    with pytest.raises(StepError, match="the pooling leaves a prompt's tokens out"):
        opened(folder)
