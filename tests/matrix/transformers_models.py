# SPDX-License-Identifier: Apache-2.0
"""Every architecture of the installed transformers by task, as a small model with seeded weights in a directory.

Configurations are the library's own defaults, shrunk by the names of their numbers; a processor or tokenizer is
written beside the weights as far as the library says what it makes. `rows` lists them, `write` makes one.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

TASKS = {
    "sequence-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "token-classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "causal-lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked-lm": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "question-answering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "object-detection": "MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES",
    "semantic-segmentation": "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
    "depth-estimation": "MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES",
    "audio-classification": "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "zero-shot-image-classification": "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "base": "MODEL_MAPPING_NAMES",
}
VOCABULARY, SIDE, POSITIONS = 128, 64, 64
_WIDTHS = (
    r"(hidden_size|d_model|n_embd|dim|embed_dim|hidden_dim|emb_dim|embedding_size|word_embed_proj_dim|projection_dim)"
)
_INNER = r"(.*intermediate_size|.*ffn_dim|d_ff|n_inner|d_inner|ffn_hidden_size|.*ffn_embed_dim)"
_LAYERS = r"(num_hidden_layers|n_layers?|num_layers|encoder_layers|decoder_layers|num_.*coder_layers|num_hidden_groups)"
_HEADS = r"(num_attention_heads|n_heads?|num_heads|.*coder_attention_heads|num_.*attention_heads)"
_RULES: list[tuple[str, Any]] = [
    (r"(.*_)?vocab_size", VOCABULARY),
    (r"(max_position_embeddings|n_positions|max_seq_len|max_seq_length|n_ctx|max_source_positions)", POSITIONS),
    (_WIDTHS, 64),
    (_INNER, 64),
    (_HEADS, 4),
    (r"(num_key_value_heads|num_kv_heads|n_head_kv|multi_query_group_num)", 2),
    (r"(head_dim|d_kv|global_head_dim|kv_channels|attention_head_dim|v_head_dim)", 16),
    (r"(q_lora_rank|kv_lora_rank|qk_rope_head_dim|qk_nope_head_dim)", 8),
    (r"(num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_routed_experts|ffn_num_experts)", 4),
    (r"(num_experts_per_tok|num_experts_per_token|moe_k|top_k_experts|moe_top_k|moe_topk)", 2),
    (r"(n_group|topk_group|first_k_dense_replace|n_shared_experts)", 1),
    (r"(sliding_window|local_attention|attention_window|window_size)", 8),
    (r"num_queries", 12),
    (r"(d_latents|num_latents)", 32),
    (r"(num_self_attends_per_block|num_blocks)", 1),
    (r"max_length", 64),
]
_NARROWING = {_WIDTHS, _INNER, _HEADS}


def rows() -> list[tuple[str, str]]:
    """Return every (model type, task) of the release, the tasks in turn."""
    listed = [[(kind, task) for kind in getattr(modeling_auto, name)] for task, name in TASKS.items()]
    return [row for turn in zip_longest(*listed) for row in turn if row is not None]


def write(kind: str, task: str, folder: Path, *, narrow: bool = True) -> dict[str, list[int]]:
    """Write the small model of a row with what a processor and a tokenizer make of its inputs.

    Return what a recipe would narrow: sound as long as the default is seconds of work on every case.
    """
    config = shrunk(CONFIG_MAPPING[kind](), narrow=narrow)
    named = getattr(modeling_auto, TASKS[task])[kind]
    name = named if isinstance(named, str) else named[0]
    torch.manual_seed(0)
    model = getattr(transformers, name)(config)
    if sum(weight.numel() for weight in model.parameters()) > 60_000_000:
        raise ValueError(f"`{name}` stays larger than 60 M parameters")
    perturb(model)
    model.eval().save_pretrained(folder)
    _write_processors(kind, config, folder, pictured=model.main_input_name == "pixel_values")
    return (
        {"samples": [720, 4000]} if hasattr(config, "conv_kernel") and model.main_input_name == "input_values" else {}
    )


def perturb(model: Any) -> None:
    """Move every weight off the constants that layers start from, so that nothing is hidden by zeros and ones."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.is_floating_point():
                weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(1 + 0.2 * torch.rand(buffer.shape, generator=generator))
            elif name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn(buffer.shape, generator=generator))


def shrunk(config: Any, *, narrow: bool) -> Any:
    """Return a configuration with few layers, short tables and small images; also narrow layers, where that is asked."""
    table = config.to_dict()
    _shrink(table, narrow)
    return type(config).from_dict(table)


def _shrink(table: dict[str, Any], narrow: bool) -> None:
    for key, value in list(table.items()):
        if isinstance(value, dict):
            _shrink(value, narrow)
        elif isinstance(key, str) and isinstance(value, int) and not isinstance(value, bool):
            table[key] = _number(key, value, narrow)
    if (table.get("backbone_config") or {}).get("model_type") == "timm_backbone" or table.get("use_timm_backbone"):
        table |= _own_backbone(table.get("num_feature_levels", 1))
    layers = _layers(table)
    for key in [key for key in table if re.fullmatch(_LAYERS, str(key)) and isinstance(table[key], int)]:
        table[key] = min(table[key], layers) if "depths" not in table else table[key]
    _shorten(table, layers)


def _own_backbone(levels: int) -> dict[str, Any]:
    """Return what puts a small backbone of the library's own in place of one of timm's, which is not installed."""
    stages = ["stage4"] if levels == 1 else ["stage2", "stage3", "stage4"]
    widths = {"embedding_size": 8, "hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}
    backbone = transformers.ResNetConfig(**widths, out_features=stages).to_dict()
    return {"use_timm_backbone": False, "backbone": None, "backbone_kwargs": None, "backbone_config": backbone}


def _layers(table: dict[str, Any]) -> int:
    """Return how many layers there must be: as many as a head reads, and then those are the ones it reads."""
    read = table.get("out_indices") or table.get("backbone_out_indices") or table.get("out_features") or ()
    if "use_auxiliary_head" in table and len(read) != 4:
        read = table["out_indices"] = [1, 2, 3, 4]
    varied = any(key.endswith(("_types", "_every_n_layers", "_pattern", "_interval")) for key in map(str, table))
    layers = max(2 if varied or "decoder_layers" in table else 1, len(read))
    if read and "depths" not in table:
        for key in ("out_features", "stage_names"):
            table.pop(key, None)
        for key, shift in (("out_indices", 1), ("backbone_out_indices", 0)):
            if table.get(key):
                table[key] = list(range(layers - len(table[key]) + shift, layers + shift))
    return layers


def _number(key: str, value: int, narrow: bool) -> int:
    if key.endswith(("_token_id", "_token_index")):
        return value if value < VOCABULARY else VOCABULARY - 2 - sum(map(ord, key)) % 16
    for pattern, small in _RULES:
        if re.fullmatch(pattern, key) and (narrow or pattern not in _NARROWING):
            return min(value, small) if value > 0 else value
    return value


def _shorten(table: dict[str, Any], layers: int) -> None:
    """Shorten what is listed per layer, and give images the side that all of these models take."""
    if isinstance(table.get("depths"), list):
        table["depths"] = [1] * len(table["depths"])
        if isinstance(table.get("window_size"), int):
            table["window_size"] = 2  # of the smallest stage: images are that small
    for key in ("layer_types", "mlp_layer_types", "layers_block_type", "attention_types"):
        if isinstance(table.get(key), list) and len(table[key]) > layers:
            kinds = list(dict.fromkeys(map(str, table[key])))
            table[key] = (kinds if len(kinds) == layers else table[key])[:layers]
    table |= dict.fromkeys({"width_coefficient", "depth_coefficient"} & set(table), 0.3)
    side = SIDE if SIDE % _int(table.get("patch_size"), 1) == 0 else 4 * table["patch_size"]
    for key in ("image_size", "input_size"):
        if isinstance(table.get(key), int) and table[key] > side:
            table[key] = side
        elif isinstance(table.get(key), list | tuple) and len(table[key]) == 2:
            table[key] = [side, side]
    if {"qk_rope_head_dim", "qk_nope_head_dim"} <= set(table):  # latent attention: these follow from those
        table |= {"head_dim": table["qk_rope_head_dim"], "num_key_value_heads": table["num_attention_heads"]}
        table.pop("qk_head_dim", None)
    _name_tokens(table)


def _name_tokens(table: dict[str, Any]) -> None:
    """Give a vocabulary and a padding token to configurations that leave them to whoever trains the model."""
    if "vocab_size" in table and table["vocab_size"] is None:
        table["vocab_size"] = VOCABULARY
    if "pad_token_id" in table and table["pad_token_id"] is None and "vocab_size" in table:
        table["pad_token_id"] = 0


def _int(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise


# -- processors


def _write_processors(kind: str, config: Any, folder: Path, *, pictured: bool) -> None:
    side = next(_sides(config), SIDE)
    square = {"do_resize": True, "size": {"height": side, "width": side}}  # of most, where the library names none
    for part in (_image_processor(kind) or (square if pictured else None), _feature_extractor(kind)):
        if part is not None:
            (folder / "preprocessor_config.json").write_text(json.dumps(_resized(part, side), default=str))
    names = _tokenizer_names(config)
    if names:
        (folder / "tokenizer_config.json").write_text(json.dumps({"model_input_names": names}))


def _sides(config: Any) -> Iterator[int]:
    for part in (config, getattr(config, "vision_config", None), getattr(config, "backbone_config", None)):
        size = getattr(part, "image_size", None)
        if size:
            yield size if isinstance(size, int) else size[0]


def _resized(table: dict[str, Any], side: int) -> dict[str, Any]:
    for key in ("size", "crop_size"):
        size = table.get(key)
        if isinstance(size, dict):
            ends = {"longest_edge": side * 3 // 2, "max_height": side, "max_width": side}
            table[key] = {name: ends.get(name, side) for name in size}
    return table


def _image_processor(kind: str) -> dict[str, Any] | None:
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    named = IMAGE_PROCESSOR_MAPPING_NAMES.get(kind)
    listed = named.values() if isinstance(named, dict) else [named]
    return _settings([name for name in listed if name and name.endswith("Pil")] or [name for name in listed if name])


def _feature_extractor(kind: str) -> dict[str, Any] | None:
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES

    return _settings([FEATURE_EXTRACTOR_MAPPING_NAMES.get(kind)])


def _settings(names: list[Any]) -> dict[str, Any] | None:
    for name in names:
        with contextlib.suppress(Exception):  # its own packages may be missing: then nothing lies beside the weights
            table = getattr(transformers, name)().to_dict()
            return {key: value for key, value in table.items() if isinstance(value, int | float | str | dict | list)}
    return None


def _tokenizer_names(config: Any) -> list[str] | None:
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

    with contextlib.suppress(Exception):
        found = TOKENIZER_MAPPING[type(config)]
        found = next(one for one in found if one is not None) if isinstance(found, tuple) else found
        return list(found.model_input_names)
    return None
