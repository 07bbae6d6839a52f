# SPDX-License-Identifier: Apache-2.0
"""Results of the graph to answers: vectors, labels with scores, parts of the text.

The functions are those of transformers' pipelines (5.23) and of sentence-transformers' pooling, in float32 as there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from packager.server.errors import RequestError
from packager.server.pipeline.parts import Classes, Embedding, Function, Spans
from packager.server.protocol.tensors import Array

Scored: TypeAlias = dict[str, Any]
_LEAST = np.float32(1e-9)


def vectors(about: Embedding, values: Array, mask: Array | None) -> Array:
    """Return one vector per row: pooled over the tokens of `mask` if that is stated, of length 1 if that is."""
    found = np.asarray(values, np.float32)
    if about.pooling == "mean" and mask is not None:
        weights = mask[..., None].astype(np.float32)
        found = (found * weights).sum(1) / np.maximum(weights.sum(1), _LEAST)
    elif about.pooling == "cls" and mask is not None:
        found = found[np.arange(len(found)), mask.argmax(1)]
    if about.normalize:
        found = found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), np.float32(1e-12))
    return found


def scores(function: Function, logits: Array) -> Array:
    """Return the scores of every class, along the last axis."""
    values = np.asarray(logits, np.float32)
    if function == "softmax":
        shifted = np.exp(values - values.max(-1, keepdims=True))
        return np.asarray(shifted / shifted.sum(-1, keepdims=True))
    if function == "sigmoid":
        with np.errstate(over="ignore"):
            return np.asarray(1 / (1 + np.exp(-values)))
    return values


def labels(about: Classes, logits: Array, top: int | None = None) -> Iterator[list[Scored]]:
    """Yield for every row its labels with their scores, the best first, equal ones in the order of the classes."""
    most = len(about.labels) if about.top is None else about.top
    most = most if top is None else min(top, len(about.labels))
    for row in scores(about.function, logits):
        order = np.argsort(-row, kind="stable")[:most]
        yield [{"label": about.labels[index], "score": float(row[index])} for index in order]


def check_labels(expected: int, values: Array, axis: int = -1) -> None:
    """Raise RequestError where the graph returns another number of scores than are expected."""
    if values.shape[axis] != expected:
        raise RequestError(f"the model returned {values.shape[axis]} scores, expected {expected}", status=500)


def spans(
    about: Spans, logits: Array, text: str, offsets: Sequence[tuple[int, int]], special: Sequence[int]
) -> list[Scored]:
    """Return the parts of a text with their labels: `logits` has one row per token."""
    table = scores("softmax", logits)
    found = []
    for index, ((start, end), skipped) in enumerate(zip(offsets, special, strict=True)):
        if not skipped:
            best = int(table[index].argmax())
            found.append({"label": about.labels[best], "score": table[index][best], "start": start, "end": end})
    if about.grouping == "simple":
        found = [_joined(group) for group in _groups(found)]
    kept = [item for item in found if item["label"] not in about.outside]
    return [{**item, "score": float(item["score"]), "text": text[item["start"] : item["end"]]} for item in kept]


def _groups(tokens: Sequence[Scored]) -> Iterator[list[Scored]]:
    group: list[Scored] = []
    for token in tokens:
        begins, kind = _tag(token["label"])
        if group and (begins or kind != _tag(group[-1]["label"])[1]):
            yield group
            group = []
        group.append(token)
    if group:
        yield group


def _tag(label: str) -> tuple[bool, str]:
    """Return whether a label begins an entity, and the entity's kind (`B-PER`, `I-PER`, `PER`)."""
    return label.startswith("B-"), label[2:] if label[:2] in ("B-", "I-") else label


def _joined(group: Sequence[Scored]) -> Scored:
    mean = np.nanmean([token["score"] for token in group])
    kind = group[0]["label"].split("-", 1)[-1]
    return {"label": kind, "score": mean, "start": group[0]["start"], "end": group[-1]["end"]}
