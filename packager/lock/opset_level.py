# SPDX-License-Identifier: Apache-2.0
"""The opset and the IR version that a recipe's promises allow, and what to say where they are too low."""

from __future__ import annotations

from dataclasses import replace

from packager import plugins
from packager.contract.runtime_tables import Tables, load_shipped
from packager.edits import Edit
from packager.errors import (
    StepError,
    TooNewError,
    UsageError,
)
from packager.lock.lock import Level
from packager.recipe.clauses import RunsOn
from packager.recipe.recipe import Recipe
from packager.runtime import load_runtime


def choose_level(recipe: Recipe, exporter: str, tables: Tables = load_shipped) -> Level:
    """Return the opset and IR that the oldest promised version of every runtime reads.

    What is exported here goes to the level that all of them run without a gap; a graph that is ONNX already may keep
    what is newer, as long as all of them read it. Raises UsageError for an `opset` of the recipe that one of them
    does not read.
    """
    keeps = getattr(plugins.load("exporters", exporter), "KEEPS", False)
    levels = [_level(promise, tables, highest=keeps) for promise in recipe.runs_on]
    lowest = Level(min(item.opset for item in levels), min(item.ir for item in levels))
    wanted = recipe.export.opset
    for promise in recipe.runs_on if wanted else ():
        most = _level(promise, tables, highest=True)
        if wanted and wanted > most.opset:
            raise UsageError(
                f"`export.opset` is {wanted}, and {promise.runtime} {promise.versions} promises a version that reads "
                f"{most.opset} at most",
                hint="leave `opset` out, or raise the oldest version under `runs-on`",
                edits=[Edit(("export", "opset"))],
            )
    return replace(lowest, opset=wanted) if wanted else lowest


def _level(promise: RunsOn, tables: Tables, *, highest: bool) -> Level:
    runtime = load_runtime(promise.runtime, tables)
    found = runtime.ceiling if highest else runtime.level_for
    return Level(*found(promise.versions))


def explain_level(recipe: Recipe, found: Level, tables: Tables = load_shipped) -> str:
    """Say which promise decides the level."""
    if recipe.base:
        return f"opset {found.opset}, IR {found.ir}: those of the base `{recipe.base}`"
    said = []
    for promise in recipe.runs_on:
        listed = load_runtime(promise.runtime, tables).promised(promise.versions)
        most = _level(promise, tables, highest=True)
        oldest = f"{promise.runtime} {listed[0]}" if listed else promise.runtime
        said.append(f"{oldest}, the oldest in `{promise.versions}`, reads opset {most.opset} and IR {most.ir}")
    chosen = "the recipe requires opset" if recipe.export.opset else "opset"
    return f"{chosen} {found.opset}, IR {found.ir}: {'; '.join(said)}"


def explain_unsupported_operator(recipe: Recipe, error: TooNewError, tables: Tables = load_shipped) -> StepError:
    """Say which promise an operator breaks, and which version would keep it."""
    broken = next(
        (p for p in recipe.runs_on if _level(p, tables, highest=True).opset <= error.wanted), recipe.runs_on[0]
    )
    able = load_runtime(broken.runtime, tables).oldest_with(error.opset)
    name = f"`{error.operator}` (opset {error.opset})"
    if recipe.export.opset and recipe.export.opset < _level(broken, tables, highest=True).opset:
        return StepError(
            f"{name} has no form at opset {error.wanted}, which the recipe requires",
            hint="leave `export.opset` out",
            edits=[Edit(("export", "opset"))],
        )
    if able is None:
        return StepError(
            f"{name} runs on no known version of {broken.runtime}, promised {broken.versions}",
            hint="export the source with a lower opset",
        )
    return StepError(
        f"{name} needs {broken.runtime} >= {able}, promised {broken.versions}",
        hint=f'raise the promise to `{broken.runtime}: ">={able}"`, or export the source with a lower opset',
        edits=[Edit(("runs-on", broken.runtime, "versions"), f">={able}")],
    )
