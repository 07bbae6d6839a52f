# SPDX-License-Identifier: Apache-2.0
"""What a model of transformers is in GGUF: hyper-parameters under llama.cpp's names, tensors in llama.cpp's order.

llama.cpp rotates neighbouring pairs of a head in `llama`, where transformers rotates halves: rows of queries and keys
change places there. `qwen2` and `qwen3` rotate halves in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from packager.errors import StepError

_KINDS = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_ONNX = "promise `onnxruntime` instead: it runs the graph, whatever the architecture"
_WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True, slots=True)
class Model:
    """A model in llama.cpp's words: `weights` are transformers' names and arrays."""

    kind: str
    values: Mapping[str, Any]
    heads: int
    key_heads: int
    tied: bool
    weights: Mapping[str, Any]

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """Yield names and arrays in float32, by name of the source. Raises StepError for one that has no place."""
        for name in sorted(self.weights):
            if name == "lm_head.weight" and self.tied:
                continue
            array = self.weights[name].detach().float().contiguous().numpy()
            yield self._named(name, array)

    def _named(self, name: str, array: Any) -> tuple[str, Any]:
        if name in _WHOLE:
            return _WHOLE[name], array
        parts = name.split(".")
        part, suffix = ".".join(parts[3:-1]), parts[-1]
        if parts[:2] != ["model", "layers"] or part not in _PARTS or suffix not in ("weight", "bias"):
            raise StepError(f"`{name}` has no place in a GGUF file of `{self.kind}`", hint=_ONNX)
        if self.kind == "llama" and part.endswith(("q_proj", "k_proj")):
            array = _pairs(array, self.heads if part.endswith("q_proj") else self.key_heads)
        return f"blk.{parts[2]}.{_PARTS[part]}.{suffix}", array


def _pairs(array: Any, heads: int) -> Any:
    """Return rows so that the two of a rotation stand side by side."""
    half = array.shape[0] // heads // 2
    return array.reshape(heads, 2, half, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape).copy()


def describe(model: Any) -> Model:
    """Return an opened model in llama.cpp's words. Raises StepError for what it has no words for here."""
    name, config = type(model).__name__, model.config
    if name not in _KINDS:
        raise StepError(
            f"`{name}` is none of the architectures that are written as GGUF ({', '.join(_KINDS)})", hint=_ONNX
        )
    kind = _KINDS[name]
    _check(name, config)
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    rope = getattr(config, "rope_parameters", None) or {}
    values = {
        "general.alignment": 32,
        f"{kind}.context_length": config.max_position_embeddings,
        f"{kind}.embedding_length": config.hidden_size,
        f"{kind}.block_count": config.num_hidden_layers,
        f"{kind}.feed_forward_length": config.intermediate_size,
        f"{kind}.attention.head_count": heads,
        f"{kind}.attention.head_count_kv": key_heads,
        f"{kind}.attention.key_length": size,
        f"{kind}.attention.value_length": size,
        f"{kind}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{kind}.rope.freq_base": float(rope.get("rope_theta") or getattr(config, "rope_theta", None) or 10000.0),
        f"{kind}.rope.dimension_count": size,
        f"{kind}.vocab_size": config.vocab_size,
    }
    tied = bool(config.tie_word_embeddings)
    return Model(kind, values, heads, key_heads, tied, model.state_dict())


def _check(name: str, config: Any) -> None:
    """Raise StepError for a setting that changes what is computed and is not written."""
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    if kind != "default":
        raise StepError(
            f"`{name}` scales positions (`rope_type: {kind!s:.40}`), which is not written as GGUF here", hint=_ONNX
        )
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True):
        raise StepError(f"`{name}` has a sliding window of {window}, which is not written as GGUF here", hint=_ONNX)
    if getattr(config, "hidden_act", "silu") != "silu":
        raise StepError(
            f"`{name}` has the activation `{config.hidden_act!s:.40}`, and llama.cpp computes silu", hint=_ONNX
        )
