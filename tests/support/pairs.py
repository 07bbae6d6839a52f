# SPDX-License-Identifier: Apache-2.0
"""Encoder-decoders of transformers, run step by step without an export: what our loops are compared on."""

from __future__ import annotations

from typing import Any

import numpy as np

from packager.exporters._generation.encoder_decoder import decoded, encoded
from packager.server.generation.encoder_decoder import Cache


class TorchPair:
    """A model of transformers in the place of two graphs."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def read_texts(self, ids: Any, mask: Any = None) -> Cache:
        import torch

        mask = np.ones_like(ids) if mask is None else mask
        tensors = torch.from_numpy(ids), torch.from_numpy(mask)
        with torch.no_grad():
            hidden = encoded(self.model, *tensors)
            _, own, cross = decoded(self.model, hidden, tensors[1], tensors[0][:, :1] * 0, (), ())
        kept = {
            f"past_key_values.{n}.encoder.{k}": v.numpy() for n, layer in enumerate(cross) for k, v in _named(layer)
        }
        shape = own[0][0].shape
        size = (shape[0], shape[1], 0, shape[3])
        empty = {
            f"past_key_values.{n}.decoder.{k}": np.zeros(size, np.float32)
            for n in range(len(own))
            for k in ("key", "value")
        }
        return Cache(kept, empty, mask)

    def step(self, ids: Any, cache: Cache) -> Any:
        import torch

        sides = [_layers(values) for values in (cache.own, cache.source)]
        key = next(iter(cache.source.values()))
        hidden = torch.zeros(key.shape[0], key.shape[2], self.model.config.d_model)
        with torch.no_grad():
            logits, own, _ = decoded(
                self.model, hidden, torch.from_numpy(cache.mask), torch.from_numpy(np.asarray(ids)), *sides
            )
        cache.own = {
            f"past_key_values.{n}.decoder.{k}": v.numpy() for n, layer in enumerate(own) for k, v in _named(layer)
        }
        return logits.numpy()


def _named(layer: Any) -> Any:
    return zip(("key", "value"), layer, strict=True)


def _layers(values: dict[str, Any]) -> list[tuple[Any, Any]]:
    import torch

    tensors = [torch.from_numpy(value) for value in values.values()]
    return list(zip(tensors[::2], tensors[1::2], strict=True))
