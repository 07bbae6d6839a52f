# SPDX-License-Identifier: Apache-2.0
"""The models of the kit, with seeded weights of few values: they travel compressed to a tenth of their size.

Only torch and transformers are imported here, in whatever versions a machine has: the same file makes the source that
is packaged and, on the machine under test, the module that eager torch and `torch.compile` are timed with. `digest`
says whether both are the same weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_LEVELS = torch.tensor((-1.5, -0.5, 0.5, 1.5))


@dataclass(frozen=True)
class Model:
    """One model of the kit: how to make it, and its inputs as (name, dtype, shape); names in a shape are free axes."""

    make: Callable[[], torch.nn.Module]
    inputs: tuple[tuple[str, str, tuple[int | str, ...]], ...]
    largest: dict[str, int]
    output: str = ""
    generates: bool = False


def set_weights(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Give every matrix and kernel one of four values, scaled by what feeds it; vectors keep their neutral values."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            if parameter.ndim < 2:
                continue
            fan = parameter[0].numel()
            chosen = torch.randint(0, len(_LEVELS), parameter.shape, generator=chance)
            parameter.copy_(_LEVELS[chosen] * fan**-0.5)
    return module.eval()


def digest(module: torch.nn.Module) -> str:
    """Return the SHA-256 over all weights by name."""
    found = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _cnn() -> torch.nn.Module:
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def _resnet() -> torch.nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(ResNetConfig())


def _bert(hidden: int, layers: int, heads: int) -> Callable[[], torch.nn.Module]:
    def make() -> torch.nn.Module:
        from transformers import BertConfig, BertModel

        return BertModel(
            BertConfig(
                hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * hidden
            )
        )

    return make


def _language() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
            num_key_value_heads=4, max_position_embeddings=1024,
        )
    )  # fmt: skip


_TEXT = tuple((name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask", "token_type_ids"))
MODELS: dict[str, Model] = {
    "cnn": Model(_cnn, (("x", "float32", ("batch", 1, 28, 28)),), {"batch": 64}),
    "resnet-50": Model(
        _resnet,
        (("pixel_values", "float32", ("batch", 3, "height", "width")),),
        {"batch": 16, "height": 224, "width": 224},
        "logits",
    ),
    "encoder": Model(_bert(384, 6, 12), _TEXT, {"batch": 32, "sequence": 128}, "last_hidden_state"),
    "bert-base": Model(_bert(768, 12, 12), _TEXT, {"batch": 8, "sequence": 128}, "last_hidden_state"),
    "language": Model(
        _language,
        tuple((name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask")),
        {"batch": 4, "sequence": 128, "past": 0, "total": 128},
        "logits",
        generates=True,
    ),
}


def build(name: str) -> torch.nn.Module:
    """Return a model of the kit with its weights."""
    torch.manual_seed(0)
    return set_weights(MODELS[name].make(), sum(name.encode()))


def draw(name: str, sizes: dict[str, int], seed: int = 0) -> dict[str, Any]:
    """Return inputs of a model, as tensors by name, at the given sizes of its free axes."""
    chance, found = torch.Generator().manual_seed(seed), {}
    for port, dtype, shape in MODELS[name].inputs:
        whole = [sizes[size] if isinstance(size, str) else size for size in shape]
        if dtype == "float32":
            found[port] = torch.randn(whole, generator=chance)
        elif port == "input_ids":
            found[port] = torch.randint(0, 8000, whole, generator=chance)
        else:
            found[port] = torch.full(whole, int(port == "attention_mask"))
    return found
