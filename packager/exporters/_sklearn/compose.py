# SPDX-License-Identifier: Apache-2.0
"""Pipelines, column transformers and unions: which step gets which columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from packager.exporters._sklearn import emit, emit_frame, names_of, refuse, writes
from packager.exporters._sklearn.builder import FLOATS, Builder, Frame, Value

_METHODS = ("predict", "predict_proba", "decision_function", "score_samples", "transform")


def _before_last(builder: Builder, pipeline: Any, frame: Frame) -> Frame:
    for _, step in pipeline.steps[:-1]:
        frame = _passed(builder, step, frame)
    return frame


def _passed(builder: Builder, step: Any, frame: Frame) -> Frame:
    """Return what a step of a pipeline makes of a frame."""
    if step is None or step == "passthrough":
        return frame
    made = emit_frame(builder, step, "transform", frame)
    return made if made.names else replace(made, names=names_of(step, frame.names))


def _write_pipeline(method: str) -> None:
    @writes(method, "Pipeline")
    def write(builder: Builder, pipeline: Any, frame: Frame) -> Value | Frame:
        before = _before_last(builder, pipeline, frame)
        last = pipeline.steps[-1][1]
        if method == "transform":
            return _passed(builder, last, before)
        return emit(builder, last, method, before)


for _method in _METHODS:
    _write_pipeline(_method)


@writes("transform", "ColumnTransformer")
def transform_columns(builder: Builder, model: Any, frame: Frame) -> Frame:
    """Write every part on its own columns; parts that make none (all dropped) leave nothing."""
    fitted = [str(name) for name in getattr(model, "feature_names_in_", ())]
    if frame.names and fitted and set(fitted) <= set(frame.names):
        frame = builder.select(frame, [list(frame.names).index(name) for name in fitted])
    made: list[Frame] = []
    for name, part, chosen in model.transformers_:
        positions = _chosen(model, name, chosen, fitted, frame.width)
        if part == "drop" or not positions:
            continue
        own = builder.select(frame, positions)
        found = own if part == "passthrough" else emit_frame(builder, part, "transform", own)
        made.append(replace(found, names=found.names or names_of(part, own.names)))
    return _side_by_side(builder, model, made, frame)


def _chosen(model: Any, name: str, chosen: Any, fitted: Sequence[str], width: int) -> list[int]:
    """Return the positions of the columns of a part."""
    positions = getattr(model, "_transformer_to_input_indices", {}).get(name)
    if positions is not None:
        return [int(position) for position in positions]
    if isinstance(chosen, slice):
        return list(range(width))[chosen]
    listed = [chosen] if isinstance(chosen, str | int) else list(chosen)
    if listed and all(type(item).__name__ in ("bool", "bool_") for item in listed):
        return [position for position, taken in enumerate(listed) if taken]
    return [list(fitted).index(item) if isinstance(item, str) else int(item) % width for item in listed]


def _side_by_side(builder: Builder, model: Any, made: Sequence[Frame], given: Frame) -> Frame:
    """Put the results together; numbers become one matrix, as `numpy.hstack` makes it."""
    if not made:
        refuse(model, "makes no columns")
    blocks = tuple(block for part in made for block in part.blocks)
    names = names_of(model, given.names)
    if any(block.dtype == "string" for block in blocks) or names:
        return Frame(blocks, names)
    whole = "int64" if {block.dtype for block in blocks}.isdisjoint(FLOATS) else None
    return Frame((builder.matrix(Frame(blocks), whole),))


@writes("transform", "FeatureUnion")
def transform_union(builder: Builder, model: Any, frame: Frame) -> Frame:
    """Write every part on the same columns; weights multiply what a part makes."""
    made = []
    weights = model.transformer_weights or {}
    for name, part in model.transformer_list:
        if part == "drop":
            continue
        found = _passed(builder, part, frame)
        if name in weights and weights[name] is not None:
            found = Frame((builder.mul(builder.matrix(found), float(weights[name])),))
        made.append(found)
    return _side_by_side(builder, model, made, frame)
