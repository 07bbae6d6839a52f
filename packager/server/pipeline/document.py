# SPDX-License-Identifier: Apache-2.0
"""`pipeline.json` of a bundle: how raw inputs become the tensors of the graph, and its results become answers.

    {"format": 1, "task": "text-classification",
     "text": {"file": "tokenizer.json", "digest": "sha256:…", "longest": 256, "cut": "right", "pairs": true,
              "inputs": {"input_ids": "ids", "attention_mask": "mask"},
              "padding": {"id": 0, "type": 0, "side": "right"}},
     "answer": {"output": "logits", "function": "softmax", "labels": ["negative", "positive"], "top": 2}}

Either `text` or `image` says what a row of a request is. Files lie beside the document. It is data:
no code of a model's author is named in it, and what is not known here is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from packager.server.errors import quote
from packager.server.fields import record, text

FORMAT = 1
FILE = "pipeline.json"
MAX_DOCUMENT = 4 << 20  # bytes: the labels of a classifier with 100,000 classes fit
MAX_LABELS = 200_000
LONGEST = 1 << 20  # tokens of one row

Task: TypeAlias = Literal["sentence-embedding", "text-classification", "token-classification", "image-classification"]
Function: TypeAlias = Literal["softmax", "sigmoid", "none"]
Pooling: TypeAlias = Literal["none", "mean", "cls"]
Grouping: TypeAlias = Literal["none", "simple"]
Feature: TypeAlias = Literal["ids", "mask", "types"]
TASKS: tuple[Task, ...] = get_args(Task)
FUNCTIONS: tuple[Function, ...] = get_args(Function)
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)
RESAMPLINGS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
_FEATURES: tuple[Feature, ...] = get_args(Feature)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_FILE = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


_LABEL = {"label": "string", "score": "float32"}
MEMBERS: Mapping[Task, Mapping[str, str]] = {
    "text-classification": _LABEL,
    "image-classification": _LABEL,
    "token-classification": {**_LABEL, "start": "int64", "end": "int64", "text": "string"},
}
"""The members of an answer's items, with their types; an embedding has none."""


@dataclass(frozen=True, slots=True)
class Padding:
    """What rows are filled up with: the id and type id of a padding token, and the side it stands on."""

    id: int
    type: int
    side: str


@dataclass(frozen=True, slots=True)
class Text:
    """A row is a text, or a pair of texts: cut to `longest` tokens on the side `cut`, and padded to one length.

    `inputs` says of every input of the graph which feature of the tokens it takes.
    """

    file: str
    digest: str
    longest: int
    cut: str
    pairs: bool
    inputs: Mapping[str, Feature]
    padding: Padding


@dataclass(frozen=True, slots=True)
class Image:
    """A row is a picture: resized, cropped, scaled and normalised to `input`.

    `size` is height and width, or the length of the shorter edge alone; `crop` height and width of the middle that is
    kept; `mean` and `deviation` are per channel, after pixels were multiplied by `scale`.
    """

    input: str
    channels: int
    size: tuple[int, ...] | None
    resampling: str
    crop: tuple[int, int] | None
    scale: float | None
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Embedding:
    """An answer is a vector: of `output`, which has one per row, or, with a `pooling`, one per token."""

    output: str
    pooling: Pooling
    normalize: bool


@dataclass(frozen=True, slots=True)
class Classes:
    """An answer is labels with scores, the `top` best first (None: all of them)."""

    output: str
    function: Function
    labels: tuple[str, ...]
    top: int | None


@dataclass(frozen=True, slots=True)
class Spans:
    """An answer is parts of the text with a label each; `grouping` joins those of one entity, `outside` are dropped."""

    output: str
    labels: tuple[str, ...]
    grouping: Grouping
    outside: tuple[str, ...]


Answer: TypeAlias = "Embedding | Classes | Spans"


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed `pipeline.json`; either `text` or `image` is there."""

    task: Task
    answer: Answer
    text: Text | None = None
    image: Image | None = None

    @property
    def files(self) -> Mapping[str, str]:
        """The files beside the document, with their digests."""
        return {self.text.file: self.text.digest} if self.text else {}


def read(folder: Path) -> Document:
    """Read and check the document in a directory. Raises ValueError, OSError."""
    return parse(read_limited(folder / FILE, MAX_DOCUMENT))


def read_limited(path: Path, limit: int) -> bytes:
    """Return the bytes of a file. Raises ValueError for one that is longer than `limit`, OSError."""
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{quote(path.name)} is longer than {limit} bytes")
    return data


def read_file(folder: Path, name: str, digest: str, limit: int) -> bytes:
    """Return a file of the pipeline, which must have the stated digest. Raises ValueError, OSError."""
    data = read_limited(folder / name, limit)
    if digest_of(data) != digest:
        raise ValueError(f"{quote(name)} is damaged: expected {digest}, got {digest_of(data)}")
    return data


def digest_of(data: bytes) -> str:
    """Return the digest of bytes as bundles write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parse(data: bytes) -> Document:
    """Parse a document, which may be hostile. Raises ValueError with a message about the first defect."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the pipeline is not JSON: {str(error)[:200]}") from None
    fields = record(value, "pipeline", {"format", "task", "answer"}, optional={"text", "image"})
    if fields["format"] != FORMAT or isinstance(fields["format"], bool):
        raise ValueError(f"`format`: expected {FORMAT}, got {quote(fields['format'])}")
    task: Task = _one_of(fields["task"], TASKS, "task")
    if len({"text", "image"} & fields.keys()) != 1:
        raise ValueError("expected either `text` or `image`")
    if _RAW[task] not in fields:
        raise ValueError(f"`task` is `{task}`, which needs `{_RAW[task]}`")
    return Document(
        task,
        _ANSWERS[task](fields["answer"]),
        _text(fields["text"]) if "text" in fields else None,
        _image(fields["image"]) if "image" in fields else None,
    )


_RAW: Mapping[Task, str] = {
    "sentence-embedding": "text",
    "text-classification": "text",
    "token-classification": "text",
    "image-classification": "image",
}


def _text(value: Any) -> Text:
    fields = record(value, "text", {"file", "digest", "longest", "cut", "pairs", "inputs", "padding"})
    inputs = fields["inputs"]
    if not isinstance(inputs, dict) or "ids" not in inputs.values():
        raise ValueError("`text.inputs`: expected an input for `ids`")
    if not _matches(_FILE, fields["file"]) or not _matches(_DIGEST, fields["digest"]):
        raise ValueError("`text`: expected the name of a file and its digest")
    padding = record(fields["padding"], "text.padding", {"id", "type", "side"})
    return Text(
        fields["file"],
        fields["digest"],
        _whole(fields["longest"], "text.longest", 1, LONGEST),
        _side(fields["cut"], "text.cut"),
        _flag(fields["pairs"], "text.pairs"),
        {text(name, "text.inputs"): _one_of(part, _FEATURES, f"text.inputs.{name}") for name, part in inputs.items()},
        Padding(
            _whole(padding["id"], "text.padding.id", 0, 1 << 31),
            _whole(padding["type"], "text.padding.type", 0, 1 << 31),
            _side(padding["side"], "text.padding.side"),
        ),
    )


_IMAGE = {"input", "channels", "size", "resampling", "crop", "scale", "mean", "deviation"}
_EDGE = 1 << 13  # the longest edge, in pixels, that an image is resized to


def _image(value: Any) -> Image:
    fields = record(value, "image", _IMAGE)
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
        _one_of(fields["resampling"], RESAMPLINGS, "image.resampling"),
        None if crop is None else _pair(crop),
        None if scale is None else _number(scale, "image.scale"),
        mean,
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
    pooling: Pooling = _one_of(fields["pooling"], POOLINGS, "answer.pooling")
    return Embedding(text(fields["output"], "answer.output"), pooling, _flag(fields["normalize"], "answer.normalize"))


def _classes(value: Any) -> Classes:
    fields = record(value, "answer", {"output", "function", "labels", "top"})
    function: Function = _one_of(fields["function"], FUNCTIONS, "answer.function")
    top = fields["top"]
    return Classes(
        text(fields["output"], "answer.output"),
        function,
        _labels(fields["labels"]),
        None if top is None else _whole(top, "answer.top", 1, MAX_LABELS),
    )


def _spans(value: Any) -> Spans:
    fields = record(value, "answer", {"output", "labels", "grouping", "outside"})
    grouping: Grouping = _one_of(fields["grouping"], GROUPINGS, "answer.grouping")
    outside = tuple(text(item, "answer.outside") for item in _list(fields["outside"], "answer.outside"))
    return Spans(text(fields["output"], "answer.output"), _labels(fields["labels"]), grouping, outside)


_ANSWERS: Mapping[Task, Any] = {
    "sentence-embedding": _embedding,
    "text-classification": _classes,
    "token-classification": _spans,
    "image-classification": _classes,
}


def _labels(value: Any) -> tuple[str, ...]:
    found = _list(value, "answer.labels")
    if not 1 <= len(found) <= MAX_LABELS or not all(isinstance(label, str) and len(label) <= 1024 for label in found):
        raise ValueError(f"`answer.labels`: expected 1 to {MAX_LABELS} texts")
    return tuple(found)


def _one_of(value: Any, known: tuple[Any, ...], where: str) -> Any:
    if value not in known:
        raise ValueError(f"`{where}`: expected one of {', '.join(known)}, got {quote(value)}")
    return value


def _side(value: Any, where: str) -> str:
    return str(_one_of(value, ("left", "right"), where))


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
