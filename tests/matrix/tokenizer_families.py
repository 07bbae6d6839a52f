# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of several families, trained here: `python -m tests.matrix.tokenizer_families FOLDER`.

Each becomes a directory as transformers saves it, for `tests.matrix.compare_tokenizers`. The pieces around the trained
vocabulary are those of the models that the families are named for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from packager.pipelines.strings import draw_strings
from tests.support.raw_models import WRAPPED

_CLIP = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _trained(made: tokenizers.Tokenizer, **settings: Any) -> tokenizers.Tokenizer:
    texts = [text for text in draw_strings(1500, seed=7) if len(text) < 2000]
    made.train_from_iterator(texts, trainers.BpeTrainer(show_progress=False, **settings))
    return made


def clip() -> Any:
    """Lower case, and a mark at the end of each word."""
    begin, end = "<|startoftext|>", "<|endoftext|>"
    made = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix="", unk_token=end))
    spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    made.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    split = pre_tokenizers.Split(tokenizers.Regex(_CLIP), "removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made = _trained(
        made, vocab_size=900, special_tokens=[begin, end], initial_alphabet=alphabet, end_of_word_suffix="</w>"
    )
    made.post_processor = processors.RobertaProcessing((end, 1), (begin, 0), trim_offsets=False, add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=begin, eos_token=end, unk_token=end, pad_token=end
    )


def qwen() -> Any:
    """Composed letters, words by a pattern, no special token around a text."""
    end = "<|endoftext|>"
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(tokenizers.Regex(_QWEN), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    made = _trained(made, vocab_size=900, special_tokens=[end], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=end, pad_token=end)


FAMILIES: Mapping[str, Callable[[], Any]] = {**WRAPPED, "clip": clip, "qwen": qwen}


def main(folder: Path) -> None:
    """Write a directory for each family."""
    for name, make in FAMILIES.items():
        make().save_pretrained(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
