# SPDX-License-Identifier: Apache-2.0
"""Models whose encoder chooses the places that are looked at (RT-DETR), and pictures that leave the choice open.

Where every place of a picture has one score, as in a picture of one colour, any of them may be chosen: torch and ONNX
Runtime choose others, and both are right. Such a picture says nothing about an export.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from packager.exporters import Arrays, Feeds, Port

SCORES, QUERIES, PICTURE = "enc_outputs_class", "logits", "pixel_values"
_TIE = 1e-5  # of scores: those that are nearer may stand the other way round
_SEED = 0


def replace_open_pictures(
    feeds: Feeds, outputs: Sequence[str], ports: Sequence[Port], run: Callable[[Feeds], Arrays]
) -> Feeds:
    """Return drawn inputs with noise in place of pictures [batch, 3, height, width] that leave the choice open.

    Inputs of a model that does not choose are returned as they are. A model that scores the places of noise alike as
    well is not trained; its outputs are compared as they are.
    """
    if not {SCORES, QUERIES} <= set(outputs) or PICTURE not in feeds:
        return feeds
    numpy = importlib.import_module("numpy")
    found = dict(zip(outputs, run(feeds), strict=True))
    tied = find_open_rows(found[SCORES], found[QUERIES].shape[1])
    if not tied.any():
        return feeds
    pictures = feeds[PICTURE]
    span = next((port.range for port in ports if port.name == PICTURE), None)
    noise = numpy.random.default_rng(_SEED).standard_normal(pictures.shape).astype(pictures.dtype)
    noise = noise if span is None else numpy.clip(noise, *span)
    return {**feeds, PICTURE: numpy.where(tied[:, None, None, None], noise, pictures)}


def find_open_rows(scores: Any, queries: int) -> Any:
    """Return for scores [batch, places, classes] in which rows a near tie decides which places become `queries`."""
    numpy = importlib.import_module("numpy")
    if scores.shape[1] <= queries:
        return numpy.zeros(len(scores), bool)
    best = -numpy.sort(-scores.max(-1), axis=1)
    return best[:, queries - 1] - best[:, queries] <= _TIE
