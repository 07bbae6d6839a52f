# SPDX-License-Identifier: Apache-2.0
"""Adapters of the small language models, written as PEFT saves them, with seeded matrices and without PEFT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from packager.formats import safetensors

CONFIG: Mapping[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "somewhere/else",
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "lora_dropout": 0.0,
    "modules_to_save": None,
    "peft_version": "0.21.2",
    "use_dora": False,
    "use_rslora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
}
LAYERS: Mapping[str, tuple[int, int]] = {"q_proj": (64, 64), "v_proj": (64, 32)}
"""Layers of `language_models.LLAMA` that adapters change: the lengths of what goes in and comes out."""


def matrices(seed: int = 0, rank: int = 4, layers: Mapping[str, tuple[int, int]] = LAYERS) -> dict[str, Any]:
    """Return the tensors of an adapter by PEFT's names, large enough to change tokens."""
    drawn = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for number in range(2):
        for name, (taken, given) in layers.items():
            path = f"base_model.model.model.layers.{number}.self_attn.{name}"
            found[f"{path}.lora_A.weight"] = drawn.normal(0, 0.3, (rank, taken)).astype(np.float32)
            found[f"{path}.lora_B.weight"] = drawn.normal(0, 0.3, (given, rank)).astype(np.float32)
    return found


def write(folder: Path, seed: int = 0, rank: int = 4, tensors: Mapping[str, Any] | None = None, **members: Any) -> Path:
    """Save an adapter; `members` are others of its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    made = matrices(seed, rank) if tensors is None else tensors
    data = {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in made.items()}
    (folder / "adapter_model.safetensors").write_bytes(safetensors.dump(data))
    config = {**CONFIG, "r": rank, "lora_alpha": 2 * rank, "target_modules": sorted(LAYERS), **members}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
