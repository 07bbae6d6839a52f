# SPDX-License-Identifier: Apache-2.0
"""Propose a pipeline for a source by its small files, before anything is opened."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping

from packager.canonical import JSON
from packager.server.pipeline.parts import RAW, Task

_HEADS: Mapping[str, Task] = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForImageClassification": "image-classification",
    "ForObjectDetection": "object-detection",
    "ForSemanticSegmentation": "image-segmentation",
}
_HEARING = ("Wav2Vec2", "Hubert", "WavLM", "UniSpeech", "UniSpeechSat", "SEW", "SEWD", "Data2VecAudio")
_SOUNDS = {"ASTForAudioClassification", *(f"{name}ForSequenceClassification" for name in _HEARING)}
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def detect_task(kind: str, payload: str, files: Collection[str], read: Callable[[str], bytes]) -> Task | None:
    """Return the task that a source was made for; None where its files do not say, or lack what a pipeline needs."""
    if kind != "transformers":
        return None
    folder = "" if payload == "." else f"{payload}/"
    names = {path.rpartition("/")[2] for path in files}
    if f"{folder}modules.json" in files:
        return "sentence-embedding" if names & {*_TOKENIZERS} else None
    heads = _object(read(f"{folder}config.json")).get("architectures")
    named = str(heads[0]) if isinstance(heads, list) and heads else ""
    found = next((name for suffix, name in _HEADS.items() if named.endswith(suffix)), None)
    found = "audio-classification" if named in _SOUNDS else found
    if named == "CLIPModel":
        return "zero-shot-image-classification" if names & {*_TOKENIZERS} and names & {*_PROCESSORS} else None
    needed = _TOKENIZERS if found is None or RAW[found] == "text" else _PROCESSORS
    return found if names & {*needed} else None


def _object(data: bytes) -> Mapping[str, JSON]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
