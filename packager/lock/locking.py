# SPDX-License-Identifier: Apache-2.0
"""Lock a recipe: the only step that resolves mutable names, and the only one of a build that may need the network."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from packager import canonical, exporters, sources
from packager.actions.runner import Runner
from packager.canonical import JSON
from packager.errors import (
    IntegrityError,
    LockError,
    UsageError,
)
from packager.events import Note
from packager.formats import platforms
from packager.formats.wheel_locks import Dependencies
from packager.lock import base, evaluation_tools, lockers, origins, pipeline_tools
from packager.lock.build_context import BuildContext
from packager.lock.build_tools import choose_environment, list_versions
from packager.lock.lock import Lock
from packager.lock.opset_level import choose_level
from packager.lock.recipe_checks import (
    check_base,
    check_dequantize,
    check_pickle,
    check_signature,
    check_targets,
    check_task,
)
from packager.recipe.recipe import Recipe
from packager.runtime import GENERATION_REQUIREMENTS, load_runtime
from packager.sources import Pin, Settings
from packager.store.file_digests import Memo
from packager.types import Action, Blob, Tree

FETCH_VERSION = 1  # 1: first form
_LONGEST = 256 << 20  # bytes of a payload that are searched for the version of what wrote it
DESCRIBE_VERSION = 1  # 1: first form


def resolve(recipe: Recipe, runner: Runner, context: BuildContext, memo: Memo, engine: str = lockers.DEFAULT) -> Lock:
    """Pin the source, fetch it, choose the level, and lock tools and dependencies (with `engine`)."""
    check_targets(recipe)
    settings = context.settings(recipe, memo)
    source = sources.load_for(recipe.source)
    pin = source.resolve(recipe.source, settings)
    tree = fetch(pin, runner, settings)
    signed = _signer(recipe, pin, tree, runner, settings, context)
    exporter, payload = exporters.detect_kind([path for path, _ in tree], _payload_reader(runner, tree))
    check_pickle(recipe, exporter, payload)
    check_dequantize(recipe, exporter, payload)
    check_signature(recipe, exporter)
    check_task(recipe, exporter, payload, [path for path, _ in tree], _payload_reader(runner, tree))
    origin = origins.read([path for path, _ in tree], _payload_reader(runner, tree), payload)
    found = check_base(recipe, exporter, runner.store)
    reads = choose_level(recipe, exporter, context.tables) if found is None else base.level_of(found)
    environment = choose_environment(recipe, exporter, origin, context, runner)
    tools = list_versions(recipe, exporter, environment, origin, runner.on_event)
    return Lock(
        recipe=lock_inputs_digest(recipe, context.base),
        source=pin.to_json(),
        tree=tree,
        kind=exporter,
        payload=payload,
        level=reads,
        toolchain=tools,
        dependencies=_dependencies(recipe, runner, context, engine, tools),
        environment=environment,
        signed=signed,
        base=None if found is None else base.pin_base(found, runner.store, settings, _fetching(runner, settings)),
    )


def _fetching(runner: Runner, settings: Settings) -> base.Fetch:
    return lambda pin: fetch(pin, runner, replace(settings, ref=pin.uri))


def fetch_base(lock: Lock, runner: Runner, settings: Settings) -> None:
    """Bring the source of the base that a lock pins into the store, if it is not there. Raises SourceError."""
    if lock.base is not None:
        base.obtain_source(lock.base, runner.store, settings, _fetching(runner, settings))


def _signer(
    recipe: Recipe, pin: Pin, tree: Tree, runner: Runner, settings: Settings, context: BuildContext
) -> dict[str, JSON] | None:
    """Return who signed the source, where the recipe demands that; before anything of it is opened."""
    if recipe.trust is None:
        return None
    from packager.lock import source_trust  # with the libraries of signatures

    if context.clock is None:
        raise UsageError("checking who signed a source needs the time")
    now = context.clock().astimezone(datetime.UTC)
    found = source_trust.check(recipe.trust, pin, tree, _payload_reader(runner, tree), settings, now)
    runner.on_event(Note(f"the source is signed by {found['signer']}"))
    return found


def fetch(pin: Pin, runner: Runner, settings: Settings) -> Tree:
    """Return the files of a pin, from the store if they were fetched before."""
    source = sources.load(pin.kind)

    hashed: dict[str, Blob] = {}

    def perform(out: Path) -> None:
        hashed.update(source.fetch(pin, settings, out, runner.on_event) or {})

    action = Action("fetch", FETCH_VERSION, params=pin.to_json())
    return runner.store.tree(runner(action, f"fetch {pin.uri}", perform=perform, hashed=hashed).tree)


def fetch_locked(lock: Lock, runner: Runner, settings: Settings) -> str:
    """Return the digest of the locked source tree, fetching it if the store lacks it. Never another tree."""
    if not runner.store.has_tree(lock.tree.digest):
        fetched = fetch(Pin.from_json(lock.source), runner, settings)
        if fetched != lock.tree:
            changed = sorted({path for path, _ in set(fetched.files) ^ set(lock.tree.files)})
            raise IntegrityError(
                f"source `{lock.source['uri']}` is not what was locked: `{changed[0]}` differs",
                subject=changed[0],
                hint="if that is wanted, run `packager lock` and review the change",
            )
    return lock.tree.digest


def check_fresh(recipe: Recipe, lock: Lock, context: BuildContext, memo: Memo) -> None:
    """Raise LockError if the lock belongs to another recipe, or if a local source or lock file changed since.

    A registry is not contacted: `packager lock` alone resolves aliases, never a build.
    """
    if lock.recipe != lock_inputs_digest(recipe, context.base):
        raise LockError("the lock is stale: the recipe changed since", hint="run `packager lock` and review the change")
    for runtime, sets in lock.dependencies.wheels.items():
        if missing := sorted(set(recipe.vendor) - set(sets)):
            raise LockError(
                f"the lock is stale: it has no dependencies of `{runtime}` for `{missing[0]}`",
                hint="name it in `vendor` or `platforms` of the recipe and run `packager lock`",
            )
    if sources.local_path(recipe.source, context.base) is not None:
        now = sources.load_for(recipe.source).resolve(recipe.source, context.settings(recipe, memo))
        if now.to_json() != dict(lock.source):
            raise LockError(
                f"the lock is stale: source `{recipe.source}` changed since",
                hint="run `packager lock` and review the change",
            )


def lock_inputs_digest(recipe: Recipe, base: Path) -> str:
    """Return the digest of the part of a recipe that a lock answers.

    Tolerances, names, inputs and precisions are not in it: changing them needs no new lock. Nor is vendoring: a lock
    that covers the platforms is enough (`check_fresh`).
    """
    inputs: dict[str, JSON] = {
        "source": recipe.source,
        "registry": recipe.registry,
        "opset": recipe.export.opset,
        "runs-on": {promise.runtime: promise.versions for promise in recipe.runs_on},
    }
    inputs |= {name: text for name, text in (("task", recipe.task), ("base", recipe.base)) if text}
    if recipe.dequantize:
        inputs["dequantize"] = True
    if recipe.toolchain != "host":
        inputs["toolchain"] = [recipe.toolchain, recipe.allow_pickle]
    devices = {promise.runtime: list(promise.devices) for promise in recipe.runs_on if promise.devices != ("cpu",)}
    if devices:  # what is installed to serve depends on them
        inputs["devices"] = devices
    if recipe.platforms:
        inputs["platforms"] = list(recipe.platforms)
    if recipe.pipeline:
        inputs["pipeline"] = recipe.pipeline.task
    if recipe.evaluation:
        inputs["evaluation"] = list(evaluation_tools.list_tools(recipe))
    if recipe.trust:
        from packager.lock import source_trust

        inputs["trust"] = source_trust.read_inputs(recipe.trust, base)
    if recipe.dependencies:
        inputs["dependencies"] = canonical.sha256(_read_lock_file(recipe.dependencies, base))
    return canonical.sha256(canonical.dump(inputs))


def _read_lock_file(name: str, base: Path) -> bytes:
    try:
        return (base / name).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the lock file `{base / name}`: {error.strerror}") from None


def _dependencies(
    recipe: Recipe, runner: Runner, context: BuildContext, engine: str, tools: Mapping[str, str]
) -> Dependencies:
    from packager.formats import project_locks
    from packager.lock import runtime_wheels  # a warm build, which starts here too, does without the tools of locking

    if not recipe.runs_on:  # an adapter runs on what its base runs on
        return Dependencies({}, {}, {})
    more = GENERATION_REQUIREMENTS if recipe.task else ()
    runtimes = {
        promise.runtime: (
            *load_runtime(promise.runtime, context.tables).requirements(promise.versions, promise.devices),
            *more,
            *pipeline_tools.list_requirements(recipe.pipeline, promise.runtime, tools),
        )
        for promise in recipe.runs_on
    }
    name = recipe.dependencies
    wanted = runtime_wheels.LockRequest(
        runtimes,
        required=(*(recipe.platforms or ()), *recipe.vendor),
        optional=() if recipe.platforms else _default_platforms(engine),
        own=project_locks.parse(_read_lock_file(name, context.base), name) if name else None,
        engine=engine,
    )

    def remember(key: JSON, ask: Callable[[], JSON]) -> JSON:
        action = Action("describe", DESCRIBE_VERSION, params=key)
        return runner(action, "read the metadata of wheels", perform=lambda _: ask()).facts

    def find() -> Dependencies:
        return runtime_wheels.lock(wanted, context.environment, remember, runner.on_event)

    if context.share is None:
        return find()
    key: JSON = [
        {runtime: list(lines) for runtime, lines in runtimes.items()},
        list(wanted.required),
        list(wanted.optional),
        name and [name, canonical.sha256(_read_lock_file(name, context.base))],
        engine,
    ]
    return Dependencies.from_json(context.share(key, lambda: find().to_json()))


def _default_platforms(engine: str) -> tuple[str, ...]:
    """Return the platforms of a recipe that names none: those which the engine can lock."""
    can: Callable[[str], bool] = lockers.load(engine).locks
    return tuple(name for name in platforms.DEFAULT if can(name)) or (platforms.name_host(),)


def _payload_reader(runner: Runner, tree: Tree) -> Callable[[str], bytes]:
    """Read as much of a file as statements about its kind and origin can be expected in."""
    blobs = dict(tree.files)

    def read(path: str) -> bytes:
        with runner.store.open(blobs[path].digest) as file:
            return file.read(_LONGEST)

    return read
