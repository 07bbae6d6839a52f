# SPDX-License-Identifier: Apache-2.0
"""Open a folder of OpenVINO GenAI: its decoder step by step, and the library's own loop and tokenizer.

The library gives no logits, so steps are run as it runs them: on the same stateful IR, in an infer request of OpenVINO
that holds the key-value cache. This file is copied into installations and runs there with numpy and openvino-genai
alone.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# OpenVINO reports every import to its maker, unless its telemetry package is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402
import openvino_genai as genai  # noqa: E402

_INSTRUCTIONS = "ONEDNN_MAX_CPU_ISA"
_POSITIONS = "position_ids"
# Without these, CPUs with AMX or AVX512-BF16 compute in bfloat16, and the cache is kept in 8 bits.
_EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}


class Session:
    """An opened folder. It has no requests of tensors: `decoder` and `own_loop` give what runs it."""

    inputs: Sequence[Any] = ()
    outputs: Sequence[Any] = ()
    provider = "CPU"

    def __init__(self, folder: Path, compiled: Any, threads: int) -> None:
        self._folder, self._compiled, self._threads = folder, compiled, threads
        self.version = importlib.metadata.version("openvino-genai")

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Refuse: the graph keeps the tokens before. Raises ValueError."""
        raise ValueError("openvino-genai answers no single requests of tensors")

    def decoder(self) -> Decoder:
        """Return what runs the decoder token by token."""
        return Decoder(self._compiled)

    def own_loop(self) -> OwnLoop:
        """Open the folder as the library's users do. Raises what the library raises."""
        return OwnLoop(self._folder, self._threads)


class Cache:
    """The infer request of one conversation, and the number of its tokens."""

    def __init__(self, request: Any) -> None:
        self.request, self.length = request, 0


class Decoder:
    """Runs one decoder, a row at a time; each cache belongs to one thread at a time."""

    batches = False

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._positions = any(port.get_any_name() == _POSITIONS for port in compiled.inputs)

    def empty(self, batch: int = 1) -> Cache:
        """Return the cache of no tokens. Raises ValueError for more than one row."""
        if batch != 1:
            raise ValueError("openvino-genai is run with one row here")
        return Cache(self._compiled.create_infer_request())

    def step(self, ids: NDArray[np.int64], cache: Cache, mask: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Append tokens [1, sequence] to a cache; return their logits [1, sequence, vocabulary]."""
        if mask is not None and not mask.all():
            raise ValueError("openvino-genai is run without padding here")
        total = cache.length + ids.shape[1]
        feeds = {
            "input_ids": np.asarray(ids, np.int64, order="C"),
            "attention_mask": np.ones((1, total), np.int64),
            "beam_idx": np.zeros(1, np.int32),
        }
        if self._positions:
            feeds[_POSITIONS] = np.arange(cache.length, total, dtype=np.int64)[None]
        found = cache.request.infer(feeds)
        cache.length = total
        return np.array(found["logits"], np.float32)

    def leave(self, cache: Cache) -> None:
        """Free the memory of a cache."""
        cache.request = None


class OwnLoop:
    """The library's `LLMPipeline` with its tokenizer, as other programs use the folder."""

    def __init__(self, folder: Path, threads: int) -> None:
        with _all_instructions():
            self._pipeline = genai.LLMPipeline(
                str(folder), "CPU", ATTENTION_BACKEND="SDPA", INFERENCE_NUM_THREADS=threads, **_EXACT
            )
        self._tokenizer = self._pipeline.get_tokenizer()

    def generate(self, ids: Sequence[int], count: int) -> list[int]:
        """Return `count` greedy tokens behind a prompt; an end token does not end them."""
        options = genai.GenerationConfig()
        options.max_new_tokens, options.do_sample, options.ignore_eos = count, False, True
        found = self._pipeline.generate(openvino.Tensor(np.array([ids], np.int64)), options)
        return [int(token) for token in found.tokens[0]]

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the ids of a text, on request with the tokens that the model expects around it."""
        found = self._tokenizer.encode(text, add_special_tokens=special).input_ids.data
        return [int(number) for number in found.reshape(-1)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        return str(self._tokenizer.decode([int(number) for number in ids], skip_special_tokens=True)) if ids else ""


def open_session(path: Path, *, threads: int, device: str = "cpu") -> Session:
    """Open the folder that `path` lies in, with `threads` threads per run, 0 for one per core.

    Raises ValueError for another device, and what OpenVINO raises.
    """
    if device != "cpu":
        raise ValueError(f"expected device cpu, got {device}")
    core = openvino.Core()
    config = {**_EXACT, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    with _all_instructions():
        return Session(path.parent, core.compile_model(core.read_model(str(path)), "CPU", config), threads)


@contextlib.contextmanager
def _all_instructions() -> Iterator[None]:
    """Let OpenVINO's copy of oneDNN see the whole CPU, as `runtimes/openvino/session.py` does."""
    before = os.environ.pop(_INSTRUCTIONS, None)  # noqa: TID251 - read by a native library
    try:
        yield
    finally:
        if before is not None:
            os.environ[_INSTRUCTIONS] = before  # noqa: TID251 - as it was
