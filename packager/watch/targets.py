# SPDX-License-Identifier: Apache-2.0
"""Which recipes of a release file follow a registry, and the recipe of one version.

A recipe follows a registered model if its source is `models:/NAME@ALIAS`. For version 7 of the registry its text is
kept but for two lines: `source` names that version, which does not move, and the last number of `version` is 7. The
result lies beside the recipe, because paths in recipes start there; its lock lies beside it until the release is over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from packager import plugins
from packager.build.project import load_recipe
from packager.errors import UsageError
from packager.files import write_atomically
from packager.recipe import recipe as recipes
from packager.release_plan.release_file import Model

_ALIASED = re.compile(r"models:/([^/@]+)@([^/@]+)")
_SERVER = re.compile(r"https?://|databricks")
_PATCH = re.compile(r"(\d+\.\d+\.)\d+")
_LINES = {name: re.compile(rf"^{name}:[^\n]*$", re.MULTILINE) for name in ("version", "source")}


@dataclass(frozen=True, slots=True)
class Target:
    """A model of the release file that follows `name` of a registry, whose alias `alias` says what is released."""

    model: Model
    registry: str
    name: str
    alias: str

    def version(self, number: str) -> str:
        """Return the version of the bundle of a registry's version: `1.4.0` and `7` make `1.4.7`."""
        found = _PATCH.fullmatch(self.model.version)
        if found is None:
            raise UsageError(
                f"recipe `{self.model.recipe}`: version `{self.model.version}` cannot be counted by the registry",
                hint="write three numbers, such as `1.4.0`: the last one becomes the version of the registry",
            )
        return found[1] + number


def list_targets(models: Iterable[Model], tracking: str | None) -> list[Target]:
    """Return the models that follow a registry. Raises UsageError where none does, or one cannot be followed.

    `tracking` is the registry of recipes that name none.
    """
    found = []
    for model in models:
        if model.problem:
            raise UsageError(f"{model.problem['message']}", hint=model.problem["hint"])
        recipe = load_recipe(Path(model.recipe))
        named = _ALIASED.fullmatch(recipe.source)
        if named is None:
            continue
        registry = recipe.registry or tracking or ""
        if not _SERVER.match(registry):
            raise UsageError(
                f"recipe `{model.recipe}`: `watch` writes tags, so it needs a registry server",
                hint="set `registry: https://…` in the recipe, or MLFLOW_TRACKING_URI",
            )
        found.append(Target(model, registry, named[1], named[2]))
        found[-1].version("0")
    if not found:
        raise UsageError(
            "no recipe of the release file follows a registry", hint="write `source: models:/NAME@ALIAS` in a recipe"
        )
    return found


def write_recipe(target: Target, number: str) -> Model:
    """Write the recipe of one version beside the recipe, and return the model to release. Raises UsageError."""
    path, version = Path(target.model.recipe), target.version(number)
    source, text = f"models:/{target.name}/{number}", path.read_text("utf-8")
    for name, value in (("version", version), ("source", source)):
        text, count = _LINES[name].subn(f"{name}: {_quoted(value)}", text)
        if count != 1:
            raise UsageError(f"recipe `{path}`: `{name}` is not on a line of its own", hint=f"write `{name}: …`")
    made = recipes.parse(text.encode(), str(path), plugins.list_names("runtimes"))
    if (made.name, made.version, made.source) != (target.model.name, version, source):
        raise UsageError(f"recipe `{path}` changed while it was watched", hint="start `packager watch` again")
    own = _beside(target, number)
    write_atomically(own, text.encode())
    settings = target.model.settings
    return replace(
        target.model,
        version=version,
        recipe=str(own),
        settings=replace(settings, lock="renew" if settings.lock else None),
        after=(),
    )


def drop_recipe(target: Target, number: str) -> None:
    """Remove the recipe of one version, and its lock."""
    own = _beside(target, number)
    own.unlink(missing_ok=True)
    own.with_suffix(".lock").unlink(missing_ok=True)


def _beside(target: Target, number: str) -> Path:
    path = Path(target.model.recipe)
    return path.with_name(f".{path.stem}.{target.version(number)}.yaml")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
