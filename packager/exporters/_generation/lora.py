# SPDX-License-Identifier: Apache-2.0
"""Read an adapter that PEFT saved: two low-rank matrices for each layer that it changes, and nothing else.

What a layer gives becomes `W x + B A x · scaling`, with scaling `alpha / r`, or `alpha / sqrt(r)` for rsLoRA. Every
setting that changes more than that is refused by its name, and so is every tensor that is no such matrix.
Source: peft 0.21, `tuners/lora/config.py`, `tuners/lora/layer.py`, `utils/other.py` (patterns of names).
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters._transformers.files import read_json
from packager.formats import safetensors

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_TENSOR = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?P<side>[AB])\.weight")
_READ = frozenset({"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"})
_HARMLESS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    }
)
"""Settings of training, or of which layers have matrices, which the tensors say themselves."""
_NEUTRAL: Mapping[str, tuple[JSON, ...]] = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian")}
_MOST = 4 << 30  # bytes of the file of matrices


@dataclass(frozen=True, slots=True)
class Layer:
    """The matrices of one layer: `a` [in, rank] and `b` [rank, out], float32, scaling within `b`."""

    a: Any
    b: Any

    @property
    def rank(self) -> int:
        return int(self.a.shape[1])


def read_adapter(folder: Path) -> dict[str, Layer]:
    """Return the layers by their path in the base. Raises StepError for an adapter that does anything else."""
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise StepError(f"`{CONFIG}` holds no settings", hint="save the adapter again with `save_pretrained`")
    check_settings(config)
    path = folder / WEIGHTS
    safetensors.check(path)
    if path.stat().st_size > _MOST:
        raise StepError(f"`{WEIGHTS}` is larger than {_MOST} bytes", hint="use a smaller rank, or merge the adapter")
    pairs: dict[str, dict[str, Any]] = {}
    for name, tensor in safetensors.parse(path.read_bytes()).items():
        found = _TENSOR.fullmatch(name)
        if found is None:
            raise StepError(
                f"`{name:.120}` is no low-rank matrix of a layer",
                hint="train the adapter without `modules_to_save`, without biases and without new tokens, or merge it "
                "into the model (`merge_and_unload`) and ship that",
            )
        pairs.setdefault(found["path"], {})[found["side"]] = _array(name, tensor)
    if not pairs:
        raise StepError(f"`{WEIGHTS}` changes no layer", hint="save the adapter again with `save_pretrained`")
    return {layer: _layer(layer, pair, config) for layer, pair in sorted(pairs.items())}


def check_settings(config: Mapping[str, JSON]) -> None:
    """Raise StepError for a setting that changes what an adapter computes and is not done here."""
    if config.get("peft_type") != "LORA":
        raise StepError(
            f"the adapter is of the kind `{config.get('peft_type')!s:.40}`, expected `LORA`",
            hint="merge it into the model (`merge_and_unload`) and ship that",
        )
    for name, value in sorted(config.items()):
        if name in _READ | _HARMLESS or value in _NEUTRAL.get(name, ()) or (name not in _NEUTRAL and not value):
            continue
        raise StepError(
            f"`{CONFIG}` sets `{name:.60}` to `{value!s:.60}`, which is not done here",
            hint="train the adapter without it, or merge it into the model (`merge_and_unload`) and ship that",
        )


def _layer(path: str, pair: Mapping[str, Any], config: Mapping[str, JSON]) -> Layer:
    numpy = importlib.import_module("numpy")
    if set(pair) != {"A", "B"} or any(array.ndim != 2 for array in pair.values()):
        raise StepError(f"`{path:.120}` has not two matrices", hint="save the adapter again with `save_pretrained`")
    a, b = pair["A"], pair["B"]
    rank = a.shape[0]
    if b.shape[1] != rank or rank < 1:
        raise StepError(f"the matrices of `{path:.120}` are {list(a.shape)} and {list(b.shape)}: two ranks")
    if not (numpy.isfinite(a).all() and numpy.isfinite(b).all()):
        raise StepError(f"a matrix of `{path:.120}` holds values that are no numbers", hint="train the adapter again")
    alpha, stated = _stated(config, "alpha_pattern", path, "lora_alpha"), _stated(config, "rank_pattern", path, "r")
    if stated != rank:
        raise StepError(
            f"`{CONFIG}` states rank {stated} for `{path:.120}`, and its matrices have {rank}",
            hint="save the adapter again with `save_pretrained`",
        )
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    scaled = (b.astype("float64") * scaling).astype("float32")
    return Layer(numpy.ascontiguousarray(a.T), numpy.ascontiguousarray(scaled.T))


def _stated(config: Mapping[str, JSON], patterns: str, path: str, default: str) -> float:
    """Return a number for a layer: of the first pattern that its path ends with, else the default."""
    table = config.get(patterns) or {}
    keys = [key for key in table if isinstance(key, str) and _matches(key, path)] if isinstance(table, dict) else []
    value = table[keys[0]] if keys else config.get(default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise StepError(f"`{CONFIG}` states no `{default}`", hint="save the adapter again with `save_pretrained`")
    return float(value)


def _matches(pattern: str, path: str) -> bool:
    try:
        return re.match(rf"(.*\.)?({pattern})$", path) is not None
    except re.error:
        raise StepError(f"`{pattern:.60}` in `{CONFIG}` is no pattern of names") from None


def _array(name: str, tensor: safetensors.Tensor) -> Any:
    numpy = importlib.import_module("numpy")
    dtype, shape, data = tensor
    if dtype == "bfloat16":
        wide = numpy.frombuffer(data, "<u2").astype("<u4") << 16
        return wide.view("<f4").reshape(shape)
    if dtype not in ("float32", "float16"):
        raise StepError(f"`{name:.120}` is {dtype}, expected float32, float16 or bfloat16")
    return numpy.frombuffer(data, {"float32": "<f4", "float16": "<f2"}[dtype]).astype("float32").reshape(shape)


def fit_layers(layers: Mapping[str, Layer], taken: Mapping[str, Sequence[JSON]]) -> dict[str, safetensors.Tensor]:
    """Return the tensors of an adapter by the name of the base's input; `taken` are the shapes of those.

    All get the largest rank there is, by zeros. Raises StepError for a layer that the base has no input for.
    """
    numpy = importlib.import_module("numpy")
    rank = max(layer.rank for layer in layers.values())
    found: dict[str, safetensors.Tensor] = {}
    for path, layer in layers.items():
        a = numpy.pad(layer.a, ((0, 0), (0, rank - layer.rank)))
        b = numpy.pad(layer.b, ((0, rank - layer.rank), (0, 0)))
        for side, array in (("a", a), ("b", b)):
            name = f"lora.{path}.{side}"
            if name not in taken:
                kinds = sorted({item.removeprefix("lora.").rpartition(".")[0].rpartition(".")[2] for item in taken})
                raise StepError(
                    f"the adapter changes `{path:.120}`, and the base takes adapters of {', '.join(kinds)} alone",
                    hint="name its kind of layer under `adapters` in the recipe of the base, and build that again",
                )
            wanted = [size if isinstance(size, int) else rank for size in taken[name]]
            if list(array.shape) != wanted:
                raise StepError(
                    f"the adapter's `{path:.120}` is {list(array.shape)}, and the base's {wanted}",
                    hint="the adapter was trained on another model: name that one's bundle as `base`",
                )
            found[name] = ("float32", tuple(array.shape), array.astype("<f4").tobytes())
    return found
