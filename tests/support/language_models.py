# SPDX-License-Identifier: Apache-2.0
"""Small language models with seeded weights, and a byte-level tokenizer that is trained here in a second."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

VOCABULARY = 512
SPECIAL = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
TEMPLATE = (
    "{% if tools %}<|system|>{% for t in tools %}{{ t.function | tojson }}{% endfor %}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% for c in m.tool_calls or [] %}"
    '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
LLAMA = {
    **COMMON,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}
GPT2 = {**COMMON, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}

ARCHITECTURES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("gpt2", {}),
    ("opt", {}),
    ("gpt_neox", {}),
    ("mistral", {"sliding_window": 16}),
    ("qwen2", {}),
    ("qwen3", {}),
    ("gemma", {}),
    ("gemma2", {"sliding_window": 16}),
    ("gemma3", {"sliding_window": 16}),
    ("phi3", {}),
    ("smollm3", {}),
    ("granite", {}),
    ("olmo2", {}),
)
"""Decoders that are exported, and what of their configuration is set."""
PAIR = {**COMMON, "decoder_start_token_id": 1, "pad_token_id": 1}
T5 = {**PAIR, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "n_positions": 256}
BART = {
    **PAIR,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 256,
}
HEARING = {"num_mel_bins": 80, "max_source_positions": 100, "max_target_positions": 64}
EXTRACTOR = {"chunk_length": 2, "feature_size": 80}


def tokenizer(kind: str = "llama") -> Any:
    """Return a trained tokenizer with a chat template, as models of an architecture have it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind == "qwen2":  # transformers opens every tokenizer beside such a model as this class, whatever it is saved as
        own = Qwen2Tokenizer().backend_tokenizer
        bpe.normalizer, bpe.pre_tokenizer = own.normalizer, own.pre_tokenizer
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([topics[key] for key in sorted(topics)[:20]], trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=SPECIAL[0],
        pad_token=SPECIAL[0],
        unk_token=SPECIAL[0] if kind == "qwen2" else None,
        additional_special_tokens=list(SPECIAL[1:]),
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = TEMPLATE
    return made


def write(folder: Path, kind: str = "llama", *, generation: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Save a model of an architecture (`llama`, `gpt2`, …) with seeded weights, spread so that no token ties.

    `generation` are members of `generation_config.json`. Whisper hears two seconds.
    """
    import torch
    import transformers

    configs = {
        "llama": ("LlamaConfig", "LlamaForCausalLM", LLAMA),
        "mistral": ("MistralConfig", "MistralForCausalLM", LLAMA),
        "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", LLAMA),
        "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**LLAMA, "head_dim": 16}),
        "gemma": ("GemmaConfig", "GemmaForCausalLM", {**LLAMA, "head_dim": 16}),
        "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {**LLAMA, "head_dim": 16, "query_pre_attn_scalar": 16}),
        "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", {**LLAMA, "head_dim": 16, "query_pre_attn_scalar": 16}),
        "phi3": ("Phi3Config", "Phi3ForCausalLM", {**LLAMA, "original_max_position_embeddings": 256}),
        "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", LLAMA),
        "granite": ("GraniteConfig", "GraniteForCausalLM", LLAMA),
        "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", LLAMA),
        "mixtral": ("MixtralConfig", "MixtralForCausalLM", {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}),
        "gpt2": ("GPT2Config", "GPT2LMHeadModel", GPT2),
        "gpt_neox": (
            "GPTNeoXConfig",
            "GPTNeoXForCausalLM",
            {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"},
        ),
        "opt": ("OPTConfig", "OPTForCausalLM", {**LLAMA, "ffn_dim": 128, "word_embed_proj_dim": 64, "pad_token_id": 1}),
        "mamba": (
            "MambaConfig",
            "MambaForCausalLM",
            {**COMMON, "hidden_size": 64, "state_size": 8, "num_hidden_layers": 2},
        ),
        "bert": (
            "BertConfig",
            "BertForMaskedLM",
            {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        ),
        "t5": ("T5Config", "T5ForConditionalGeneration", T5),
        "mt5": ("MT5Config", "MT5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}),
        "bart": ("BartConfig", "BartForConditionalGeneration", BART),
        "mbart": ("MBartConfig", "MBartForConditionalGeneration", BART),
        "marian": ("MarianConfig", "MarianMTModel", BART),
        "pegasus": ("PegasusConfig", "PegasusForConditionalGeneration", BART),
        "m2m_100": ("M2M100Config", "M2M100ForConditionalGeneration", {**BART, "decoder_start_token_id": 2}),
        "whisper": ("WhisperConfig", "WhisperForConditionalGeneration", {**BART, **HEARING}),
    }
    config, model, members = configs[kind]
    torch.manual_seed(0)
    made = getattr(transformers, model)(getattr(transformers, config)(**{**members, **changes}))
    for weight in made.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.3 if made.config.is_encoder_decoder else 0.08)
    if hasattr(made, "generation_config"):  # a masked model has none
        # Else it is made anew, and loses what is Whisper's alone.
        made.generation_config._from_model_config = not generation
        for name, value in (generation or {}).items():
            setattr(made.generation_config, name, value)
    made.eval().save_pretrained(folder)
    tokenizer(kind).save_pretrained(folder)
    if kind == "whisper":
        transformers.WhisperFeatureExtractor(**EXTRACTOR).save_pretrained(folder)
    return folder


def edit(path: Path, **members: Any) -> None:
    """Change members of a JSON file; None removes one."""
    table = {**json.loads(path.read_text()), **members} if path.exists() else members
    path.write_text(json.dumps({name: value for name, value in table.items() if value is not None}))
