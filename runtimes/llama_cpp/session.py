# SPDX-License-Identifier: Apache-2.0
"""Open a GGUF file with llama-cpp-python: its decoder step by step, and the library's own loop and tokenizer.

The key-value cache is float32; llama.cpp's own default is float16, which moves logits by some 0.05.
"""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

_LONGEST = 8192  # tokens of a context here: the cache of all of them is allocated at once
_BATCH = 512
_FLOAT32 = 0  # GGML_TYPE_F32
_EXACT = {"type_k": _FLOAT32, "type_v": _FLOAT32, "flash_attn_type": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED}


@llama_cpp.llama_log_callback
def _ignore(level: int, text: bytes, data: Any) -> None:
    pass


class Model:
    """An opened file, which is closed when nothing refers to it any more."""

    def __init__(self, path: Path) -> None:
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.pointer = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            raise ValueError("llama.cpp does not open the file")

    def __del__(self) -> None:
        if self.pointer:
            llama_cpp.llama_model_free(self.pointer)


class Session:
    """An opened file. It has no requests of tensors: `decoder` and `own_loop` give what runs it."""

    inputs: Sequence[Any] = ()
    outputs: Sequence[Any] = ()
    provider = "CPU"

    def __init__(self, path: Path, model: Model, threads: int) -> None:
        self._path, self._model, self._threads = path, model, threads
        self.version = importlib.metadata.version("llama-cpp-python")

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Refuse: the model keeps the tokens before. Raises ValueError."""
        raise ValueError("llama.cpp answers no single requests of tensors")

    def decoder(self) -> Decoder:
        """Return what runs the decoder token by token."""
        return Decoder(self._model, self._threads)

    def own_loop(self) -> OwnLoop:
        """Open the file as the library's users do. Raises what the library raises."""
        return OwnLoop(self._path, self._threads)


class Cache:
    """The context of one conversation with a model, which outlives it."""

    def __init__(self, context: Any, model: Model) -> None:
        self.context, self._model = context, model

    def __del__(self) -> None:
        self.free()

    def free(self) -> None:
        """Give the memory back."""
        if self.context is not None:
            llama_cpp.llama_free(self.context)
            self.context = None


class Decoder:
    """Runs one decoder, a row at a time; each cache belongs to one thread at a time."""

    batches = False

    def __init__(self, model: Model, threads: int) -> None:
        self._model, self._threads = model, threads
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model.pointer))

    def empty(self, batch: int = 1) -> Cache:
        """Return the cache of no tokens. Raises ValueError for more than one row, MemoryError without room for it."""
        if batch != 1:
            raise ValueError("llama.cpp is run with one row here")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = min(llama_cpp.llama_model_n_ctx_train(self._model.pointer), _LONGEST)
        params.n_batch = params.n_ubatch = _BATCH
        params.no_perf = True
        for name, value in _EXACT.items():
            setattr(params, name, value)
        if self._threads:
            params.n_threads = params.n_threads_batch = self._threads
        context = llama_cpp.llama_init_from_model(self._model.pointer, params)
        if not context:
            raise MemoryError("llama.cpp made no context")
        return Cache(context, self._model)

    def step(self, ids: NDArray[np.int64], cache: Cache, mask: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Append tokens [1, sequence] to a cache; return the logits behind the last of them [1, 1, vocabulary]."""
        if mask is not None and not mask.all():
            raise ValueError("llama.cpp is run without padding here")
        for start in range(0, ids.shape[1], _BATCH):
            part = [int(token) for token in ids[0, start : start + _BATCH]]
            held = (llama_cpp.llama_token * len(part))(*part)  # the batch points to it
            if code := llama_cpp.llama_decode(cache.context, llama_cpp.llama_batch_get_one(held, len(part))):
                raise ValueError(f"llama.cpp ended a step with status {code}")
        found = llama_cpp.llama_get_logits_ith(cache.context, -1)
        return np.array(np.ctypeslib.as_array(found, (1, 1, self._vocabulary)), np.float32)

    def leave(self, cache: Cache) -> None:
        """Free the memory of a cache."""
        cache.free()


class OwnLoop:
    """The library's `Llama`, as other programs use the file; its tokenizer is held to the prompts alone."""

    every_string = False

    def __init__(self, path: Path, threads: int) -> None:
        most = {"n_threads": threads, "n_threads_batch": threads} if threads else {}
        self._model = llama_cpp.Llama(
            str(path), n_ctx=0, verbose=False, type_k=_FLOAT32, type_v=_FLOAT32, flash_attn=False, **most
        )

    def generate(self, ids: Sequence[int], count: int) -> list[int]:
        """Return `count` greedy tokens behind a prompt; an end token does not end them."""
        self._model.reset()
        found = self._model.generate(list(ids), top_k=1, temp=0.0, repeat_penalty=1.0)
        return [int(token) for token in itertools.islice(found, count)]

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the ids of a text, on request with the tokens that the model expects around it."""
        first = special and self._model.metadata.get("tokenizer.ggml.add_bos_token") == "true"
        return [int(number) for number in self._model.tokenize(text.encode(), add_bos=first, special=True)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        return str(self._model.detokenize([int(number) for number in ids]).decode("utf-8", "replace"))


def open_session(path: Path, *, threads: int, device: str = "cpu") -> Session:
    """Open the file, with `threads` threads per run, 0 for the library's choice.

    Raises ValueError for another device and for a file that llama.cpp does not open.
    """
    if device != "cpu":
        raise ValueError(f"expected device cpu, got {device}")
    llama_cpp.llama_log_set(_ignore, None)
    llama_cpp.llama_backend_init()
    return Session(path, Model(path), threads)
