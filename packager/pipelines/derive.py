# SPDX-License-Identifier: Apache-2.0
"""Derive the pipeline document of a bundle: what the recipe states, and for the rest what the source says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packager.canonical import JSON
from packager.edits import Edit
from packager.errors import StepError
from packager.exporters._transformers import files
from packager.pipelines.source import Own
from packager.server.pipeline import tokenizer_file
from packager.server.pipeline.document import FORMAT, digest_of
from packager.server.protocol.interface import Interface

TOKENIZER = "tokenizer.json"
_FEATURES = {"input_ids": "ids", "attention_mask": "mask", "token_type_ids": "types"}
_UNLIMITED = 1 << 20  # transformers writes 10**30 for a tokenizer without a limit
_FOUND = "sentence_embedding"
_OUTSIDE = ("O",)


@dataclass(frozen=True, slots=True)
class Derived:
    """The document as JSON, and the files beside it."""

    document: Mapping[str, JSON]
    files: Mapping[str, bytes]


def derive_text(own: Own, tokenizer: Any, spec: Mapping[str, JSON], interface: Interface) -> Derived:
    """Return the pipeline of a text encoder. Raises StepError where the source does not say enough."""
    data = tokenizer_bytes(own, tokenizer)
    longest = _longest(own, tokenizer, spec, interface)
    text = {
        "file": TOKENIZER,
        "digest": digest_of(data),
        "longest": longest,
        "cut": str(tokenizer.truncation_side),
        "pairs": spec["task"] == "text-classification",
        "inputs": _features(interface),
        "padding": {
            "id": int(tokenizer.pad_token_id or 0),
            "type": int(tokenizer.pad_token_type_id or 0),
            "side": str(tokenizer.padding_side),
        },
    }
    document = {"format": FORMAT, "task": spec["task"], "text": text, "answer": _answer(own, spec, interface)}
    return Derived(document, {TOKENIZER: data})


def tokenizer_bytes(own: Own, tokenizer: Any) -> bytes:
    """Return the tokenizer's file, or, where the source has an older form only, what the library makes of that."""
    path = own.tokenizer_folder / TOKENIZER
    if path.is_file():
        if path.stat().st_size > tokenizer_file.MAX_FILE:
            raise StepError(f"`{TOKENIZER}` is longer than {tokenizer_file.MAX_FILE} bytes", hint=_NO_PIPELINE)
        data = path.read_bytes()
    elif getattr(tokenizer, "is_fast", False):
        data = tokenizer.backend_tokenizer.to_str().encode()
    else:
        raise StepError(
            f"the tokenizer `{type(tokenizer).__name__}` is written in Python and has no `{TOKENIZER}`",
            hint=f"convert it to a fast tokenizer and save it, or {_NO_PIPELINE}",
        )
    try:
        tokenizer_file.check(data)
    except ValueError as error:
        raise StepError(str(error), hint=_NO_PIPELINE) from None
    return data


_NO_PIPELINE = "remove `pipeline` from the recipe: the bundle then takes tensors only"


def _features(interface: Interface) -> dict[str, str]:
    names = [port.name for port in interface.inputs]
    if unknown := sorted(set(names) - set(_FEATURES)):
        raise StepError(
            f"the model takes `{unknown[0]}`, which no tokenizer makes",
            hint=f"describe the inputs without it under `inputs`, or {_NO_PIPELINE}",
        )
    return {name: _FEATURES[name] for name in names}


def _longest(own: Own, tokenizer: Any, spec: Mapping[str, JSON], interface: Interface) -> int:
    """Return how many tokens a row may have: what the recipe states, else the source, within what the graph takes."""
    ids = next(port for port in interface.inputs if _FEATURES.get(port.name) == "ids")
    axis = ids.shape[1] if len(ids.shape) == 2 else 0
    most = axis if isinstance(axis, int) else interface.allowed_range(axis).largest
    stated = spec.get("max-length")
    if stated is not None and most is not None and stated > most:
        raise StepError(
            f"`pipeline.max-length` is {stated}, and the model takes {most} tokens",
            hint=f"write at most {most}",
            edits=[Edit(("pipeline", "max-length"), most)],
        )
    if stated is not None:
        return int(stated)
    limits = [most, _sentence_limit(own), tokenizer.model_max_length]
    known = [int(limit) for limit in limits if isinstance(limit, int) and 0 < limit <= _UNLIMITED]
    if not known:
        raise StepError(
            "neither the model nor its tokenizer says how many tokens a text may have",
            hint="write `max-length` under `pipeline`",
        )
    return min(known)


def _sentence_limit(own: Own) -> JSON:
    path = own.encoder / "sentence_bert_config.json"
    table = files.read_json(path) if path.is_file() else {}
    if table.get("do_lower_case"):
        raise StepError(
            "`sentence_bert_config.json` lowers texts outside the tokenizer (`do_lower_case`)",
            hint="put a `Lowercase` normalizer into the tokenizer and save both again",
        )
    return table.get("max_seq_length")


_RESAMPLINGS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers, from 0 on


def derive_image(own: Own, processor: Any, spec: Mapping[str, JSON], interface: Interface) -> Derived:
    """Return the pipeline of an image classifier. Raises StepError for a processor that does what is not known here."""
    port = interface.inputs[0]
    if len(interface.inputs) != 1 or len(port.shape) != 4:
        raise StepError("expected a model with one input of images", hint=_NO_PIPELINE)
    if getattr(processor, "do_pad", False) or getattr(processor, "do_reduce_labels", False):
        raise StepError("the image processor pads images, which is not known here", hint=_NO_PIPELINE)
    channels = port.shape[1] if isinstance(port.shape[1], int) else 3
    normal = bool(getattr(processor, "do_normalize", False))
    image = {
        "input": port.name,
        "channels": channels,
        "size": _size(processor.size) if getattr(processor, "do_resize", False) else None,
        "resampling": _RESAMPLINGS[int(getattr(processor, "resample", 2) or 0)],
        "crop": _size(processor.crop_size) if getattr(processor, "do_center_crop", False) else None,
        "scale": float(processor.rescale_factor) if getattr(processor, "do_rescale", False) else None,
        "mean": _channels(processor.image_mean, channels) if normal else [],
        "deviation": _channels(processor.image_std, channels) if normal else [],
    }
    document = {"format": FORMAT, "task": spec["task"], "image": image, "answer": _answer(own, spec, interface)}
    return Derived(document, {})


def _size(size: Any) -> list[int]:
    """Return height and width, or the shorter edge alone. Raises StepError for another rule."""
    table = {name: value for name, value in dict(size).items() if value}
    if set(table) == {"height", "width"}:
        return [int(table["height"]), int(table["width"])]
    if set(table) == {"shortest_edge"}:
        return [int(table["shortest_edge"])]
    raise StepError(f"the image processor resizes by `{sorted(table)}`, which is not known here", hint=_NO_PIPELINE)


def _channels(values: Any, channels: int) -> list[float]:
    listed = list(values) if isinstance(values, list | tuple) else [values] * channels
    return [float(value) for value in listed]


def _answer(own: Own, spec: Mapping[str, JSON], interface: Interface) -> JSON:
    outputs = [port.name for port in interface.outputs]
    if spec["task"] == "sentence-embedding":
        return _embedding(spec, outputs)
    labels = spec.get("labels") or list(own.labels())
    output = "logits" if "logits" in outputs else outputs[0]
    size = next(port.shape[-1] for port in interface.outputs if port.name == output)
    if isinstance(size, int) and size != len(labels):
        raise StepError(
            f"the model returns {size} scores, and {len(labels)} labels are named",
            hint="write `labels` under `pipeline`, one per class, or correct `id2label` in `config.json`",
        )
    if spec["task"] == "token-classification":
        return {
            "output": output,
            "labels": labels,
            "grouping": spec.get("grouping", "simple"),
            "outside": [label for label in labels if label in _OUTSIDE],
        }
    function = spec.get("function") or _function(own.config(), len(labels))
    return {"output": output, "function": function, "labels": labels, "top": spec.get("top")}


def _embedding(spec: Mapping[str, JSON], outputs: Sequence[str]) -> JSON:
    if _FOUND in outputs:  # pooling and normalisation are in the graph
        if spec.get("pooling", "none") != "none":
            raise StepError("the source pools its tokens itself", hint="remove `pooling` from `pipeline`")
        return {"output": _FOUND, "pooling": "none", "normalize": spec.get("normalize", False)}
    if spec.get("pooling", "none") == "none":
        raise StepError(
            "the source returns one vector per token and does not say how they become one per text",
            hint="write `pooling: mean` or `pooling: cls` under `pipeline`, as the model was trained",
            edits=[Edit(("pipeline",), {"task": "sentence-embedding", "pooling": "mean"}, consents=True)],
        )
    output = "last_hidden_state" if "last_hidden_state" in outputs else outputs[0]
    return {"output": output, "pooling": spec["pooling"], "normalize": spec.get("normalize", False)}


def _function(config: Mapping[str, JSON], labels: int) -> str:
    """Return the function that transformers' pipeline applies (its `postprocess`)."""
    problem = config.get("problem_type")
    if problem == "regression":
        return "none"
    return "sigmoid" if problem == "multi_label_classification" or labels == 1 else "softmax"
