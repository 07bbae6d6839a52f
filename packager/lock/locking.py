# SPDX-License-Identifier: Apache-2.0
"""Lock a recipe: the only step that resolves mutable names, and the only one of a build that may need the network."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from packager import canonical, exporters, plugins, sources
from packager.actions.runner import Runner
from packager.canonical import JSON
from packager.contract.runtime_tables import Tables, load_shipped
from packager.edits import Edit
from packager.errors import (
    IntegrityError,
    LockError,
    MissingToolError,
    SourceError,
    StepError,
    TooNewError,
    UsageError,
)
from packager.events import Note, OnEvent, Warned
from packager.formats import platforms
from packager.formats.wheel_locks import Dependencies
from packager.lock import evaluation_tools, library_ages, lockers, origins, pipeline_tools, toolchains
from packager.lock.lock import Environment, Level, Lock
from packager.recipe.fields import PRECISIONS
from packager.recipe.recipe import Recipe, RunsOn, no_tolerance
from packager.runtime import GENERATION_REQUIREMENTS, load_runtime
from packager.sandbox.sandbox import choose_confinement
from packager.sandbox.worker import host_version
from packager.server.generation.settings import PAIRS
from packager.sources import Pin, Settings
from packager.store.file_digests import Memo
from packager.types import Action, Blob, Tree

if TYPE_CHECKING:
    from packager.transport.registry import wire

OF_TASK = ("tokenizers", "jinja2")
"""Distributions that make ids and conversations of texts: those of a recipe with a task depend on them."""
FETCH_VERSION = 1  # 1: first form
_LONGEST = 256 << 20  # bytes of a payload that are searched for the version of what wrote it
DESCRIBE_VERSION = 1  # 1: first form


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What the command line passes to the library: its directory, environment, registries, the day, known runtimes."""

    base: Path
    tracking: str | None
    environment: Mapping[str, str]
    registries: Callable[[], wire.Settings] | None = None
    today: datetime.date | None = None
    share: Callable[[JSON, Callable[[], JSON]], JSON] | None = None  # answers of indexes that hold for many recipes
    clock: Callable[[], datetime.datetime] | None = None
    tables: Tables = load_shipped  # what is known of runtimes where the work is done

    def settings(self, recipe: Recipe, memo: Memo) -> Settings:
        """Return what sources may know; the recipe's registry wins over the environment's."""
        home = Path(self.environment.get("BENTOML_HOME") or Path(self.environment.get("HOME", "/"), "bentoml"))
        return Settings(
            self.base,
            recipe.source,
            recipe.registry or self.tracking,
            blob_of=memo.blob_of,
            bentoml=home,
            registries=self.registries,
        )


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
    check_signature(recipe, exporter)
    check_task(recipe, exporter, payload, [path for path, _ in tree], _payload_reader(runner, tree))
    origin = origins.read([path for path, _ in tree], _payload_reader(runner, tree), payload)
    reads = choose_level(recipe, exporter, context.tables)
    environment = _environment(recipe, exporter, origin, context, runner)
    tools = _toolchain(recipe, exporter, environment, origin, runner.on_event)
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
    )


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


def check_targets(recipe: Recipe) -> None:
    """Refuse targets that no runtime has, and int8 without a word on what it may lose, before anything is fetched."""
    for target in recipe.targets():
        runtime = load_runtime(target.runtime)
        runtime.check_target(target.device, target.precision)
        if runtime.tasks and recipe.task is None:
            raise UsageError(
                f"`{target.runtime}` runs models that generate text, and the recipe states no `task`",
                hint=f"write `task: {runtime.tasks[0]}`, or remove `{target.runtime}` from `runs-on`",
            )
        pair = recipe.task in PAIRS and not (target.runtime == "onnxruntime" and target.precision == "fp32")
        if pair or (runtime.tasks and recipe.task not in runtime.tasks):
            raise UsageError(
                f"`{target.name}` cannot run `task: {recipe.task}`",
                hint="an encoder-decoder runs on `onnxruntime` in fp32: leave the other runtimes and precisions out",
            )
        named = set(recipe.tolerance) - {"default", *PRECISIONS} | set(recipe.tolerance) & {target.precision}
        if target.precision.startswith("int8") and not named:
            raise no_tolerance(target.precision)


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
    if recipe.task:
        inputs["task"] = recipe.task
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


def check_pickle(recipe: Recipe, exporter: str, payload: str) -> None:
    """Refuse a model that runs code when it is opened, unless the recipe says so in so many words."""
    module = plugins.load("exporters", exporter)
    if module.EXECUTES and not recipe.allow_pickle:
        raise StepError(
            f"`{payload}` is {getattr(module, 'IS', 'a pickle')}: opening it runs the code inside",
            hint="log the model in a form that is data (pt2, ONNX, skops); or, if you trust its author, "
            "write `allow-pickle: true` in the recipe",
            edits=[Edit(("allow-pickle",), True, consents=True)],
        )


def check_signature(recipe: Recipe, exporter: str) -> None:
    """Refuse a signature for a source that has no such thing."""
    if recipe.export.signature and not getattr(plugins.load("exporters", exporter), "SIGNATURES", False):
        raise UsageError(
            f"`export.signature` is `{recipe.export.signature}`, and a source of kind `{exporter}` has no signatures",
            hint="leave `signature` out: only a SavedModel has several functions",
            edits=[Edit(("export", "signature"))],
        )


def check_task(recipe: Recipe, exporter: str, payload: str, paths: Sequence[str], read: Callable[[str], bytes]) -> None:
    """Refuse a task for a source that has none, by its small files, before anything is built."""
    if not recipe.task:
        return
    offered = getattr(plugins.load("exporters", exporter), "task", None)
    if offered is None:
        raise UsageError(
            f"`task` is `{recipe.task}`, and a source of kind `{exporter}` generates no text",
            hint="leave `task` out: it is for directories of transformers and MLflow's flavour of them",
            edits=[Edit(("task",))],
        )
    found = offered(payload, paths, read)
    if found is None:
        raise UsageError(
            f"`task` is `{recipe.task}`, and `{payload}` is no causal language model with a tokenizer, "
            "and no encoder-decoder with one that is known here",
            hint="leave `task` out: without it the model becomes a graph of one pass",
            edits=[Edit(("task",))],
        )
    if found != recipe.task:
        raise UsageError(
            f"`task` is `{recipe.task}`, and what `{payload}` does is `{found}`",
            hint=f"write `task: {found}`",
            edits=[Edit(("task",), found)],
        )


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


def _environment(
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


def _toolchain(
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


def _dependencies(
    recipe: Recipe, runner: Runner, context: BuildContext, engine: str, tools: Mapping[str, str]
) -> Dependencies:
    from packager.formats import project_locks
    from packager.lock import runtime_wheels  # a warm build, which starts here too, does without the tools of locking

    more = GENERATION_REQUIREMENTS if recipe.task else ()
    runtimes = {
        promise.runtime: (
            *load_runtime(promise.runtime, context.tables).requirements(promise.versions, promise.devices),
            *more,
            *pipeline_tools.requirements(recipe.pipeline, promise.runtime, tools),
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
    return tuple(name for name in platforms.DEFAULT if can(name)) or (platforms.here(),)


def _payload_reader(runner: Runner, tree: Tree) -> Callable[[str], bytes]:
    """Read as much of a file as statements about its kind and origin can be expected in."""
    blobs = dict(tree.files)

    def read(path: str) -> bytes:
        with runner.store.open(blobs[path].digest) as file:
            return file.read(_LONGEST)

    return read
