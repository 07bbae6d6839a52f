# SPDX-License-Identifier: Apache-2.0
"""The tools of a build: which distributions can change its bytes, in which versions, and the environment with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from packager import canonical, plugins
from packager.actions.runner import Runner
from packager.canonical import JSON
from packager.edits import Edit
from packager.errors import (
    MissingToolError,
    SourceError,
    StepError,
)
from packager.events import Note, OnEvent, Warned
from packager.lock import evaluation_tools, library_ages, origins, pipeline_tools, toolchains
from packager.lock.build_context import BuildContext
from packager.lock.lock import Environment, Lock
from packager.lock.opset_level import choose_level
from packager.recipe.recipe import Recipe
from packager.runtime import load_runtime
from packager.sandbox.sandbox import choose_confinement
from packager.sandbox.worker import host_version
from packager.types import Action

OF_TASK = ("tokenizers", "jinja2")
"""Distributions that make ids and conversations of texts: those of a recipe with a task depend on them."""


def tools_of(recipe: Recipe, exporter: str, origin: origins.Origin) -> list[str]:
    """Return the distributions that can change a byte of this bundle."""
    module = plugins.load("exporters", exporter)
    names: set[str] = {
        *module.TOOLCHAIN,
        *pipeline_tools.list_tools(recipe.pipeline),
        *evaluation_tools.list_tools(recipe),
        *(OF_TASK if recipe.task else ()),
        *(set(getattr(module, "MAYBE", ())) & set(origin.packages)),
    }
    if recipe.base:
        names |= set(load_runtime("onnxruntime").toolchain)
    for target in recipe.targets():
        names |= set(load_runtime(target.runtime).toolchain)
    return sorted(names)


def _extras(recipe: Recipe, exporter: str) -> dict[str, str]:
    """Return the extra of this package that brings each tool; the exporter's wins over a runtime's."""
    runtimes = [load_runtime(target.runtime) for target in recipe.targets()]
    module = plugins.load("exporters", exporter)
    found = {
        name: evaluation_tools.EXTRAS[name]
        for name in evaluation_tools.list_tools(recipe)
        if name in evaluation_tools.EXTRAS
    }
    found |= {name: runtime.extra for runtime in runtimes for name in runtime.toolchain}
    found |= dict.fromkeys(pipeline_tools.list_tools(recipe.pipeline), pipeline_tools.EXTRA)
    return found | dict.fromkeys(module.TOOLCHAIN, module.EXTRA)


def choose_environment(
    recipe: Recipe, exporter: str, origin: origins.Origin, context: BuildContext, runner: Runner
) -> Environment | None:
    """Lock the environment that a `locked` toolchain requires: the source's versions of what made it.

    One that was tried: the first choice whose versions exist and take a small model through. Raises SourceError.
    """
    if recipe.toolchain == "host":
        return None
    module = plugins.load("exporters", exporter)
    if origin.aside and module.EXECUTES:  # data needs its own library only, whose version it says itself
        raise origins.refusal_of(origin)
    failed: list[str] = []
    for known in origins.candidate_origins(origin, getattr(module, "READS_OLDER", ())):
        wanted = dict.fromkeys(
            (*module.TOOLCHAIN, *tools_of(recipe, exporter, known))
        )  # the family's own library first
        lines = origins.requirements_for(wanted, known, more=module.EXECUTES)
        python, builds = _python(known, code=module.EXECUTES), getattr(module, "BUILDS", ())
        try:
            found = toolchains.resolve(lines, python, builds, context.environment, runner.on_event)
            _try_toolchain(recipe, exporter, known, found, context, runner)
        except (toolchains.NoSolutionError, _BrokenToolchainError) as error:
            failed.append(error.message)
            continue
        if failed:
            other = [f"`{name}{spec}`" for name, spec in known.packages.items() if origin.packages.get(name) != spec]
            runner.on_event(Warned(f"{failed[0]}; {' and '.join(other)} was locked instead"))
        return found
    own = "correct the requirements beside the model, or " if origin.listed else ""
    hint = f"{own}load the model under its own versions and log it again; `toolchain: host` may open it as well"
    raise SourceError(failed[0], hint=hint)


def _python(origin: origins.Origin, *, code: bool) -> str:
    """Return the Python to lock for: the source's, but data is read as well by this one where that is too old."""
    here = host_version("python")
    stated = origin.python or here
    return stated if code or not toolchains.is_too_old(stated) else here


class _BrokenToolchainError(StepError):
    """An environment that was put together and does not work."""


def _try_toolchain(
    recipe: Recipe,
    exporter: str,
    origin: origins.Origin,
    environment: Environment,
    context: BuildContext,
    runner: Runner,
) -> None:
    """Export and measure a small model of the family in an environment. Raises _BrokenToolchainError."""
    module, reads = plugins.load("exporters", exporter), choose_level(recipe, exporter, context.tables)
    names = [*module.TOOLCHAIN, *(name for name in getattr(module, "MAYBE", ()) if name in origin.packages)]
    pins = _pins(environment)
    tried = {name: pins[name] for name in names if name in pins}
    params: dict[str, JSON] = {
        "kind": exporter,
        "tools": sorted(tried),
        "opset": reads.opset,
        "ir": reads.ir,
        "environment": canonical.sha256(environment.requirements.encode()),
    }
    choose_confinement(
        wanted=runner.confined
    )  # says what is missing to confine anything, which is no fault of the environment
    builds = getattr(module, "BUILDS", ())
    try:
        runner(
            Action("trial", plugins.load("steps", "trial").VERSION, params=params, toolchain=tried),
            "try the toolchain on a small model",
            virtualenv=toolchains.LockedToolchain(
                environment, builds, runner.store, context.environment, runner.on_event
            ),
        )
    except StepError as error:
        made = [f"`{name} {pins[name]}`" for name in names if name in origin.packages and name not in origins.OURS]
        toolchain = f"a toolchain with {made[0]}" if made else f"the toolchain for `{exporter}`"
        raise _BrokenToolchainError(f"{toolchain} was put together and does not work: {error.message}") from error


def _pins(environment: Environment) -> dict[str, str]:
    """Return the version of every package of an environment, by the name that plug-ins use."""
    from packager.formats import project_locks  # a warm build, which starts here too, does without it

    listed = project_locks.parse(environment.requirements.encode(), "requirements.txt").pins
    pins = {pin.name: pin.version.partition("+")[0] for pin in listed}
    return {name.removesuffix("-cpu"): version for name, version in pins.items()} | pins


def list_versions(
    recipe: Recipe, exporter: str, environment: Environment | None, origin: origins.Origin, on_event: OnEvent
) -> dict[str, str]:
    """Return the versions of every tool that can change a byte: the locked ones, else those of this host."""
    names = tools_of(recipe, exporter, origin)
    if environment is None:
        try:
            extras = _extras(recipe, exporter)
            found = {name: host_version(name, extras.get(name, "build")) for name in ("python", "machine", *names)}
        except MissingToolError as error:
            hint = f"{error.hint}, or write `toolchain: locked` in the recipe"
            raise StepError(error.message, hint=hint, edits=[Edit(("toolchain",), "locked")]) from error
        _compare(found, origin, on_event)
        return dict(sorted(found.items()))
    pins = _pins(environment)
    locked = {name: pins[name] for name in names}
    versions = ", ".join(
        f"{name} {locked[name]}" for name in names if name in origin.packages and name not in origins.OURS
    )
    on_event(
        Note(f"the toolchain is locked: Python {environment.python}, {versions or 'the newest versions that fit'}")
    )
    return dict(sorted({**locked, "python": environment.python, "machine": host_version("machine")}.items()))


def _compare(found: Mapping[str, str], origin: origins.Origin, on_event: OnEvent) -> None:
    """Warn of a library of another version than the source was made with: its results there may be others."""
    for name, exact, here in origins.version_differences(origin, found):
        message = f"the source was made with {name} {exact}, this host has {here} and may read it differently"
        unbuilt = library_ages.unbuilt_library({name: f"=={exact}"}, origin.python or found["python"])
        remedy = "" if unbuilt else "; `toolchain: locked` in the recipe exports with its own version"
        on_event(Warned(f"{message}{remedy}"))


def toolchain_environment(lock: Lock, runner: Runner, context: BuildContext) -> Callable[[], Path] | None:
    """Return what builds the locked environment on first use; None for this host's Python."""
    environment = lock.environment
    if environment is None:
        return None
    builds = getattr(plugins.load("exporters", lock.kind), "BUILDS", ())
    return toolchains.LockedToolchain(environment, builds, runner.store, context.environment, runner.on_event)
