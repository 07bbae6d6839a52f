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
QUESTIONS = "question-answering"
_WINDOW, _OVERLAP, _SPAN = 384, 128, 15  # tokens: the defaults of transformers' question answering


@dataclass(frozen=True, slots=True)
class Derived:
    """The document as JSON, and the files beside it."""

    document: Mapping[str, JSON]
    files: Mapping[str, bytes]


def derive_text(own: Own, tokenizer: Any, spec: Mapping[str, JSON], interface: Interface) -> Derived:
    """Return the pipeline of a text encoder. Raises StepError where the source does not say enough."""
    text, data = derive_text_part(own, tokenizer, spec, interface)
    if spec["task"] == QUESTIONS:
        answer = _passages(tokenizer, spec, interface)
    else:
        answer = derive_answer(own, spec, interface)
    document = {"format": FORMAT, "task": spec["task"], "text": text, "answer": answer}
    return Derived(document, {TOKENIZER: data})


def derive_text_part(own: Own, tokenizer: Any, spec: Mapping[str, JSON], interface: Interface) -> tuple[JSON, bytes]:
    """Return the part `text` of a document, and the tokenizer's file. Raises StepError."""
    data = tokenizer_bytes(own, tokenizer)
    longest = _longest(own, tokenizer, spec, interface)
    more = _windows(tokenizer, longest) if spec["task"] == QUESTIONS else {}
    text = {
        "file": TOKENIZER,
        "digest": digest_of(data),
        "longest": longest,
        "cut": str(tokenizer.truncation_side),
        "pairs": spec["task"] in ("text-classification", QUESTIONS),
        "inputs": _features(interface),
        "padding": {
            "id": int(tokenizer.pad_token_id or 0),
            "type": int(tokenizer.pad_token_type_id or 0),
            "side": str(tokenizer.padding_side),
        },
        **more,
    }
    return text, data


def tokenizer_bytes(own: Own, tokenizer: Any) -> bytes:
    """Return the tokenizer's file, or, where the source has an older form only, what the library makes of that."""
    path = own.tokenizer_folder / TOKENIZER
    if path.is_file():
        if path.stat().st_size > tokenizer_file.MAX_FILE:
            raise StepError(f"`{TOKENIZER}` is longer than {tokenizer_file.MAX_FILE} bytes", hint=NO_PIPELINE)
        data = path.read_bytes()
    elif getattr(tokenizer, "is_fast", False):
        data = tokenizer.backend_tokenizer.to_str().encode()
    else:
        raise StepError(
            f"the tokenizer `{type(tokenizer).__name__}` is written in Python and has no `{TOKENIZER}`",
            hint=f"convert it to a fast tokenizer and save it, or {NO_PIPELINE}",
        )
    try:
        tokenizer_file.check(data)
    except ValueError as error:
        raise StepError(str(error), hint=NO_PIPELINE) from None
    return data


NO_PIPELINE = "remove `pipeline` from the recipe: the bundle then takes tensors only"


def _features(interface: Interface) -> dict[str, str]:
    names = [port.name for port in interface.inputs]
    if unknown := sorted(set(names) - set(_FEATURES)):
        raise StepError(
            f"the model takes `{unknown[0]}`, which no tokenizer makes",
            hint=f"describe the inputs without it under `inputs`, or {NO_PIPELINE}",
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
    limits += [_WINDOW] if spec["task"] == QUESTIONS else []
    known = [int(limit) for limit in limits if isinstance(limit, int) and 0 < limit <= _UNLIMITED]
    if not known:
        raise StepError(
            "neither the model nor its tokenizer says how many tokens a text may have",
            hint="write `max-length` under `pipeline`",
        )
    return min(known)


def _windows(tokenizer: Any, longest: int) -> dict[str, JSON]:
    if tokenizer.padding_side != "right":
        raise StepError(
            "the tokenizer pads on the left, where questions and texts stand the other way round", hint=NO_PIPELINE
        )
    return {"cut": "right", "overlap": min(longest // 2, _OVERLAP)}


def _passages(tokenizer: Any, spec: Mapping[str, JSON], interface: Interface) -> JSON:
    outputs = [port.name for port in interface.outputs]
    if not {"start_logits", "end_logits"} <= {*outputs}:
        raise StepError(f"the model has no scores of beginnings and ends, it returns {outputs}", hint=NO_PIPELINE)
    null = tokenizer.cls_token_id
    return {
        "start": "start_logits",
        "end": "end_logits",
        "longest": _SPAN,
        "top": spec.get("top", 1),
        "null": None if null is None else int(null),
        "impossible": spec.get("impossible", False),
    }


def _sentence_limit(own: Own) -> JSON:
    path = own.encoder / "sentence_bert_config.json"
    table = files.read_json(path) if path.is_file() else {}
    if table.get("do_lower_case"):
        raise StepError(
            "`sentence_bert_config.json` lowers texts outside the tokenizer (`do_lower_case`)",
            hint="put a `Lowercase` normalizer into the tokenizer and save both again",
        )
    return table.get("max_seq_length")


def derive_answer(own: Own, spec: Mapping[str, JSON], interface: Interface) -> JSON:
    """Return what makes answers of results. Raises StepError where the source does not say enough."""
    outputs = [port.name for port in interface.outputs]
    if spec["task"] == "sentence-embedding":
        return _embedding(spec, outputs)
    output = "logits" if "logits" in outputs else outputs[0]
    labels = derive_labels(own, spec, interface, output)
    if spec["task"] == "token-classification":
        return {
            "output": output,
            "labels": labels,
            "grouping": spec.get("grouping", "simple"),
            "outside": [label for label in labels if label in _OUTSIDE],
        }
    function = spec.get("function") or _function(own.config(), len(labels))
    return {"output": output, "function": function, "labels": labels, "top": spec.get("top")}


def derive_labels(
    own: Own, spec: Mapping[str, JSON], interface: Interface, output: str, *, axis: int = -1, more: int = 0
) -> list[str]:
    """Return the names of classes, which `output` has along an axis, `more` besides. Raises StepError."""
    labels: list[str] = spec.get("labels") or list(own.labels())
    size = next(port.shape[axis] for port in interface.outputs if port.name == output)
    if isinstance(size, int) and size != len(labels) + more:
        raise StepError(
            f"the model returns {size} scores, and {len(labels)} labels are named",
            hint="write `labels` under `pipeline`, one per class, or correct `id2label` in `config.json`",
        )
    return labels


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
