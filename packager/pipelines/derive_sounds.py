# SPDX-License-Identifier: Apache-2.0
"""Derive the pipeline of a model that hears: from the source's feature extractor and its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packager.canonical import JSON
from packager.errors import StepError
from packager.pipelines.derive import NO_PIPELINE, Derived, derive_answer
from packager.pipelines.source import Own
from packager.server.pipeline.document import FORMAT
from packager.server.protocol.interface import Interface

_RATE = 16_000  # for which the frames of the spectrogram are made


def derive_sound(own: Own, extractor: Any, spec: Mapping[str, JSON], interface: Interface) -> Derived:
    """Return the pipeline of an audio classifier. Raises StepError for an extractor that is not known here."""
    kind, rate = type(extractor).__name__, int(extractor.sampling_rate)
    names = [port.name for port in interface.inputs]
    port = interface.inputs[0]
    if port.name != "input_values" or set(names) - {"input_values", "attention_mask"}:
        raise StepError(f"expected a model with one input of sound, it takes {names}", hint=NO_PIPELINE)
    if kind == "ASTFeatureExtractor" and rate == _RATE:
        sound = {"normalize": False, "mels": _mels(extractor)}
    elif kind == "Wav2Vec2FeatureExtractor":
        sound = {"normalize": bool(extractor.do_normalize), "mels": None}
    else:
        raise StepError(f"the feature extractor `{kind}` at {rate} Hz is not known here", hint=NO_PIPELINE)
    mask = {"mask": "attention_mask"} if "attention_mask" in names else {}
    audio = {"input": port.name, "rate": rate, **sound, **mask}
    document = {"format": FORMAT, "task": spec["task"], "audio": audio, "answer": derive_answer(own, spec, interface)}
    return Derived(document, {})


def _mels(extractor: Any) -> JSON:
    normal = bool(extractor.do_normalize)
    return {
        "bands": int(extractor.num_mel_bins),
        "frames": int(extractor.max_length),
        "mean": float(extractor.mean) if normal else 0.0,
        "deviation": float(extractor.std) if normal else 0.5,  # it is doubled
    }
