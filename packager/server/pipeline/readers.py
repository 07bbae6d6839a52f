# SPDX-License-Identifier: Apache-2.0
"""The parts of a `pipeline.json` from JSON, which may be hostile: every member of its type and within bounds."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from packager.server.errors import quote
from packager.server.fields import record, text
from packager.server.generation.decoding import MAX_RATE, MIN_RATE
from packager.server.pipeline.parts import (
    FEATURES,
    FUNCTIONS,
    GAP,
    GROUPINGS,
    LONGEST,
    MAX_CHOICES,
    MAX_LABELS,
    MAX_SPAN,
    MAX_TEMPLATE,
    POOLINGS,
    RESAMPLINGS,
    Answer,
    Audio,
    Boxes,
    Choices,
    Classes,
    Embedding,
    Function,
    Grouping,
    Image,
    Mels,
    Padding,
    Passages,
    Pooling,
    Regions,
    Spans,
    Task,
    Text,
)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_FILE = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


def read_text(value: Any) -> Text:
    """Read what a row of text is. Raises ValueError."""
    known = {"file", "digest", "longest", "cut", "pairs", "inputs", "padding"}
    fields = record(value, "text", known, optional={"overlap"})
    overlap, longest = fields.get("overlap"), _whole(fields["longest"], "text.longest", 1, LONGEST)
    inputs = fields["inputs"]
    if not isinstance(inputs, dict) or "ids" not in inputs.values():
        raise ValueError("`text.inputs`: expected an input for `ids`")
    if not _matches(_FILE, fields["file"]) or not _matches(_DIGEST, fields["digest"]):
        raise ValueError("`text`: expected the name of a file and its digest")
    padding = record(fields["padding"], "text.padding", {"id", "type", "side"})
    return Text(
        fields["file"],
        fields["digest"],
        longest,
        _side(fields["cut"], "text.cut"),
        _flag(fields["pairs"], "text.pairs"),
        {text(name, "text.inputs"): one_of(part, FEATURES, f"text.inputs.{name}") for name, part in inputs.items()},
        Padding(
            _whole(padding["id"], "text.padding.id", 0, 1 << 31),
            _whole(padding["type"], "text.padding.type", 0, 1 << 31),
            _side(padding["side"], "text.padding.side"),
        ),
        None if overlap is None else _whole(overlap, "text.overlap", 0, longest - 1),
    )


_IMAGE = {"input", "channels", "size", "resampling", "crop", "scale", "mean", "deviation"}
_EDGE = 1 << 13  # the longest edge, in pixels, that an image is resized to


def read_image(value: Any) -> Image:
    """Read what a row that is a picture is. Raises ValueError."""
    fields = record(value, "image", _IMAGE, optional={"longest", "multiple", "mask"})
    longest, mask = fields.get("longest"), fields.get("mask")
    channels = _whole(fields["channels"], "image.channels", 1, 3)
    size, crop, scale = fields["size"], fields["crop"], fields["scale"]
    mean, deviation = (
        tuple(_number(item, f"image.{key}") for item in _list(fields[key], f"image.{key}"))
        for key in ("mean", "deviation")
    )
    if channels == 2 or not len(mean) == len(deviation) or len(mean) not in (0, channels) or 0.0 in deviation:
        raise ValueError("`image`: expected 1 or 3 channels, with `mean` and `deviation` for each of them or none")
    return Image(
        text(fields["input"], "image.input"),
        channels,
        None if size is None else _edges(size, "image.size", (1, 2)),
        one_of(fields["resampling"], RESAMPLINGS, "image.resampling"),
        None if crop is None else _pair(crop),
        None if scale is None else _number(scale, "image.scale"),
        mean,
        deviation,
        None if longest is None else _whole(longest, "image.longest", 1, _EDGE),
        _whole(fields.get("multiple", 1), "image.multiple", 1, 1 << 10),
        None if mask is None else text(mask, "image.mask"),
    )


def read_audio(value: Any) -> Audio:
    """Read what a row of sound is. Raises ValueError."""
    fields = record(value, "audio", {"input", "rate", "normalize", "mels"}, optional={"mask"})
    mask = fields.get("mask")
    return Audio(
        text(fields["input"], "audio.input"),
        _whole(fields["rate"], "audio.rate", MIN_RATE, MAX_RATE),
        _flag(fields["normalize"], "audio.normalize"),
        None if fields["mels"] is None else _mels(fields["mels"]),
        None if mask is None else text(mask, "audio.mask"),
    )


def _mels(value: Any) -> Mels:
    fields = record(value, "audio.mels", {"bands", "frames", "mean", "deviation"})
    if not (deviation := _number(fields["deviation"], "audio.mels.deviation")):
        raise ValueError("`audio.mels.deviation`: expected a number that is not 0")
    return Mels(
        _whole(fields["bands"], "audio.mels.bands", 1, 256),
        _whole(fields["frames"], "audio.mels.frames", 1, 1 << 16),
        _number(fields["mean"], "audio.mels.mean"),
        deviation,
    )


def _pair(value: Any) -> tuple[int, int]:
    height, width = _edges(value, "image.crop", (2,))
    return height, width


def _edges(value: Any, where: str, counts: tuple[int, ...]) -> tuple[int, ...]:
    edges = tuple(_whole(item, where, 1, _EDGE) for item in _list(value, where))
    if len(edges) not in counts:
        raise ValueError(f"`{where}`: expected {' or '.join(map(str, counts))} lengths, got {len(edges)}")
    return edges


def _embedding(value: Any) -> Embedding:
    fields = record(value, "answer", {"output", "pooling", "normalize"})
    pooling: Pooling = one_of(fields["pooling"], POOLINGS, "answer.pooling")
    return Embedding(text(fields["output"], "answer.output"), pooling, _flag(fields["normalize"], "answer.normalize"))


def _classes(value: Any) -> Classes:
    fields = record(value, "answer", {"output", "function", "labels", "top"})
    function: Function = one_of(fields["function"], FUNCTIONS, "answer.function")
    top = fields["top"]
    return Classes(
        text(fields["output"], "answer.output"),
        function,
        _labels(fields["labels"]),
        None if top is None else _whole(top, "answer.top", 1, MAX_LABELS),
    )


def _spans(value: Any) -> Spans:
    fields = record(value, "answer", {"output", "labels", "grouping", "outside"})
    grouping: Grouping = one_of(fields["grouping"], GROUPINGS, "answer.grouping")
    outside = tuple(text(item, "answer.outside") for item in _list(fields["outside"], "answer.outside"))
    return Spans(text(fields["output"], "answer.output"), _labels(fields["labels"]), grouping, outside)


def _passages(value: Any) -> Passages:
    fields = record(value, "answer", {"start", "end", "longest", "top", "null", "impossible"})
    null = fields["null"]
    return Passages(
        text(fields["start"], "answer.start"),
        text(fields["end"], "answer.end"),
        _whole(fields["longest"], "answer.longest", 1, MAX_SPAN),
        _whole(fields["top"], "answer.top", 1, MAX_LABELS),
        None if null is None else _whole(null, "answer.null", 0, 1 << 31),
        _flag(fields["impossible"], "answer.impossible"),
    )


def _boxes(value: Any) -> Boxes:
    fields = record(value, "answer", {"scores", "boxes", "function", "labels", "threshold"})
    function: Function = one_of(fields["function"], ("softmax", "sigmoid"), "answer.function")
    return Boxes(
        text(fields["scores"], "answer.scores"),
        text(fields["boxes"], "answer.boxes"),
        function,
        _labels(fields["labels"]),
        _number(fields["threshold"], "answer.threshold"),
    )


def _regions(value: Any) -> Regions:
    fields = record(value, "answer", {"output", "labels"})
    return Regions(text(fields["output"], "answer.output"), _labels(fields["labels"]))


def _choices(value: Any) -> Choices:
    fields = record(value, "answer", {"output", "labels", "template", "top"})
    template, top = text(fields["template"], "answer.template"), fields["top"]
    if template.count(GAP) != 1 or len(template) > MAX_TEMPLATE:
        raise ValueError(f"`answer.template`: expected at most {MAX_TEMPLATE} characters with one `{GAP}`")
    if len(_list(fields["labels"], "answer.labels")) > MAX_CHOICES:
        raise ValueError(f"`answer.labels`: expected at most {MAX_CHOICES} texts")
    return Choices(
        text(fields["output"], "answer.output"),
        _labels(fields["labels"]) if fields["labels"] else (),
        template,
        None if top is None else _whole(top, "answer.top", 1, MAX_CHOICES),
    )


ANSWERS: Mapping[Task, Callable[[Any], Answer]] = {
    "sentence-embedding": _embedding,
    "text-classification": _classes,
    "token-classification": _spans,
    "question-answering": _passages,
    "image-classification": _classes,
    "object-detection": _boxes,
    "image-segmentation": _regions,
    "audio-classification": _classes,
    "zero-shot-image-classification": _choices,
}
"""What reads the answer of a task. Raises ValueError."""


def _labels(value: Any) -> tuple[str, ...]:
    found = _list(value, "answer.labels")
    if not 1 <= len(found) <= MAX_LABELS or not all(isinstance(label, str) and len(label) <= 1024 for label in found):
        raise ValueError(f"`answer.labels`: expected 1 to {MAX_LABELS} texts")
    return tuple(found)


def one_of(value: Any, known: tuple[Any, ...], where: str) -> Any:
    """Return `value` if it is one of those known. Raises ValueError."""
    if value not in known:
        raise ValueError(f"`{where}`: expected one of {', '.join(known)}, got {quote(value)}")
    return value


def _side(value: Any, where: str) -> str:
    return str(one_of(value, ("left", "right"), where))


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"`{where}`: expected true or false, got {quote(value)}")
    return value


def _whole(value: Any, where: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"`{where}`: expected a whole number from {low} to {high}, got {quote(value)}")
    return value


def _number(value: Any, where: str) -> float:
    if type(value) not in (int, float) or abs(value) > 1e9:
        raise ValueError(f"`{where}`: expected a number, got {quote(value)}")
    return float(value)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"`{where}`: expected a list, got {quote(value)}")
    return value


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
