# SPDX-License-Identifier: Apache-2.0
"""The recipe key `pipeline`: what raw inputs are and what an answer is. What is left out follows from the source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from packager import strictyaml
from packager.canonical import JSON
from packager.server.pipeline.document import FUNCTIONS, GROUPINGS, LONGEST, MAX_LABELS, POOLINGS, TASKS, Task
from packager.strictyaml import Node, Scalar

_TEXTS = ("sentence-embedding", "text-classification", "token-classification")
_CLASSES = ("text-classification", "image-classification")


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """What a recipe states: the `task`, and what of it is not as the source says.

    `longest` cuts texts to so many tokens; `function` and `top` are of classes, `pooling` and `normalize` of
    embeddings, `grouping` of spans.
    """

    task: Task
    longest: int | None = None
    function: str | None = None
    labels: tuple[str, ...] | None = None
    top: int | None = None
    pooling: str | None = None
    normalize: bool | None = None
    grouping: str | None = None

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
        }
        return {name: value for name, value in known.items() if value is not None}


def _labels(node: Node, what: str) -> tuple[str, ...]:
    return tuple(strictyaml.read_text(item, what, limit=1024) for item in strictyaml.read_items(node, what, least=1))


_READERS: Mapping[str, tuple[str, tuple[str, ...], Callable[[Node, str], Any]]] = {
    "max-length": ("longest", _TEXTS, lambda node, what: strictyaml.read_integer(node, what, 1, LONGEST)),
    "function": ("function", _CLASSES, lambda node, what: strictyaml.read_choice(node, what, FUNCTIONS)),
    "labels": ("labels", (*_CLASSES, "token-classification"), _labels),
    "top": ("top", _CLASSES, lambda node, what: strictyaml.read_integer(node, what, 1, MAX_LABELS)),
    "pooling": ("pooling", _TEXTS[:1], lambda node, what: strictyaml.read_choice(node, what, POOLINGS)),
    "normalize": ("normalize", _TEXTS[:1], strictyaml.read_boolean),
    "grouping": ("grouping", _TEXTS[2:], lambda node, what: strictyaml.read_choice(node, what, GROUPINGS)),
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
