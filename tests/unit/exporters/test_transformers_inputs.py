# SPDX-License-Identifier: Apache-2.0
"""What models of transformers take: all that a processor makes, sizes of images and sound, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from packager import exporters
from packager.errors import StepError
from packager.exporters._transformers import compared, images, inputs
from packager.steps import export, measure
from tests.matrix import transformers_models
from tests.unit.exporters.conftest import opened
from tests.unit.exporters.test_transformers import SIZES

STAGES = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}


def saved(folder: Path, kind: Any, config: Any, processor: dict[str, Any] | None = None) -> Path:
    torch.manual_seed(0)
    kind(config).eval().save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def worst(folder: Path, **params: Any) -> float:
    """Return the largest difference of a build's own measurement."""
    params = {"kind": "transformers", "payload": ".", "opset": 18, "ir": 8, "seed": 0, **params}
    tree, out = folder / "tree", folder / "out"
    tree.mkdir(), out.mkdir()
    facts = export.run({"source": folder}, tree, params)
    known = {"interface": facts["interface"], "ranges": facts["ranges"], "runtime": "onnxruntime"}
    made = measure.run({"source": folder, "artefact": tree}, out, {**params, **known, "path": "model/model.onnx"})
    found = [one for case in made["cases"] for one in case["outputs"].values()]
    assert not any(one.get("not_finite") or "got" in one for one in found)
    return max(one["max_abs"] for one in found)


def shapes(source: Any) -> dict[str, tuple[int | str, ...]]:
    return {port.name: port.shape for port in source.interface.inputs}


# -- text with more than text


@pytest.fixture(scope="module")
def layoutlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layoutlm")
    return saved(folder, transformers.LayoutLMForTokenClassification, transformers.LayoutLMConfig(**SIZES))


@pytest.mark.slow  # tests/matrix has every architecture
def test_boxes_are_an_input(layoutlm: Path) -> None:
    source = opened(layoutlm)
    assert shapes(source)["bbox"] == ("batch", "sequence", 4)
    ids, mask = np.ones((1, 3), "int64"), np.ones((1, 3), "int64")
    boxes = np.zeros((2, 1, 3, 4), "int64")
    boxes[1, ..., 2:] = 900
    given = [{"input_ids": ids, "attention_mask": mask, "bbox": box} for box in boxes]
    here, there = (source.run(feeds)[0] for feeds in given)
    assert not np.allclose(here, there)
    session = onnxruntime.InferenceSession(source.to_onnx(18).SerializeToString())
    np.testing.assert_allclose(session.run(None, given[1])[0], there, atol=1e-6)


def test_drawn_boxes_have_their_corners_in_order() -> None:
    drawn = np.random.default_rng(0).integers(0, 1000, (5, 7, 4))
    made = inputs.make_plausible({"bbox": drawn, "input_ids": drawn})
    assert (made["bbox"][..., :2] <= made["bbox"][..., 2:]).all()
    assert made["input_ids"] is drawn


def test_drawn_masks_of_images_have_no_holes() -> None:
    drawn = np.random.default_rng(0).integers(0, 2, (4, 8, 9))
    for mask in inputs.make_plausible({"pixel_mask": drawn})["pixel_mask"]:
        height, width = mask.any(1).sum(), mask.any(0).sum()
        assert height and width and (mask[:height, :width] == 1).all() and mask.sum() == height * width


def test_undescribed_tokenizer_input_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, transformers.BertModel, transformers.BertConfig(**SIZES))
    made = ["input_ids", "attention_mask", "position_ids"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_input_names": made}))
    with pytest.raises(StepError, match="input `position_ids` of `BertModel` cannot be described"):
        opened(tmp_path)
    wanted = {name: {"dtype": "int64", "shape": ["batch", "sequence"], "range": [0, 1]} for name in made}
    assert set(shapes(opened(tmp_path, inputs=wanted))) == set(made)


def test_a_needed_input_of_unknown_make_is_refused_by_name(tmp_path: Path) -> None:
    sizes = {"num_latents": 4, "d_latents": 16, "d_model": 16, "num_blocks": 1, "num_self_attends_per_block": 1}
    config = transformers.PerceiverConfig(
        **sizes, num_self_attention_heads=2, num_cross_attention_heads=2, vocab_size=20, max_position_embeddings=12
    )
    saved(tmp_path, transformers.PerceiverForMaskedLM, config)
    with pytest.raises(StepError, match="input `inputs` of `PerceiverForMaskedLM` cannot be described"):
        opened(tmp_path)


def test_too_long_dimension_has_the_recipes_name(layoutlm: Path) -> None:
    wanted = {"input_ids": {"dtype": "int64", "shape": ["rows", "tokens"]}}
    with pytest.raises(StepError, match="the source accepts `tokens` from 1 to 40, got 1 to 41"):
        opened(layoutlm, inputs=wanted, dynamic={"tokens": [1, 41]})


def test_a_decoder_of_sound_has_the_positions_of_its_text(tmp_path: Path) -> None:
    config = transformers.WhisperConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        vocab_size=30,
        max_target_positions=24,
        max_source_positions=20,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    saved(tmp_path, transformers.WhisperForCausalLM, config)
    assert opened(tmp_path).interface.dimensions["sequence"] == (1, 24)


def test_characters_are_code_points_where_no_vocabulary_is(tmp_path: Path) -> None:
    config = transformers.CanineConfig(
        **{**SIZES, "max_position_embeddings": 64},
        num_hash_buckets=32,
        num_hash_functions=2,
        local_transformer_stride=8,
        bos_token_id=1,
        eos_token_id=2,
    )
    saved(tmp_path, transformers.CanineModel, config)
    ids = next(port for port in opened(tmp_path).interface.inputs if port.name == "input_ids")
    assert ids.range == (0, 0x10FFFF)


def test_classifier_without_padding_token_takes_single_rows(tmp_path: Path) -> None:
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=30, n_positions=20, pad_token_id=None)
    saved(tmp_path, transformers.GPT2ForSequenceClassification, config)
    assert shapes(opened(tmp_path))["input_ids"] == (1, "sequence")


@pytest.mark.slow
def test_tokens_outside_a_window_of_attention_do_not_count(tmp_path: Path) -> None:
    config = transformers.ModernBertConfig(
        **{**SIZES, "num_hidden_layers": 2}, local_attention=4, global_attn_every_n_layers=2, pad_token_id=0
    )
    saved(tmp_path, transformers.ModernBertForTokenClassification, config)
    assert worst(tmp_path) < 1e-5


@pytest.mark.slow  # tests/matrix has every architecture
def test_experts_become_arithmetic(tmp_path: Path) -> None:
    config = transformers.MixtralConfig(
        **SIZES, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, sliding_window=None
    )
    saved(tmp_path, transformers.MixtralForCausalLM, config)
    assert worst(tmp_path) < 1e-5


# -- images


@pytest.mark.parametrize(
    ("processor", "built", "expected"),
    [
        ({"size": {"height": 30, "width": 40}}, None, [(30, 40)]),
        (
            {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True},
            64,
            [(32, 32)],
        ),
        ({"size": {"shortest_edge": 40}, "crop_size": 32, "do_center_crop": False}, None, [None]),
        ({"size": {"shortest_edge": 40}, "crop_pct": 0.875}, None, [(40, 40)]),
        ({"size": 48}, None, [(48, 48)]),
        ({"size": [30, 40]}, None, [(30, 40)]),
        ({"size": 800, "max_size": 1333}, None, [None]),
        ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, 64, [None, (64, 64)]),
        ({"size": {"height": 30, "width": 40}, "keep_aspect_ratio": True}, None, [None]),
        ({"size": {"shortest_edge": 8}, "do_pad": True, "pad_size": {"height": 9, "width": 10}}, None, [(9, 10)]),
        ({"do_resize": False}, 64, [None, (64, 64)]),
        ({}, 64, [(64, 64)]),
        ({}, [30, 40], [(30, 40)]),
        ({}, None, [None]),
    ],
)
def test_the_size_of_images(processor: dict[str, Any], built: Any, expected: list[Any]) -> None:
    model = SimpleNamespace(config=SimpleNamespace(image_size=built))
    assert [size.fixed for size in images.image_sizes(model, processor)] == expected


def test_free_images_are_as_long_as_the_processor_makes_them() -> None:
    model = SimpleNamespace(config=SimpleNamespace())
    (size,) = images.image_sizes(model, {"size": {"shortest_edge": 800, "longest_edge": 1333}})
    assert size.longest == 1333


def resnet(folder: Path, processor: dict[str, Any] | None = None) -> Path:
    return saved(folder, transformers.ResNetForImageClassification, transformers.ResNetConfig(**STAGES), processor)


def test_images_of_free_size(tmp_path: Path) -> None:
    source = opened(resnet(tmp_path), dynamic={"batch": [1, 4], "height": [64, 200]})
    assert shapes(source) == {"pixel_values": ("batch", 3, "height", "width")}
    assert source.interface.dimensions == {"batch": (1, 4), "height": (64, 200), "width": (64, 512)}
    session = onnxruntime.InferenceSession(source.to_onnx(18).SerializeToString())
    for height, width in ((64, 64), (65, 131), (200, 97)):
        given = {"pixel_values": np.random.default_rng(0).standard_normal((2, 3, height, width)).astype("float32")}
        np.testing.assert_allclose(session.run(None, given)[0], source.run(given)[0], atol=1e-5)


def test_images_as_the_processor_crops_them(tmp_path: Path) -> None:
    processor = {"size": {"shortest_edge": 256}, "crop_size": {"height": 96, "width": 80}, "do_center_crop": True}
    source = opened(resnet(tmp_path, processor))
    assert shapes(source) == {"pixel_values": ("batch", 3, 96, 80)}
    assert "tokenizer/preprocessor_config.json" in source.extra_files()


def test_images_as_the_recipe_says(tmp_path: Path) -> None:
    wanted = {"pixel_values": {"dtype": "float32", "shape": ["batch", 3, 70, 90], "range": [0, 1]}}
    (port,) = opened(resnet(tmp_path), inputs=wanted).interface.inputs
    assert (port.shape, port.range) == (("batch", 3, 70, 90), (0, 1))


def test_model_with_few_sizes_needs_a_stated_one(tmp_path: Path) -> None:
    backbone = transformers.RTDetrResNetConfig(**STAGES, out_features=["stage2", "stage3", "stage4"])
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[8, 8, 8],
        encoder_hidden_dim=16,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=5,
        decoder_in_channels=[16, 16, 16],
    )
    saved(tmp_path, transformers.RTDetrForObjectDetection, config)
    with pytest.raises(StepError, match="the model does not take `pixel_values` of every size") as refused:
        opened(tmp_path)
    assert "write the size under `inputs`: `pixel_values: {dtype: float32" in str(refused.value.hint)
    wanted = {"pixel_values": {"dtype": "float32", "shape": ["batch", 3, 64, 96]}}
    assert shapes(opened(tmp_path, inputs=wanted)) == {"pixel_values": ("batch", 3, 64, 96)}


@pytest.mark.slow
def test_two_towers_take_as_many_rows_each_as_they_like(tmp_path: Path) -> None:
    text = {**SIZES, "eos_token_id": 2}
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 8,
    }
    saved(tmp_path, transformers.CLIPModel, transformers.CLIPConfig(text_config=text, vision_config=vision))
    source = opened(tmp_path)
    assert shapes(source) == {
        "input_ids": ("texts", "sequence"),
        "attention_mask": ("texts", "sequence"),
        "pixel_values": ("images", 3, 32, 32),
    }
    session = onnxruntime.InferenceSession(source.to_onnx(18).SerializeToString())
    given = {
        "input_ids": np.arange(12).reshape(2, 6),
        "attention_mask": np.ones((2, 6), "int64"),
        "pixel_values": np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype("float32"),
    }
    named = dict(zip((value.name for value in session.get_outputs()), session.run(None, given), strict=True))
    assert named["logits_per_image"].shape == (3, 2)
    for name, one in zip(source.outputs, source.run(given), strict=True):
        np.testing.assert_allclose(named[name], one, atol=1e-5)


@pytest.mark.slow
def test_attention_causal_only_with_padding_is_refused(tmp_path: Path) -> None:
    """AIMv2's text tower forgets to be causal where transformers drops the mask: `sdpa`, and no row has padding."""
    transformers_models.write("aimv2", "base", tmp_path, narrow=True)
    with pytest.raises(StepError, match="`Aimv2Model` in two ways") as caught:
        opened(tmp_path)
    config = tmp_path / "config.json"
    assert '"attn_implementation": "eager"' in str(caught.value.hint)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"attn_implementation": "eager"}))
    assert worst(tmp_path) < 1e-5


def test_masks_of_images_are_an_input_where_the_processor_pads(tmp_path: Path) -> None:
    backbone = transformers.ResNetConfig(**STAGES, out_features=["stage4"])
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=5,
    )
    size = {"size": {"height": 64, "width": 96}}
    saved(tmp_path, transformers.DetrForObjectDetection, config, {**size, "do_pad": True})
    assert shapes(opened(tmp_path)) == {"pixel_values": ("batch", 3, 64, 96), "pixel_mask": ("batch", 64, 96)}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**size, "do_pad": False}))
    assert shapes(opened(tmp_path)) == {"pixel_values": ("batch", 3, 64, 96)}


# -- sound


def test_sound_of_any_length(tmp_path: Path) -> None:
    config = transformers.Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=20,
        conv_dim=[8, 8],
        conv_kernel=[10, 4],
        conv_stride=[5, 4],
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=8,
        num_feat_extract_layers=2,
    )
    saved(tmp_path, transformers.Wav2Vec2ForSequenceClassification, config, {"sampling_rate": 8000})
    source = opened(tmp_path)
    assert shapes(source) == {"input_values": ("batch", "samples")}
    assert source.interface.dimensions["samples"] == (45, 80_000)
    session = onnxruntime.InferenceSession(source.to_onnx(18).SerializeToString())
    for length in (45, 46, 999):
        given = {"input_values": np.random.default_rng(0).standard_normal((2, length)).astype("float32")}
        np.testing.assert_allclose(session.run(None, given)[0], source.run(given)[0], atol=1e-5)


def test_drawn_sound_is_level_and_silence_stays_silent() -> None:
    loud = np.random.default_rng(0).standard_normal((2, 500)).astype("float32") * 50 + 7
    made = inputs.make_plausible({"input_values": np.concatenate([loud, np.full((1, 500), -1, "float32")])})[
        "input_values"
    ]
    np.testing.assert_allclose(made.mean(1), 0, atol=1e-4)
    np.testing.assert_allclose(made.std(1), [1, 1, 0], atol=1e-3)


# -- what is compared


def test_padding_is_not_compared_and_the_rest_is() -> None:
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    tokens, pooled = np.ones((2, 3, 4), "float32"), np.ones((2, 3), "float32")
    hidden, kept = compared.mask_outputs(mask, [tokens, pooled], (True, False))
    assert hidden.sum() == 3 * 4 and kept is pooled


def detections() -> list[Any]:
    random = np.random.default_rng(0)
    return [random.random((2, 6, 3)), random.random((2, 6, 4)), random.random((2, 4, 6, 5))]


def test_detections_are_a_set() -> None:
    names, expected = ("logits", "pred_boxes", "hidden"), detections()
    order = [3, 1, 2, 0, 5, 4]
    shuffled = [expected[0][:, order], expected[1][:, order], expected[2][:, :, order]]
    for one, other in zip(compared.match_detections(names, expected, shuffled), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_detection_that_is_elsewhere_stays_a_difference() -> None:
    names, expected = ("logits", "pred_boxes", "hidden"), detections()
    moved = [array.copy() for array in expected]
    moved[1][1, 2] += 0.25
    found = compared.match_detections(names, expected, [moved[0][:, ::-1], moved[1][:, ::-1], moved[2][:, :, ::-1]])
    assert np.isclose(abs(found[1] - expected[1]).max(), 0.25)


def test_a_source_without_a_say_is_compared_as_it_is() -> None:
    left, right = [np.zeros(2)], [np.ones(2)]
    assert exporters.mask_for_comparison(exporters.leaves_of(object(), {}), {}, left, right) == (left, right)  # type: ignore[arg-type]
    assert exporters.make_plausible(object(), {"x": left[0]}) == {"x": left[0]}  # type: ignore[arg-type]
