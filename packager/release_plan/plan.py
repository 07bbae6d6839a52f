# SPDX-License-Identifier: Apache-2.0
"""The plan of a release and its results: plain records of tasks, one row for each model.

A task is one part of a release for one model. Its state says what becomes, or became, of it:

    planned     it will run, for this reason (a dry run)
    unchanged   it ran before with the same inputs, so it does not run
    done        it ran, and its gate holds
    no          it ran to its end, and the answer is no: policy, parity, conformance, promotion
    failed      it did not run to its end
    skipped     it did not run, because something before it is `no`, `failed` or `skipped`
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from packager.canonical import JSON
from packager.errors import NegativeAnswerError, StepError
from packager.release_plan.release_file import Model, Settings

TASKS = ("lock", "build", "policy", "conform", "sign", "push", "promote")  # in the order in which they run
State: TypeAlias = Literal["planned", "unchanged", "done", "no", "failed", "skipped"]
STATES: tuple[State, ...] = get_args(State)
BAD: tuple[State, ...] = ("no", "failed", "skipped")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a task is `no` or `failed`: the exit code that its own verb would end with, a message, a remedy, details."""

    code: int
    message: str
    hint: str | None = None
    details: tuple[str, ...] = ()

    def to_json(self) -> JSON:
        return {"code": self.code, "message": self.message, "hint": self.hint, "details": list(self.details)}

    @staticmethod
    def from_json(value: JSON) -> Problem:
        """Return what `to_json` wrote."""
        return Problem(value["code"], value["message"], value["hint"], tuple(value.get("details", ())))


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task of one model: its state, the reason for it, the seconds that it took, and when it began (Unix time)."""

    task: str
    state: State
    reason: str = ""
    seconds: float = 0.0
    problem: Problem | None = None
    began: float | None = None

    def to_json(self) -> JSON:
        value = {"task": self.task, "state": self.state, "reason": self.reason, "seconds": round(self.seconds, 3)}
        value |= {} if self.began is None else {"began": round(self.began, 3)}
        return value if self.problem is None else {**value, "problem": self.problem.to_json()}

    @staticmethod
    def from_json(value: JSON) -> TaskRow:
        """Return what `to_json` wrote."""
        problem = value.get("problem")
        known = problem and Problem.from_json(problem)
        return TaskRow(value["task"], value["state"], value["reason"], value["seconds"], known, value.get("began"))


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model of a release: its tasks in order, what it is built for, and what it became.

    `cells` are the conformance cells as planned from the recipe; `executed` and `cached` count steps of the build;
    `reference` is where the bundle was pushed, by digest, `sent` the bytes that went there, `conformance` the digest of
    the signed result of the suite.
    """

    name: str
    version: str
    recipe: str
    tasks: tuple[TaskRow, ...]
    targets: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    digest: str | None = None
    reference: str | None = None
    executed: int = 0
    cached: int = 0
    warnings: tuple[str, ...] = ()
    conformance: str | None = None
    sent: int = 0

    @property
    def state(self) -> State:
        """The worst state of its tasks; `done` if one ran, `unchanged` if none had to."""
        found = {row.state for row in self.tasks}
        return next((state for state in ("failed", "no", "skipped", "planned", "done") if state in found), "unchanged")

    @property
    def seconds(self) -> float:
        """The seconds of its tasks together."""
        return sum(row.seconds for row in self.tasks)

    @property
    def problem(self) -> Problem | None:
        """The first problem, or None."""
        return next((row.problem for row in self.tasks if row.problem), None)

    def to_json(self) -> JSON:
        return {
            "name": self.name,
            "version": self.version,
            "recipe": self.recipe,
            "state": self.state,
            "digest": self.digest,
            "reference": self.reference,
            "conformance": self.conformance,
            "sent": self.sent,
            "targets": list(self.targets),
            "cells": list(self.cells),
            "executed": self.executed,
            "cached": self.cached,
            "seconds": round(self.seconds, 3),
            "tasks": [row.to_json() for row in self.tasks],
            "warnings": list(self.warnings),
        }

    @staticmethod
    def from_json(value: JSON) -> ModelRow:
        """Return what `to_json` wrote."""
        return ModelRow(
            value["name"],
            value["version"],
            value["recipe"],
            tuple(TaskRow.from_json(row) for row in value["tasks"]),
            tuple(value["targets"]),
            tuple(value["cells"]),
            value["digest"],
            value["reference"],
            value["executed"],
            value["cached"],
            tuple(value["warnings"]),
            value["conformance"],
            value["sent"],
        )


def tasks_of(settings: Settings, until: str = TASKS[-1]) -> tuple[str, ...]:
    """Return the tasks that a model's settings leave in, in order, up to the task `until`."""
    return tuple(name for name in TASKS[: TASKS.index(until) + 1] if getattr(settings, name))


def stopped_row(model: Model, problem: Problem) -> ModelRow:
    """Return the row of a model whose tasks cannot begin, or did not end by themselves: the first one failed."""
    first, *others = tasks_of(model.settings) or ("lock",)
    rows = (TaskRow(first, "failed", problem=problem), *_skipped(others, f"`{first}` failed"))
    return ModelRow(model.name, model.version, model.recipe, rows)


def waiting_row(model: Model, other: str) -> ModelRow:
    """Return the row of a model that waits for one that was not released."""
    rows = _skipped(tasks_of(model.settings) or ("lock",), f"`{other}` was not released")
    return ModelRow(model.name, model.version, model.recipe, tuple(rows))


def _skipped(tasks: Iterable[str], reason: str) -> list[TaskRow]:
    return [TaskRow(task, "skipped", reason) for task in tasks]


def skip_task(task: str, before: TaskRow) -> TaskRow:
    """Return the row of a task that does not run because of one before it."""
    word = "said no" if before.state == "no" else "failed"
    return TaskRow(task, "skipped", f"`{before.task}` {word}")


@dataclass(slots=True)
class Totals:
    """What rows add up to, without keeping them."""

    models: int = 0
    states: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    tasks: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    executed: int = 0
    cached: int = 0
    codes: set[int] = field(default_factory=set)

    def add(self, row: ModelRow) -> None:
        """Count a row."""
        self.models += 1
        self.states[row.state] += 1
        self.executed += row.executed
        self.cached += row.cached
        for task in row.tasks:
            counts = self.tasks.setdefault(task.task, dict.fromkeys(STATES, 0))
            counts[task.state] += 1
            self.seconds[task.task] = self.seconds.get(task.task, 0.0) + task.seconds
            if task.problem:
                self.codes.add(task.problem.code)

    @property
    def ok(self) -> bool:
        """Whether every gate of every model holds."""
        return not any(self.states[state] for state in BAD)

    @property
    def exit_code(self) -> int:
        """0 where every gate holds, 1 where a gate said no, else the code that all failures have, or that of a step."""
        if self.ok:
            return 0
        if NegativeAnswerError.code in self.codes or not self.codes:
            return NegativeAnswerError.code
        return next(iter(self.codes)) if len(self.codes) == 1 else StepError.code

    def to_json(self) -> JSON:
        return {
            "models": self.models,
            "states": dict(self.states),
            "tasks": {name: dict(self.tasks[name]) for name in TASKS if name in self.tasks},
            "task_seconds": {name: round(self.seconds[name], 3) for name in TASKS if name in self.seconds},
            "executed": self.executed,
            "cached": self.cached,
        }
