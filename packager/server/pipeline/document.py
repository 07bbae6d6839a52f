# SPDX-License-Identifier: Apache-2.0
"""`pipeline.json` of a bundle: how raw inputs become the tensors of the graph, and its results become answers.

    {"format": 1, "task": "text-classification",
     "text": {"file": "tokenizer.json", "digest": "sha256:…", "longest": 256, "cut": "right", "pairs": true,
              "inputs": {"input_ids": "ids", "attention_mask": "mask"},
              "padding": {"id": 0, "type": 0, "side": "right"}},
     "answer": {"output": "logits", "function": "softmax", "labels": ["negative", "positive"], "top": 2}}

One of `text`, `image` and `audio` says what a row of a request is. Files lie beside the document. It is data: no code
of a model's author is named in it, and what is not known here is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packager.server.errors import quote
from packager.server.fields import record
from packager.server.pipeline import readers
from packager.server.pipeline.parts import (
    RAW,
    TASKS,
    Answer,
    Audio,
    Choices,
    Classes,
    Embedding,
    Image,
    Passages,
    Task,
    Text,
)

FORMAT = 1
FILE = "pipeline.json"
MAX_DOCUMENT = 4 << 20  # bytes: the labels of a classifier with 100,000 classes fit


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed `pipeline.json`; one of `text`, `image` and `audio` is there, or `image` and `text`."""

    task: Task
    answer: Answer
    text: Text | None = None
    image: Image | None = None
    audio: Audio | None = None

    @property
    def raw(self) -> str:
        """What a row is: `text`, `image` or `audio`."""
        return RAW[self.task]

    @property
    def columns(self) -> tuple[str, ...]:
        """The members that every row has; the first is the one that stands alone."""
        return ("question", "context") if isinstance(self.answer, Passages) else (self.raw,)

    @property
    def optional(self) -> tuple[str, ...]:
        """The members that a row may have besides."""
        if isinstance(self.answer, Choices):
            return ("labels",)
        return ("text_pair",) if self.text and self.text.pairs and len(self.columns) == 1 else ()

    @property
    def outputs(self) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
        """The name, type and shape of what the Open Inference Protocol answers to raw inputs."""
        if isinstance(self.answer, Embedding):
            return (("embedding", "float32", ("rows", "width")),)
        if isinstance(self.answer, Classes):
            return (("label", "string", ("rows", "top")), ("score", "float32", ("rows", "top")))
        return (("answer", "string", ("rows",)),)

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
    kinds = set(RAW.values())
    fields = record(value, "pipeline", {"format", "task", "answer"}, optional=kinds)
    if fields["format"] != FORMAT or isinstance(fields["format"], bool):
        raise ValueError(f"`format`: expected {FORMAT}, got {quote(fields['format'])}")
    task: Task = readers.one_of(fields["task"], TASKS, "task")
    if RAW[task] not in fields:
        raise ValueError(f"`task` is `{task}`, which needs `{RAW[task]}`")
    answer = readers.ANSWERS[task](fields["answer"])
    if kinds & fields.keys() != {RAW[task], *(("text",) if isinstance(answer, Choices) else ())}:
        raise ValueError("expected one of `text`, `image` and `audio`, or `image` and `text` where labels are sent")
    text = readers.read_text(fields["text"]) if "text" in fields else None
    if isinstance(answer, Passages) != (text is not None and text.overlap is not None):
        raise ValueError("`text.overlap` is for answers to questions, and these need it")
    return Document(
        task,
        answer,
        text,
        readers.read_image(fields["image"]) if "image" in fields else None,
        readers.read_audio(fields["audio"]) if "audio" in fields else None,
    )
