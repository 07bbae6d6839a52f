# SPDX-License-Identifier: Apache-2.0
"""The libraries that an evaluation runs on: their versions are part of what was measured."""

from __future__ import annotations

from packager.lock import pipeline_tools
from packager.recipe.evaluation import OF_WORDS
from packager.recipe.recipe import Recipe

EXTRAS = {
    "scikit-learn": "sklearn",
    "numpy": "onnx",
    "pyarrow": "batch",
    "pycocotools": "detection",
    "jiwer": "words",
    "rapidfuzz": "words",
}


def list_tools(recipe: Recipe) -> tuple[str, ...]:
    """Return the distributions whose version can change a figure."""
    if recipe.evaluation is None:
        return ()
    table = ("pyarrow",) if recipe.evaluation.data.endswith(".parquet") else ()
    if recipe.evaluation.metric in OF_WORDS:
        return ("jiwer", "rapidfuzz", "numpy", *table)
    boxes = ("pycocotools",) if recipe.evaluation.metric.startswith("map") else ()
    return ("scikit-learn", "numpy", *boxes, *table, *pipeline_tools.list_tools(recipe.pipeline))
