# SPDX-License-Identifier: Apache-2.0
"""Recipes: draft one from a source, look into a model file, explain a lock or a refusal, and mend the recipe.

For example:

    draft = recipes.draft_recipe("model.onnx", Path("bundle.yaml"), workspace)
    Path("bundle.yaml").write_text(draft.text)
    try:
        project = api.open_project(Path("bundle.yaml"), workspace)
    except api.PackagerError as error:
        print(recipes.show_edits(draft.text, error.edits))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from packager.api._lazy import lazily

if TYPE_CHECKING:
    from packager.build.build import Built as BuildResult
    from packager.build.project import Project
    from packager.canonical import JSON
    from packager.edits import Edit, Replace
    from packager.lock.draft import RecipeDraft
    from packager.lock.inspection import InspectedModel
    from packager.lock.lock import Lock
    from packager.workspace import Workspace

    Change: TypeAlias = Edit | Replace
else:
    __getattr__ = lazily(
        __name__,
        {
            "Change": "packager.edits",
            "Edit": "packager.edits",
            "InspectedModel": "packager.lock.inspection",
            "RecipeDraft": "packager.lock.draft",
            "Replace": "packager.edits",
        },
    )

__all__ = [
    "Change",
    "Edit",
    "InspectedModel",
    "RecipeDraft",
    "Replace",
    "apply_edits",
    "draft_recipe",
    "explain_level",
    "explain_unmoved_source",
    "find_model_files",
    "inspect_model",
    "measured_facts",
    "save_misses",
    "show_edits",
]


def draft_recipe(source: str, output: Path, workspace: Workspace, *, look: bool = True) -> RecipeDraft:
    """Draft a commented `bundle.yaml` for a source, as it would be written to `output`; nothing is written.

    `source` is `models:/name@alias`, `runs:/…`, `bentoml:name:version`, `oci://…`, `s3://…`, a directory or a file.
    With `look` a model of plain data is run in a confined worker, to find the sizes that it takes. Raises SourceError
    for a path that is not there, UsageError, StepError.
    """
    from packager.lock import draft

    def look_inside(files: Mapping[str, Path], kind: str, payload: str) -> JSON:
        from packager.actions.runner import Runner
        from packager.lock.inspection import LIMITS, run_look

        return run_look(files, kind, payload, Runner(workspace.open_store(), LIMITS, workspace.on_event))

    tracking = workspace.variables.get("MLFLOW_TRACKING_URI")
    return draft.draft_recipe(source, output, tracking, look_inside if look else None)


def find_model_files(reference: str) -> Mapping[str, Path] | None:
    """Return the files of a model on this machine, by path; None for what is a bundle, or is elsewhere.

    Raises SourceError for a model that lacks a file it needs.
    """
    from packager.lock import inspection

    return inspection.source_files(reference)


def inspect_model(files: Mapping[str, Path], workspace: Workspace) -> InspectedModel:
    """Open model files of plain data in a confined worker and return what the model takes and returns.

    Raises SourceError where opening runs its author's code, or no exporter reads it, StepError.
    """
    from packager.actions.runner import Runner
    from packager.lock.inspection import LIMITS, InspectedModel, inspect

    return InspectedModel(*inspect(files, Runner(workspace.open_store(), LIMITS, workspace.on_event)))


def explain_level(project: Project, lock: Lock) -> str:
    """Say which promise of the recipe decides the opset and the IR version of a lock. Raises UsageError."""
    from packager.lock import opset_level

    return opset_level.explain_level(project.recipe, lock.level, project.here.tables)


def explain_unmoved_source(project: Project, lock: Lock, *, resolve: bool = True) -> str | None:
    """Return a sentence if a new version holds exactly the model of the release before it, else None.

    With `resolve` the recipe's source is resolved again: an alias that moved is the likely reason. A registry that does
    not answer is no error. Raises IntegrityError for a damaged release.
    """
    from packager.build import project as projects

    return projects.explain_unmoved_source(project, lock, asking=resolve)


def measured_facts(result: BuildResult) -> JSON:
    """Return what a build measured as the predicate of a statement of type `urn:packager:facts:v1`. Raises nothing."""
    from packager.policy import stated_facts

    return stated_facts.write_measurements(result.facts)


def save_misses(project: Project, result: BuildResult) -> Path | None:
    """Write the rows on which a refused build differs most beside the recipe, as bodies of inference requests.

    Returns their folder, None where parity held. Raises StorageError.
    """
    from packager.build import misses

    return misses.save_misses(project, result)


def apply_edits(text: str, changes: Sequence[Change]) -> str:
    """Return the text of a recipe with changes that an error or a finding proposes (`edits`).

    An `Edit` with `consents` grants something: apply it only after a person decided. Raises ValueError where one does
    not fit.
    """
    from packager import edits

    return edits.apply(text, changes)


def show_edits(text: str, changes: Sequence[Change]) -> list[tuple[int | None, str]]:
    """Return the changed blocks by top-level key: the line of the block now (from 1; None: new), and its new text.

    The text of a block that goes is empty. Raises ValueError where a change does not fit.
    """
    from packager import edits

    return edits.changed_blocks(text, changes)
