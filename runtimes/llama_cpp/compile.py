# SPDX-License-Identifier: Apache-2.0
"""Write one GGUF file of the source: hyper-parameters, tokenizer, template and weights, the same bytes everywhere.

Source: ggml-org/ggml's page on GGUF, llama.cpp's `convert_hf_to_gguf.py` for what it expects of each architecture.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packager.runtimes.llama_cpp import _architecture, _texts

from packager import exporters
from packager.errors import MissingToolError, StepError
from packager.formats import gguf as header
from packager.runtime import Batches, CompileFacts

FILE = "model.gguf"
_TOKENIZER, _TEMPLATE = "generation/tokenizer.json", "generation/chat_template.jinja"


def compile_graph(inputs: Mapping[str, Path], out: Path, params: Mapping[str, Any], batches: Batches) -> CompileFacts:
    """Write the file; return its facts. Raises StepError for an architecture or a tokenizer that has no form in it."""
    generation = params.get("generation")
    if generation is None:
        raise StepError("llama.cpp runs models that generate text", hint="write `task: text-generation` in the recipe")
    source = exporters.generative(params["kind"], inputs["source"], params["payload"])
    model = _architecture.describe(source.decoder.model)  # type: ignore[attr-defined]
    template = inputs["graph"] / _TEMPLATE
    texts = _texts.describe(
        inputs["graph"] / _TOKENIZER,
        template.read_text("utf-8") if template.is_file() else None,
        generation["special"],
        generation["vocabulary"],
    )
    write(out / FILE, model, texts, params["precision"])
    found = header.read(out / FILE)
    about = {
        "version": found.version,
        "architecture": found.architecture,
        "types": sorted({t.type for t in found.tensors}),
    }
    return {"path": FILE, "artefact": {"reproducibility": "bitwise", "header": about, "needs": {}}}


def write(path: Path, model: _architecture.Model, texts: Mapping[str, Any], precision: str) -> None:
    """Write a GGUF file whose matrices have a precision; vectors stay float32. Raises StepError."""
    library = tool()
    types = library.GGMLQuantizationType
    kind = {"fp32": types.F32, "fp16": types.F16, "q8_0": types.Q8_0}[precision]
    files = {"fp32": "ALL_F32", "fp16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}
    writer = library.GGUFWriter(str(path), model.kind)
    writer.add_file_type(library.LlamaFileType[files[precision]])
    writer.add_quantization_version(library.GGML_QUANT_VERSION)
    for key, value in {**model.values, **texts}.items():
        _add(writer, library.GGUFValueType, key, value)
    for name, array in model.tensors():
        if array.ndim == 1 or precision == "fp32":
            writer.add_tensor(name, array)
        elif precision == "fp16":
            writer.add_tensor(name, array.astype("float16"))
        elif array.shape[-1] % 32:
            raise StepError(
                f"`{name}` has rows of {array.shape[-1]} numbers, and blocks of q8_0 take 32",
                hint="promise `fp16` or `fp32` instead",
            )
        else:
            writer.add_tensor(name, library.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tool() -> Any:
    """Import `gguf`, or raise with how to install it."""
    try:
        return importlib.import_module("gguf")
    except ImportError:
        raise MissingToolError("gguf", "gguf") from None


def _add(writer: Any, kinds: Any, key: str, value: Any) -> None:
    """Add a pair: whole numbers are unsigned, except of token types, which the format has as signed ones."""
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_key_value(key, value, kinds.BOOL)
    elif isinstance(value, int):
        writer.add_key_value(key, value, kinds.UINT32)
    elif isinstance(value, float):
        writer.add_key_value(key, value, kinds.FLOAT32)
    else:
        writer.add_key_value(key, value, kinds.STRING)
