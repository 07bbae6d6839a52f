# SPDX-License-Identifier: Apache-2.0
"""A picture and texts that may be about it: what a row says, and which text fits best.

The arithmetic is that of transformers' zero-shot image classification with CLIP (5.23).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from packager.server.errors import RequestError
from packager.server.pipeline.answers import Scored, scores
from packager.server.pipeline.parts import GAP, MAX_CHOICES, Choices
from packager.server.protocol.tensors import Array


def read_labels(about: Choices, rows: Sequence[Any]) -> tuple[str, ...]:
    """Return the labels that all rows of a request are compared with. Raises RequestError."""
    found = {_labels(about, row, index) for index, row in enumerate(rows)}
    if len(found) > 1:
        raise RequestError("expected the same `labels` in every row of one request")
    return found.pop()


def _labels(about: Choices, row: Any, index: int) -> tuple[str, ...]:
    labels = row.get("labels") if isinstance(row, Mapping) else None
    if isinstance(labels, str):
        labels = [part.strip() for part in labels.split(",")]
    if labels is None or labels == [""]:
        if about.labels:
            return about.labels
        raise RequestError(f"row {index}: expected `labels`, a list of texts: the bundle has none of its own")
    if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
        raise RequestError(f"row {index}: expected `labels`, a list of texts, or one text with commas between them")
    if not 1 <= len(labels) <= MAX_CHOICES or len(set(labels)) < len(labels):
        raise RequestError(f"row {index}: expected 1 to {MAX_CHOICES} different labels")
    return tuple(labels)


def write_sentences(about: Choices, labels: Sequence[str]) -> list[tuple[str, None]]:
    """Return what a picture is compared with."""
    return [(about.template.replace(GAP, label), None) for label in labels]


def rank_labels(about: Choices, logits: Array, labels: Sequence[str], top: int | None) -> Iterator[list[Scored]]:
    """Yield for every picture the labels with their scores, the best first, equal ones in their order."""
    most = about.top if top is None else top
    for row in scores("softmax", logits):
        order = np.argsort(-row, kind="stable")[:most]
        yield [{"label": labels[index], "score": float(row[index])} for index in order]
