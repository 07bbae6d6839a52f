# SPDX-License-Identifier: Apache-2.0
"""Write the folder of a decoder: its graph and weights as they are, `genai_config.json`, tokenizer and template.

Source: onnxruntime-genai 0.18, `src/config.h` (members), `src/models/model_type.h` (`decoder`: any decoder whose
inputs are named in the configuration).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packager.runtimes._generation import find_special_names

from packager.canonical import JSON
from packager.errors import StepError
from packager.runtime import Batches, CompileFacts

CONFIG = "genai_config.json"
_FILES = {"generation/tokenizer.json": "tokenizer.json", "generation/chat_template.jinja": "chat_template.jinja"}
_PAST, _PRESENT = "past_key_values.", "present."


def compile_graph(inputs: Mapping[str, Path], out: Path, params: Mapping[str, Any], batches: Batches) -> CompileFacts:
    """Write the folder; return its facts. Raises StepError for a graph that is none of a decoder."""
    generation = params.get("generation")
    if generation is None:
        raise StepError(
            "onnxruntime-genai runs models that generate text", hint="write `task: text-generation` in the recipe"
        )
    graph = inputs["graph"] / params["path"]
    for path in sorted(graph.parent.iterdir()):
        shutil.copyfile(path, out / path.name)
    for source, name in _FILES.items():
        if (inputs["graph"] / source).is_file():
            shutil.copyfile(inputs["graph"] / source, out / name)
    _write(out / "tokenizer_config.json", _tokenizer_config(out / "tokenizer.json", generation["special"]))
    _write(out / CONFIG, config(graph.name, params["interface"], generation))
    header = {"opset": params["opset"], "ir": params["ir"], "type": "decoder"}
    return {"path": graph.name, "artefact": {"reproducibility": "bitwise", "header": header, "needs": {}}}


def config(file: str, interface: JSON, generation: JSON) -> JSON:
    """Return `genai_config.json`. Raises StepError where layers of the cache differ, which it cannot say."""
    inputs = [port["name"] for port in interface["inputs"]]
    sizes = {(p["shape"][1], p["shape"][3]) for p in interface["inputs"] if p["name"].startswith(_PAST)}
    if len(sizes) != 1:
        raise StepError(
            "layers of the cache have different sizes, which onnxruntime-genai has no words for",
            hint="promise `onnxruntime` alone",
        )
    heads, size = sizes.pop()
    special = generation["special"]
    eos = special["eos"]
    own = [name for name in ("input_ids", "attention_mask", "position_ids") if name in inputs]
    decoder = {
        "filename": file,
        "head_size": size,
        "hidden_size": heads * size,
        "num_attention_heads": heads,
        "num_hidden_layers": generation["cache"]["layers"],
        "num_key_value_heads": heads,
        "session_options": {"provider_options": []},
        "inputs": {
            **{name: name for name in own},
            "past_key_names": f"{_PAST}%d.key",
            "past_value_names": f"{_PAST}%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": f"{_PRESENT}%d.key",
            "present_value_names": f"{_PRESENT}%d.value",
        },
    }
    pad = special["pad"] if special["pad"] is not None else next(iter(eos), 0)
    return {
        "model": {
            "type": "decoder",
            "bos_token_id": special["bos"] or 0,
            "eos_token_id": eos[0] if len(eos) == 1 else eos or pad,
            "pad_token_id": pad,
            "vocab_size": generation["vocabulary"],
            "context_length": generation["context"],
            "decoder": decoder,
        },
        # The graph concatenates its cache: a shared buffer is for the operator that writes into one.
        "search": {"do_sample": False, "max_length": generation["context"], "past_present_share_buffer": False},
    }


def _tokenizer_config(tokenizer: Path, special: JSON) -> JSON:
    """Return the smallest configuration of a tokenizer: the class that leaves all to `tokenizer.json`, and names.

    Another class would choose another way to split texts.
    """
    names = find_special_names(tokenizer, special)
    return {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names}


def _write(path: Path, value: JSON) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
