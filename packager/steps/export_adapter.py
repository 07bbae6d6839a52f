# SPDX-License-Identifier: Apache-2.0
"""Export an adapter: its matrices as the inputs that the graph of its base takes, by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters._generation import files, lora
from packager.formats import safetensors
from packager.server.generation.settings import ADAPTER
from packager.steps import _answers

VERSION = 1  # 1: first form
ANSWER = _answers.EXPORT_ADAPTER


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Write `adapter/adapter.safetensors`; return its rank, its layers, and how many numbers it holds.

    `params`: `payload`, `inputs` of the base's graph by name, and the digests of its `tokenizer` and `template`.
    """
    folder = inputs["source"] / params["payload"]
    layers = lora.read_adapter(folder)
    _check_texts(inputs["source"], folder, params)
    tensors = lora.fit_layers(layers, params["inputs"])
    file = out / ADAPTER
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(safetensors.dump(tensors))
    return {
        "rank": max(layer.rank for layer in layers.values()),
        "layers": len(layers),
        "parameters": sum(layer.a.size + layer.b.size for layer in layers.values()),
    }


def _check_texts(source: Path, folder: Path, params: Mapping[str, JSON]) -> None:
    """Refuse a tokenizer or a template beside the adapter that is not the base's: answers are made with the base's."""
    beside = {
        "tokenizer": files.tokenizer_json(source, folder) if (folder / "tokenizer.json").is_file() else None,
        "template": files.chat_template(source, folder),
    }
    for name, data in beside.items():
        if data is not None and f"sha256:{hashlib.sha256(data).hexdigest()}" != params[name]:
            raise StepError(
                f"the {name} beside the adapter is not the base's, with which it would answer",
                hint=f"remove it if the adapter was trained with the base's {name}; else merge the adapter into the "
                "model (`merge_and_unload`) and ship that",
            )
