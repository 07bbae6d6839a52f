# SPDX-License-Identifier: Apache-2.0
"""The build, in one screen: source, graph, one artefact per target, measurements; then judge and assemble.

Above the line in `build` everything expensive is a cached action; below it everything is pure, cheap and always
recomputed. So a changed tolerance runs nothing, and one more target runs only that target.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packager import plugins
from packager.actions import scan
from packager.actions.runner import Runner
from packager.build import adapter, evaluations, generation, raw_inputs, step_facts
from packager.build.bundle_files import keep, write_files
from packager.build.made import GRAPH, Artefact, Compiled, Place, engine_of
from packager.build.measured_facts import list_measured, settle_shapes
from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.contract import preflight
from packager.edits import Edit
from packager.errors import StepError, TooNewError, UsageError
from packager.events import Note, Warned
from packager.lock import build_tools, evaluation_tools, locking, opset_level, vendor
from packager.lock.build_context import BuildContext
from packager.lock.lock import Lock
from packager.policy import engine, facts
from packager.policy.engine import Profile
from packager.recipe import int4
from packager.recipe.clauses import Target
from packager.recipe.recipe import Recipe
from packager.runtime import Runtime, load_runtime
from packager.sandbox.sandbox import Confinement
from packager.server.telemetry.distribution_file import Distributions
from packager.store.file_digests import Memo
from packager.store.store import Store
from packager.types import Action, Result, Tree, Verdict

OUTPUTS = ("outputs.safetensors", "outputs.json")  # what the measure step leaves beside the reference inputs
MISSES = "misses/"  # and the folder of rows that show the worst differences


@dataclass(frozen=True, slots=True)
class Assembled:
    """The files of a bundle that is not judged yet, and what was measured; the others as in `Built`."""

    files: Tree
    measured: Mapping[str, JSON]
    outputs: Tree
    misses: Tree
    distributions: Distributions | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """A judged build. `bundle` is None when the verdict is no: what policy forbids is not even named.

    `outputs` are the files with what the source computes for the reference inputs in the bundle. They depend on the
    CPU of this host, so they belong into a statement about the bundle, never into it. `misses` are the rows that show
    the worst differences, by target and output: requests that can be sent to either side. `distributions` are those of
    the recipe's rows with labels, or of its samples, and of what the source answers to them.
    """

    verdict: Verdict
    facts: Mapping[str, JSON]
    bundle: Bundle | None
    outputs: Tree
    misses: Tree
    distributions: Distributions | None = None


def build(
    recipe: Recipe,
    lock: Lock,
    runner: Runner,
    here: BuildContext,
    memo: Memo,
    *,
    replacing: bool = False,
) -> Built:
    """Turn a recipe and its lock into an unsigned bundle in the local store, if its policy says yes.

    With `replacing`, another bundle of the same name and version in the store is replaced; without it that is a
    UsageError.
    """
    profile = engine.load_profile(recipe.policy, here.base)
    source = fetch_source(recipe, lock, runner, here, memo)
    exports = build_tools.toolchain_environment(lock, runner, here) is None
    found_in_source = scan.scan(lock.tree, runner, lock.kind, recipe.allow_code, exports=exports)
    scans = [{"signer": None, **found_in_source}]
    if refused := _unclean(profile, scans, here.today):
        return Built(refused, {"scans": scans}, None, Tree(), Tree())
    made = assemble(recipe, lock, source, runner, here)
    measured = {**made.measured, "scans": scans, "confinement": _confinement(runner)}
    content = facts.Content(recipe.name, recipe.version, made.files, lambda path, blob: runner.store.open(blob.digest))
    found = facts.of_build(content, measured, profile.facts, here.today)
    verdict = engine.judge(profile, found, here.today)
    kept = keep(recipe, made.files, runner, over=replacing) if verdict.ok else None
    return Built(verdict, found, kept, made.outputs, made.misses, made.distributions)


def fetch_source(recipe: Recipe, lock: Lock, runner: Runner, here: BuildContext, memo: Memo) -> str:
    """Return the digest of the locked source, which is in the store then. Raises UsageError for a missing file."""
    _check_files(recipe, here.base)
    locking.fetch_base(lock, runner, here.settings(recipe, memo))
    return locking.fetch_locked(lock, runner, here.settings(recipe, memo))


def assemble(recipe: Recipe, lock: Lock, source: str, runner: Runner, here: BuildContext) -> Assembled:
    """Export, compile and measure the locked source; return the files of the bundle. Nothing is judged here."""
    if recipe.base is not None:
        return _assemble_adapter(recipe, lock, source, runner, here)
    runner.on_event(Note(opset_level.explain_level(recipe, lock.level, here.tables)))
    environment = build_tools.toolchain_environment(lock, runner, here)
    try:
        graph = runner(_export(recipe, lock, source), f"export {recipe.name}", virtualenv=environment)
    except TooNewError as error:
        raise opset_level.explain_unsupported_operator(recipe, error, here.tables) from error
    exported = step_facts.read_graph(graph)
    for locale in preflight.list_locales(exported["graph"]):
        runner.on_event(
            Warned(f"texts are compared in the locale `{locale:.64}`, which every host that serves it needs")
        )
    recipe.check_outputs([output["name"] for output in exported["interface"]["outputs"]])
    place = _with_answers(recipe, lock, Place(runner, source, graph, here.base, environment))
    pipeline = raw_inputs.build(recipe, lock, source, graph, runner, environment, _export_options(recipe))
    place = replace(place, pipeline=pipeline)
    artefacts = runner.each(lambda target: _artefact(recipe, lock, place, target), recipe.targets())
    if place.answers is None:
        place = replace(place, graph=settle_shapes(graph, artefacts))
    wheels = vendor.fetch(lock.dependencies, recipe.vendor, runner, here.environment)
    # From here on nothing runs: the same results give the same bytes.
    vectors = _vectors(place, artefacts)
    outputs = Tree.of({path: blob for path, blob in vectors if path in OUTPUTS})
    inputs = Tree.of({path: blob for path, blob in vectors if path not in OUTPUTS and not path.startswith(MISSES)})
    files = write_files(recipe, lock, place, artefacts, inputs, wheels, pipeline)
    measured = {**list_measured(recipe, place.graph, artefacts), **(pipeline.facts if pipeline else {})}
    described = evaluations.find_distributions(item.facts for item in artefacts)
    return Assembled(files, measured, outputs, _misses(runner.store, artefacts), described)


def _assemble_adapter(recipe: Recipe, lock: Lock, source: str, runner: Runner, here: BuildContext) -> Assembled:
    made = adapter.make_adapter(recipe, lock, Place(runner, source, Result("", {}), here.base, None))
    vectors = _vectors(made.place, made.artefacts)
    outputs = Tree.of({path: blob for path, blob in vectors if path in OUTPUTS})
    inputs = Tree.of({path: blob for path, blob in vectors if path not in OUTPUTS})
    files = write_files(recipe, lock, made.place, made.artefacts, inputs, {}, None, made.promise)
    return Assembled(files, list_measured(recipe, made.place.graph, made.artefacts), outputs, Tree())


def _with_answers(recipe: Recipe, lock: Lock, place: Place) -> Place:
    """Run a source that generates text by itself; what a recipe without a task has instead are reference vectors."""
    if recipe.task is None:
        return place
    params = {"kind": lock.kind, "payload": lock.payload, **generation.of_task(recipe.task)}
    action = generation.reference_action(
        place.source, params, _tools(lock, {*_exporter_tools(lock), *build_tools.OF_TASK})
    )
    found = place.runner(action, f"answer prompts with {recipe.name}", virtualenv=place.environment)
    answers = generation.complete(place.graph, found, place.runner.store)
    if recipe.evaluation:
        users = {*_exporter_tools(lock), *build_tools.OF_TASK, *evaluation_tools.list_tools(recipe)}
        data = _beside(place, recipe.evaluation.data, {}, "evaluation")
        action = generation.answer_rows_action(place.source, data, params, _tools(lock, users))
        rows = place.runner(action, f"answer rows with {recipe.name}", virtualenv=place.environment)
        answers = replace(answers, rows=rows.tree)
    return replace(place, answers=answers, graph=answers.graph)


def _vectors(place: Place, artefacts: Sequence[Artefact]) -> Tree:
    store = place.runner.store
    return generation.list_vectors(place.answers, store) if place.answers else store.tree(artefacts[0].measured.tree)


def _misses(store: Store, artefacts: list[Artefact]) -> Tree:
    trees = {item.target.name: store.tree(item.measured.tree) for item in artefacts}
    return Tree.of(
        {
            f"{name}/{path.removeprefix(MISSES)}": blob
            for name, tree in trees.items()
            for path, blob in tree
            if path.startswith(MISSES)
        }
    )


def _unclean(profile: Profile, scans: list[JSON], today: datetime.date | None) -> Verdict | None:
    """Return the verdict that ends the build before anything is opened, if the profile asks for scans and says no."""
    scan_rules = profile.only("scanned", "source-code")
    if not scan_rules.rules:
        return None
    verdict = engine.judge(scan_rules, {"stage": "build", "scans": scans}, today)
    return None if verdict.ok else verdict


def _check_files(recipe: Recipe, base: Path) -> None:
    """Refuse a file that the recipe names and that is not there, before anything expensive runs."""
    data = recipe.evaluation.data if recipe.evaluation else None
    for name in (recipe.calibration, recipe.samples, data, *(promise.timing_cache for promise in recipe.runs_on)):
        if name is not None and not (base / name).is_file():
            raise UsageError(f"`{name}` is not there", hint=f"the recipe names it; paths start at `{base}`")


def _export(recipe: Recipe, lock: Lock, source: str) -> Action:
    params = {"kind": lock.kind, "payload": lock.payload, "opset": lock.level.opset, "ir": lock.level.ir}
    tools = _tools(lock, _exporter_tools(lock))
    if recipe.task:
        params |= {"adapters": list(recipe.adapters)} if recipe.adapters else {}
        return generation.export_action(source, params | generation.of_task(recipe.task), tools)
    params |= _export_options(recipe)
    return Action("export", plugins.load("steps", "export").VERSION, {"source": source}, params, tools)


def _export_options(recipe: Recipe) -> dict[str, JSON]:
    """Return what the recipe says about inputs; the same words for the export and for the measurement."""
    inputs = recipe.inputs and {name: spec.to_json() for name, spec in recipe.inputs.items()}
    dynamic = {name: axis.to_json() for name, axis in recipe.dynamic.items()}
    domains = {"domains": list(recipe.custom_domains)} if recipe.custom_domains else {}
    signature = {"signature": recipe.export.signature} if recipe.export.signature else {}
    return {"inputs": inputs, "dynamic": dynamic, "seed": recipe.export.seed, **domains, **signature}


def _artefact(recipe: Recipe, lock: Lock, place: Place, target: Target) -> Artefact:
    """Compile one target (nothing to do where the graph itself is the artefact) and measure it if this host can."""
    runtime = load_runtime(target.runtime)
    compiled = _compiled(recipe, lock, place, target, runtime)
    reason = runtime.unmeasurable(target.device)
    measured = _measurement(recipe, lock, place, target, compiled if reason is None else None)
    if compiled.path == GRAPH and compiled.tree.digest == place.graph.tree:
        return Artefact(target, Tree(), GRAPH, compiled.about, measured, reason)
    prefix = f"targets/{target.name}"
    files = Tree.of({f"{prefix}/{path}": blob for path, blob in compiled.tree})
    return Artefact(target, files, f"{prefix}/{compiled.path}", compiled.about, measured, reason, compiled.graph)


def _measurement(recipe: Recipe, lock: Lock, place: Place, target: Target, compiled: Compiled | None) -> Result:
    """Measure an artefact; without one, run the source alone, which answered already where it generates text."""
    if place.answers is None:
        label = f"measure {target.name}" if compiled else "reference vectors"
        action = _measure(recipe, lock, place, target, compiled)
    elif compiled is None:
        return Result(place.runner.store.put_tree(Tree()).digest, {"cases": []})
    else:
        label, path = f"measure {target.name}", compiled.path
        tools = _tools(lock, lock.toolchain)
        action = generation.measure_action(place.answers, compiled.tree.digest, path, engine_of(target), target, tools)
    found = place.runner(action, label, virtualenv=place.environment)
    rows = place.answers.rows if place.answers else None
    if recipe.evaluation is None or rows is None:
        return found
    data = _beside(place, recipe.evaluation.data, {}, "evaluation")
    more = generation.evaluate_action(
        action, rows, data, recipe.evaluation, _tools(lock, evaluation_tools.list_tools(recipe))
    )
    reached = place.runner(more, f"evaluate {target.name}", virtualenv=place.environment)
    return replace(found, facts={**found.facts, **reached.facts})


def _compiled(recipe: Recipe, lock: Lock, place: Place, target: Target, runtime: Runtime) -> Compiled:
    graph, store = place.graph, place.runner.store
    if runtime.is_graph(target.device, target.precision):
        header = {key: place.graph_facts["graph"][key] for key in ("opset", "ir")}
        about = {"reproducibility": "bitwise", "header": header, "needs": {}, "toolchain": {}}
        return Compiled(store.tree(graph.tree), GRAPH, about)
    if runtime.builds_on_gpu and (reason := runtime.unmeasurable(target.device)):
        raise StepError(
            f"`{target.name}` must be built on the GPU it runs on: {reason}",
            hint="build on such a machine, or remove the target from `runs-on`",
            edits=_without(recipe, target),
        )
    action, files = _compile(recipe, lock, place, target, runtime)
    made = place.runner(action, f"compile {target.name}", virtualenv=place.environment)
    found = step_facts.read_artefact(made)
    about = {**found["artefact"], **files, "toolchain": {**action.toolchain}}
    return Compiled(store.tree(made.tree), found["path"], about, found.get("graph"))


def _without(recipe: Recipe, target: Target) -> list[Edit]:
    """Return the edit that takes a target's device, or its whole runtime, out of the promises."""
    promise = recipe.promise(target.runtime)
    left = [device for device in promise.devices if device != target.device]
    if left:
        return [Edit(("runs-on", target.runtime, "devices"), left)]
    return [Edit(("runs-on", target.runtime))] if len(recipe.runs_on) > 1 else []


def _compile(
    recipe: Recipe, lock: Lock, place: Place, target: Target, runtime: Runtime
) -> tuple[Action, Mapping[str, JSON]]:
    """Return the action, and what else the contract says of its result."""
    promise = recipe.promise(target.runtime)
    inputs, users = {"graph": place.graph.tree}, {*runtime.toolchain}
    about: dict[str, JSON] = {}
    params = {
        **target.to_json(),
        "runtime": engine_of(target),
        "path": GRAPH,
        "opset": lock.level.opset,
        "ir": lock.level.ir,
        "versions": promise.versions,
        "interface": place.graph_facts["interface"],
        **({"gpu": True} if runtime.builds_on_gpu else {}),
        **({"generation": place.graph_facts["generation"]} if recipe.task else {}),
    }
    if runtime.from_source:
        inputs["source"] = place.source
        params |= {"kind": lock.kind, "payload": lock.payload}
        users |= _exporter_tools(lock)
    if promise.timing_cache:
        inputs["timings"] = _beside(place, promise.timing_cache, about, "timings")
    if target.precision == "int8" and recipe.calibration:
        inputs["calibration"] = _beside(place, recipe.calibration, about, "calibration")
    elif target.precision == "int8":
        inputs["source"] = place.source
        params |= {"kind": lock.kind, "payload": lock.payload, **_export_options(recipe)}
        users |= _exporter_tools(lock)
    if target.precision == int4.PRECISION:
        params["int4"] = recipe.int4.to_json()
    action = Action("compile", plugins.load("steps", "compile").VERSION, inputs, params, _tools(lock, users))
    return action, about


def _beside(place: Place, name: str, about: dict[str, JSON], role: str) -> str:
    """Keep a file that lies beside the recipe; return the digest of the tree that holds it, and note its own."""
    with (place.base / name).open("rb") as source:
        blob = place.runner.store.add(source)
    about[role] = blob.digest
    return place.runner.store.put_tree(Tree.of({Path(name).name: blob})).digest


def _measure(recipe: Recipe, lock: Lock, place: Place, target: Target, compiled: Compiled | None) -> Action:
    """Return the measurement of an artefact; without one, the run of the source alone."""
    params = {
        "kind": lock.kind,
        "payload": lock.payload,
        "interface": place.graph_facts["interface"],
        "ranges": place.graph_facts["ranges"],
        **({"values": place.graph_facts["values"]} if "values" in place.graph_facts else {}),
        **_export_options(recipe),
    }
    inputs, users = {"source": place.source}, _exporter_tools(lock)
    if compiled:
        inputs["artefact"] = compiled.tree.digest
        params |= {"runtime": engine_of(target), "path": compiled.path, "device": target.device}
        params |= {"gpu": True} if target.device != "cpu" else {}
        if recipe.samples:
            inputs["samples"] = _beside(place, recipe.samples, {}, "samples")
        users |= {*load_runtime(target.runtime).toolchain}
        if recipe.evaluation:
            more, needed = evaluations.plan_measurement(recipe.evaluation, place.graph_facts, place.pipeline)
            inputs |= {"evaluation": _beside(place, recipe.evaluation.data, {}, "evaluation"), **needed}
            params, users = {**params, **more}, users | {*evaluation_tools.list_tools(recipe)}
    return Action("measure", plugins.load("steps", "measure").VERSION, inputs, params, _tools(lock, users))


def _tools(lock: Lock, names: Collection[str]) -> dict[str, str]:
    """Return the locked versions of distributions, and of what every action depends on."""
    return {name: lock.toolchain[name] for name in sorted({"python", "machine", *names})}


def _exporter_tools(lock: Lock) -> set[str]:
    """Return the distributions that the exporter runs on, of those it may use the locked ones."""
    module = plugins.load("exporters", lock.kind)
    return {*module.TOOLCHAIN, *(name for name in getattr(module, "MAYBE", ()) if name in lock.toolchain)}


def _confinement(runner: Runner) -> list[JSON]:
    """Return how the workers were confined whose results were used; of several ways the weakest."""
    known = (result.confinement for _, result in runner.steps.values() if result.confinement)
    weakest = Confinement.weakest([Confinement.from_json(value) for value in known])
    return [{"signer": None, **weakest.to_json()}] if weakest else []
