# SPDX-License-Identifier: Apache-2.0
"""Open a folder of ONNX Runtime GenAI and run its decoder step by step; the library holds the key-value cache.

This file is copied into installations and runs there with numpy and onnxruntime-genai alone.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Both libraries report usage to their maker unless this is set before they are loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # noqa: TID251

import onnxruntime_genai as genai


class Session:
    """An opened folder. It has no requests of tensors: `decoder` gives what runs it."""

    inputs: Sequence[Any] = ()
    outputs: Sequence[Any] = ()
    provider = "CPUExecutionProvider"

    def __init__(self, model: Any, config: Mapping[str, Any]) -> None:
        self._model, self._config = model, config
        self.version = importlib.metadata.version("onnxruntime-genai")

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Refuse: a graph in this library is run by its generator. Raises ValueError."""
        raise ValueError("onnxruntime-genai answers no single requests of tensors")

    def decoder(self) -> Decoder:
        """Return what runs the decoder token by token."""
        return Decoder(self._model, int(self._config["search"]["max_length"]))


class Cache:
    """The generator of one conversation, which begins with its first tokens."""

    def __init__(self) -> None:
        self.generator: Any = None


class Decoder:
    """Runs one decoder, a row at a time; each cache belongs to one thread at a time.

    Padded rows of a batch get other logits in 0.18 with a graph that takes `position_ids`, so there are none.
    """

    batches = False

    def __init__(self, model: Any, longest: int) -> None:
        self._model, self._longest = model, longest

    def empty(self, batch: int = 1) -> Cache:
        """Return the cache of no tokens. Raises ValueError for more than one row."""
        if batch != 1:
            raise ValueError("onnxruntime-genai is run with one row here")
        return Cache()

    def step(self, ids: NDArray[np.int64], cache: Cache, mask: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Append tokens [1, sequence] to a cache; return the logits behind the last of them [1, 1, vocabulary]."""
        if mask is not None and not mask.all():
            raise ValueError("onnxruntime-genai is run without padding here")
        if cache.generator is None:
            options = genai.GeneratorParams(self._model)
            options.set_search_options(do_sample=False, max_length=self._longest)
            cache.generator = genai.Generator(self._model, options)
        cache.generator.append_tokens(ids[0].astype(np.int32))
        logits: NDArray[np.float32] = np.array(cache.generator.get_logits(), np.float32)
        return logits

    def leave(self, cache: Cache) -> None:
        """Free the memory of a cache."""
        cache.generator = None


def open_session(path: Path, *, threads: int, device: str = "cpu") -> Session:
    """Open the folder that `path` lies in, with `threads` threads per run, 0 for one per core.

    Raises what the library raises when it cannot load the folder.
    """
    found = json.loads((path.parent / "genai_config.json").read_bytes())
    config = genai.Config(str(path.parent))
    if threads:
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
    return Session(genai.Model(config), found)
