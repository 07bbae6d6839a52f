# SPDX-License-Identifier: Apache-2.0
"""GGUF files of language models: weights read by transformers, in float32, tokenizer and template by us.

Blocks of fewer bits become float32 once, by consent of the recipe (`dequantize`): the bundle computes what the blocks
say, and is several times as large. The header is checked by `packager.formats.gguf` before a library opens the file.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from packager import error_causes
from packager.errors import MissingToolError, SourceError, StepError
from packager.exporters import ExportOptions, GenerativeSource, SourceModel
from packager.exporters._torch import program
from packager.exporters._transformers import opening
from packager.formats import gguf, gguf_texts
from packager.server.generation.settings import TASK

TOOLCHAIN: tuple[str, ...] = (*program.TOOLCHAIN, "transformers", "safetensors", "tokenizers", "gguf", "accelerate")
EXTRA = "gguf"
EXECUTES = False
DEQUANTIZES = True
LOOKS_FOR = "one `.gguf` file of a language model"
ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Architectures of which transformers' reading was compared with the model that a file was made of."""
_OTHERWISE = "use the model as its authors saved it, in safetensors"


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the path of the file, None beside safetensors, which are read then. Refuses several with SourceError."""
    found = sorted(path for path in paths if path.lower().endswith(".gguf"))
    if not found or any(path.endswith(".safetensors") for path in paths):
        return None
    if len(found) > 1:
        raise SourceError(
            f"the source holds {len(found)} GGUF files (`{found[0]}`, `{found[1]}`, …), expected one",
            hint="give the path of one of them; parts of one model are merged with `llama-gguf-split --merge`",
        )
    return found[0]


def task(payload: str, paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the task of every such file."""
    return TASK


def load(source: Path, payload: str, options: ExportOptions) -> SourceModel:
    """Refuse: such a file generates text. Raises StepError."""
    raise StepError(
        f"`{payload}` is a language model with its tokenizer, which one pass of a graph does not use",
        hint=f"write `task: {TASK}` in the recipe",
    )


def load_generative(source: Path, payload: str, task: str | None = None) -> GenerativeSource:
    """Open the file. Raises StepError for one that lies about itself, and for what transformers does not read."""
    from packager.exporters._generation.decoder import describe_decoder  # both compute with numpy
    from packager.exporters._generation.files import Special
    from packager.exporters._generation.source import build_source

    file = source / payload
    header = gguf.read(file)
    check_sizes(header, file.name)
    library = opening.import_transformers()
    for name in ("gguf", "accelerate"):
        if importlib.util.find_spec(name) is None:
            raise MissingToolError(name, "gguf")
    text, template = _tokenizer(header, file.name), header.values.get("tokenizer.chat_template")
    model = _opened(library, file)
    values = {name: header.values.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "padding")}
    known = {name: value if type(value) is int else None for name, value in values.items()}
    tokens = importlib.import_module("tokenizers").Tokenizer.from_str(text.decode())
    names = {f"{name}_token": tokens.id_to_token(number) for name, number in known.items() if number is not None}
    tokenizer = library.PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        clean_up_tokenization_spaces=False,
        **{name.replace("padding", "pad"): value for name, value in names.items() if value is not None},
    )
    tokenizer.chat_template = template if isinstance(template, str) else None
    return build_source(
        describe_decoder(model),
        tokenizer,
        Special(known["bos"], () if known["eos"] is None else (known["eos"],), known["padding"]),
        {},
        text,
        template.encode() if isinstance(template, str) else None,
    )


def _tokenizer(header: gguf.Header, name: str) -> bytes:
    """Return the tokenizer as `tokenizer.json`, by our own reading: transformers' ignores how texts are split."""
    try:
        return gguf_texts.build_tokenizer(header)
    except ValueError as error:
        raise StepError(f"`{name:.80}` is refused: {error}", hint=_OTHERWISE) from error


def check_sizes(header: gguf.Header, name: str) -> None:
    """Raise StepError where the sizes of a model are not those of its tensors.

    A library allocates by what the header states, before it looks at a tensor.
    """
    if header.architecture not in ARCHITECTURES or header.values.get(f"{header.architecture}.expert_count"):
        raise StepError(
            f"`{name:.80}` is a model of the architecture `{header.architecture:.40}`, "
            f"and {', '.join(ARCHITECTURES)} without experts are read",
            hint=_OTHERWISE,
        )
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    width, wide = _size(header, name, "embedding_length"), _size(header, name, "feed_forward_length")
    heads = _size(header, name, "attention.head_count")
    key_heads = _size(header, name, "attention.head_count_kv", heads)
    one = _size(header, name, "attention.key_length", width // heads)
    value = _size(header, name, "attention.value_length", one)
    tokens = header.values.get("tokenizer.ggml.tokens")
    count = len(tokens) if isinstance(tokens, list) else 0
    words = _size(header, name, "vocab_size", count or 1)
    expected: dict[str, tuple[int, ...]] = {"token_embd.weight": (width, count), "output_norm.weight": (width,)}
    if words != count:
        expected["output.weight"] = (width, words)
    for block in range(min(_size(header, name, "block_count"), len(shapes) + 1)):
        expected[f"blk.{block}.attn_norm.weight"] = (width,)
        known = {
            "attn_q": (width, heads * one),
            "attn_k": (width, key_heads * one),
            "attn_v": (width, key_heads * value),
            "ffn_up": (width, wide),
        }
        expected |= {f"blk.{block}.{part}.weight": shape for part, shape in known.items()}
    for tensor, shape in expected.items():
        found = shapes.get(tensor)
        if found != shape:
            raise StepError(
                f"`{name:.80}` is refused: its header makes `{tensor}` {list(shape)}, and it holds {list(found or ())}",
                hint="fetch the file again, or convert the model to GGUF again",
            )


def _size(header: gguf.Header, name: str, key: str, default: int = 0) -> int:
    """Return a size that the header states. Raises StepError for none."""
    found = header.values.get(f"{header.architecture}.{key}", default)
    if type(found) is not int or not 0 < found < 1 << 31:
        raise StepError(
            f"`{name:.80}` is refused: it states no `{header.architecture:.40}.{key}` that is a size",
            hint="fetch the file again, or convert the model to GGUF again",
        )
    return found


def _opened(library: Any, file: Path) -> Any:
    """Return the model as transformers reads it. Raises StepError."""
    try:
        model = library.AutoModelForCausalLM.from_pretrained(
            str(file.parent),
            gguf_file=file.name,
            local_files_only=True,
            dtype=program.import_torch().float32,
            quantization_config=library.GgufConfig(dequantize=True),
        )
    except Exception as error:  # transformers wraps the failures of a dozen libraries
        said = error_causes.find_cause_line(str(error)) or type(error).__name__
        raise StepError(f"transformers does not read `{file.name:.80}`: {said:.300}", hint=_OTHERWISE) from error
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model.eval()
