# SPDX-License-Identifier: Apache-2.0
"""The recipe key `pipeline`: what raw inputs are and what an answer is. What is left out follows from the source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from packager import strictyaml
from packager.canonical import JSON
from packager.server.pipeline.parts import (
    FUNCTIONS,
    GAP,
    GROUPINGS,
    LONGEST,
    MAX_LABELS,
    MAX_TEMPLATE,
    POOLINGS,
    TASKS,
    Task,
)
from packager.strictyaml import Node, Scalar

_ENCODER, _SPANS, _QUESTIONS, _BOXES = (
    "sentence-embedding",
    "token-classification",
    "question-answering",
    "object-detection",
)
_CHOICES = "zero-shot-image-classification"
_TEXTS = (_ENCODER, "text-classification", _SPANS, _QUESTIONS)
_CLASSES = ("text-classification", "image-classification", "audio-classification")


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """What a recipe states: the `task`, and what of it is not as the source says.

    `longest` cuts texts to so many tokens; `function` and `top` are of classes, `pooling` and `normalize` of
    embeddings, `grouping` of spans, `impossible` of answers to questions and `threshold` of boxes;
    `template` says where a label stands in what a picture is compared with.
    """

    task: Task
    longest: int | None = None
    function: str | None = None
    labels: tuple[str, ...] | None = None
    top: int | None = None
    pooling: str | None = None
    normalize: bool | None = None
    grouping: str | None = None
    impossible: bool | None = None
    threshold: float | None = None
    template: str | None = None

    def to_json(self) -> JSON:
        known = {
            "task": self.task,
            "max-length": self.longest,
            "function": self.function,
            "labels": None if self.labels is None else list(self.labels),
            "top": self.top,
            "pooling": self.pooling,
            "normalize": self.normalize,
            "grouping": self.grouping,
            "impossible": self.impossible,
            "threshold": self.threshold,
            "template": self.template,
        }
        return {name: value for name, value in known.items() if value is not None}


def _labels(node: Node, what: str) -> tuple[str, ...]:
    return tuple(strictyaml.read_text(item, what, limit=1024) for item in strictyaml.read_items(node, what, least=1))


def _template(node: Node, what: str) -> str:
    found = strictyaml.read_text(node, what, limit=MAX_TEMPLATE)
    if found.count(GAP) != 1:
        raise node.where.error(f"`{what}`: expected a text with one `{GAP}`, where the label stands")
    return found


_READERS: Mapping[str, tuple[str, tuple[str, ...], Callable[[Node, str], Any]]] = {
    "max-length": ("longest", (*_TEXTS, _CHOICES), lambda node, what: strictyaml.read_integer(node, what, 1, LONGEST)),
    "function": ("function", (*_CLASSES, _BOXES), lambda node, what: strictyaml.read_choice(node, what, FUNCTIONS)),
    "labels": ("labels", (*_CLASSES, _SPANS, _BOXES, "image-segmentation", _CHOICES), _labels),
    "top": (
        "top",
        (*_CLASSES, _QUESTIONS, _CHOICES),
        lambda node, what: strictyaml.read_integer(node, what, 1, MAX_LABELS),
    ),
    "pooling": ("pooling", (_ENCODER,), lambda node, what: strictyaml.read_choice(node, what, POOLINGS)),
    "normalize": ("normalize", (_ENCODER,), strictyaml.read_boolean),
    "grouping": ("grouping", (_SPANS,), lambda node, what: strictyaml.read_choice(node, what, GROUPINGS)),
    "impossible": ("impossible", (_QUESTIONS,), strictyaml.read_boolean),
    "template": ("template", (_CHOICES,), _template),
    "threshold": ("threshold", (_BOXES,), lambda node, what: strictyaml.read_number(node, what, 0, 1)),
}


def read(node: Node) -> PipelineSpec:
    """Read the key: the name of a task, or a mapping with it. Raises UsageError."""
    if isinstance(node, Scalar):
        return PipelineSpec(_task(node, "pipeline"))
    members = strictyaml.read_fields(node, "pipeline", ("task", *_READERS), required=("task",))
    task = _task(members.pop("task"), "pipeline.task")
    values: dict[str, Any] = {}
    for key, member in members.items():
        field, tasks, reader = _READERS[key]
        if task not in tasks:
            raise member.where.error(
                f"`pipeline.{key}` says nothing about `{task}`", hint=f"it is for {', '.join(tasks)}: remove it"
            )
        values[field] = reader(member, f"pipeline.{key}")
    return PipelineSpec(task, **values)


def _task(node: Node, what: str) -> Task:
    found = strictyaml.read_choice(node, what, TASKS)
    return next(task for task in get_args(Task) if task == found)
