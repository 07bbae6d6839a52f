# SPDX-License-Identifier: Apache-2.0
"""The records of a `pipeline.json`: what a row of a request is, and what an answer is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Task: TypeAlias = Literal[
    "sentence-embedding",
    "text-classification",
    "token-classification",
    "question-answering",
    "image-classification",
    "object-detection",
    "image-segmentation",
    "audio-classification",
    "zero-shot-image-classification",
]
Function: TypeAlias = Literal["softmax", "sigmoid", "none"]
Pooling: TypeAlias = Literal["none", "mean", "cls"]
Grouping: TypeAlias = Literal["none", "simple"]
Feature: TypeAlias = Literal["ids", "mask", "types"]
Sound: TypeAlias = Literal["wave", "log-mel"]
TASKS: tuple[Task, ...] = get_args(Task)
FUNCTIONS: tuple[Function, ...] = get_args(Function)
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)
FEATURES: tuple[Feature, ...] = get_args(Feature)
SOUNDS: tuple[Sound, ...] = get_args(Sound)
RESAMPLINGS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")

MAX_LABELS = 200_000
LONGEST = 1 << 20  # tokens of one row
MAX_SPAN = 512  # tokens of one answer in a text
MAX_CHOICES = 1000  # labels that a picture is compared with
MAX_TEMPLATE = 1024  # characters
GAP = "{}"

_LABEL = {"label": "string", "score": "float32"}
_PLACE = {"start": "int64", "end": "int64", "text": "string"}
MEMBERS: Mapping[Task, Mapping[str, str]] = {
    "text-classification": _LABEL,
    "image-classification": _LABEL,
    "audio-classification": _LABEL,
    "zero-shot-image-classification": _LABEL,
    "token-classification": {**_LABEL, **_PLACE},
    "question-answering": {"score": "float32", **_PLACE},
    "object-detection": {**_LABEL, **dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), "float32")},
    "image-segmentation": {"label": "string", "share": "float32", "mask": "string"},
}
"""The members of an answer's items, with their types; an embedding has none."""

RAW: Mapping[Task, Literal["text", "image", "audio"]] = {
    "sentence-embedding": "text",
    "text-classification": "text",
    "token-classification": "text",
    "question-answering": "text",
    "image-classification": "image",
    "object-detection": "image",
    "image-segmentation": "image",
    "audio-classification": "audio",
    "zero-shot-image-classification": "image",
}
"""The part of a document that says what a row is; a row of the last task has texts as well."""

RAW_INPUTS = ("text", "image", "audio", "question", "context")
"""The inputs of the Open Inference Protocol that are raw."""
_NAMED = re.compile(rb'"name"\s*:\s*"(%s)"' % "|".join(RAW_INPUTS).encode())


def names_raw(document: bytes | memoryview) -> bool:
    """Return whether the JSON of a request names a raw input."""
    return _NAMED.search(document) is not None


@dataclass(frozen=True, slots=True)
class Padding:
    """What rows are filled up with: the id and type id of a padding token, and the side it stands on."""

    id: int
    type: int
    side: str


@dataclass(frozen=True, slots=True)
class Text:
    """A row is a text, or a pair of texts: cut to `longest` tokens on the side `cut`, and padded to one length.

    `inputs` says of every input of the graph which feature of the tokens it takes. With an `overlap` the second text
    is not cut but divided into windows that share so many tokens.
    """

    file: str
    digest: str
    longest: int
    cut: str
    pairs: bool
    inputs: Mapping[str, Feature]
    padding: Padding
    overlap: int | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """A row is a picture: resized, cropped, scaled and normalised to `input`.

    `size` is height and width, or the length of the shorter edge alone; then `longest` limits the longer one, and both
    are rounded down to multiples of `multiple`. `crop` is height and width of the middle that is kept; `mean` and
    `deviation` are per channel, after pixels were multiplied by `scale`. With the input `mask` pictures of several
    sizes run together, filled up with zeros.
    """

    input: str
    channels: int
    size: tuple[int, ...] | None
    resampling: str
    crop: tuple[int, int] | None
    scale: float | None
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    longest: int | None = None
    multiple: int = 1
    mask: str | None = None


@dataclass(frozen=True, slots=True)
class Mels:
    """A spectrogram: `bands` of Kaldi's mel scale, so many `frames`, less `mean`, divided by `deviation`."""

    bands: int
    frames: int
    mean: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Audio:
    """A row is sound at `rate` samples a second: a wave, of zero mean and unit variance if `normalize`, or `mels`."""

    input: str
    rate: int
    normalize: bool
    mels: Mels | None
    mask: str | None = None


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


@dataclass(frozen=True, slots=True)
class Passages:
    """An answer is parts of the second text, of at most `longest` tokens, the `top` best first.

    `start` and `end` are outputs. The token `null` (its id) stands for "no answer", which is one if `impossible`.
    """

    start: str
    end: str
    longest: int
    top: int
    null: int | None
    impossible: bool


@dataclass(frozen=True, slots=True)
class Boxes:
    """An answer is things with a label, a score of at least `threshold` and a box.

    `boxes` is the output of centres, widths and heights, as parts of the picture. With softmax the last class of
    `scores` means "nothing"; with sigmoid the best pairs of query and class are taken.
    """

    scores: str
    boxes: str
    function: Function
    labels: tuple[str, ...]
    threshold: float


@dataclass(frozen=True, slots=True)
class Regions:
    """An answer is the parts of a picture: every label that some pixel has, with its mask."""

    output: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choices:
    """An answer is the labels that a picture was sent with, or else `labels`, with scores by softmax, the best first.

    A label stands in the `template` where that has braces.
    """

    output: str
    labels: tuple[str, ...]
    template: str
    top: int | None


Answer: TypeAlias = Embedding | Classes | Spans | Passages | Boxes | Regions | Choices


def list_outputs(answer: Answer) -> tuple[str, ...]:
    """Return the outputs of the graph that an answer is made of."""
    if isinstance(answer, Passages):
        return answer.start, answer.end
    return (answer.scores, answer.boxes) if isinstance(answer, Boxes) else (answer.output,)
