# SPDX-License-Identifier: Apache-2.0
"""The recipe key `evaluation`: data with what is right, a metric, and what every target has to reach on it."""

from __future__ import annotations

from dataclasses import dataclass

from packager import strictyaml
from packager.canonical import JSON
from packager.recipe import fields
from packager.strictyaml import Node

OF_WORDS = ("wer", "cer")
"""Metrics of the texts that a model writes."""
ERRORS = ("rmse", "mae", *OF_WORDS)
"""Metrics of which less is better; their `bound` is the most."""
_MOST_SLICES = 16
_WRITING = ("automatic-speech-recognition", "text2text-generation")


@dataclass(frozen=True, slots=True)
class EvaluationSpec:
    """What a recipe states: rows of `data`, whose column `label` says what is right.

    `bound` is the least value of the metric over all rows (the most of an error), `slice_bound` that of every slice:
    the rows with one value in one of the columns `slices`. `output` is which output answers.
    """

    data: str
    label: str
    metric: str
    bound: float
    slices: tuple[str, ...] = ()
    slice_bound: float | None = None
    output: str | None = None

    def to_json(self) -> JSON:
        known = {
            "data": self.data,
            "label": self.label,
            "metric": self.metric,
            "bound": self.bound,
            "slices": list(self.slices) or None,
            "slice-bound": self.slice_bound,
            "output": self.output,
        }
        return {name: value for name, value in known.items() if value is not None}


_KEYS = ("data", "label", "metric", "bound", "slices", "slice-bound", "output")


def read(node: Node) -> EvaluationSpec:
    """Read the key. Raises UsageError."""
    members = strictyaml.read_fields(node, "evaluation", _KEYS, required=_KEYS[:4])
    names = members.get("slices")
    slices = strictyaml.read_items(names, "evaluation.slices", least=1, most=_MOST_SLICES) if names else ()
    if "slice-bound" in members and not slices:
        raise members["slice-bound"].where.error(
            "`evaluation.slice-bound` is for the columns under `slices`, and there are none",
            hint="write `slices: [COLUMN]`, or remove it",
        )
    return EvaluationSpec(
        fields.data_file(members["data"], "evaluation.data", fields.LABELLED, "a `.parquet`, `.csv` or `.jsonl` file"),
        _column(members["label"], "evaluation.label"),
        strictyaml.read_text(
            members["metric"],
            "evaluation.metric",
            pattern=fields.METRIC,
            expect="`accuracy`, `f1`, `auc`, `recall@N`, `rmse`, `mae`, `r2`, `miou`, `map`, `map@50`, `map@75`, `wer` "
            "or `cer`",
        ),
        _bound(members["bound"], "evaluation.bound"),
        tuple(_column(item, "evaluation.slices") for item in slices),
        _bound(members["slice-bound"], "evaluation.slice-bound") if "slice-bound" in members else None,
        _column(members["output"], "evaluation.output") if "output" in members else None,
    )


def check_task(node: Node, spec: EvaluationSpec, task: str | None) -> None:
    """Refuse a metric that says nothing of what a recipe with this task, or without one, makes. Raises UsageError."""
    if task is None and spec.metric in OF_WORDS:
        raise node.where.error(
            f"`evaluation.metric`: `{spec.metric}` is of the texts that a model writes, and there is no `task`",
            hint=f"write `task: {' or '.join(_WRITING)}`, or another `metric`",
        )
    if task is None:
        return
    if task not in _WRITING:
        raise node.where.error(
            f"`evaluation` has no meaning beside `task: {task}`: no metric is measured on what it writes",
            hint="remove `evaluation`",
        )
    if spec.metric not in OF_WORDS:
        raise node.where.error(
            f"`evaluation.metric`: `{spec.metric}` is not measured for `{task}`",
            hint=f"write {' or '.join(f'`{name}`' for name in OF_WORDS)}",
        )
    if spec.output is not None:
        raise node.where.error(
            "`evaluation.output` has no meaning beside `task`: what is compared is the text", hint="remove it"
        )


def _column(node: Node, what: str) -> str:
    return strictyaml.read_text(node, what, limit=255)


def _bound(node: Node, what: str) -> float:
    return float(strictyaml.read_number(node, what, -1e12, 1e12))
