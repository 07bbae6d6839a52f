# SPDX-License-Identifier: Apache-2.0
"""The build, in one screen: source, graph, one artefact per target, measurements; then judge and assemble.

Above the line in `build` everything expensive is a cached action; below it everything is pure, cheap and always
recomputed. So a changed tolerance runs nothing, and one more target runs only that target.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packager import canonical, plugins
from packager.actions import scan
from packager.actions.runner import Runner
from packager.build import evaluations, generation, raw_inputs, step_facts
from packager.build.raw_inputs import RawInputs
from packager.build.step_facts import CaseFacts, GraphFacts, MeasurementFacts
from packager.bundle import changes, description, version_step
from packager.bundle.bundle import CONTRACT, FORMAT, RECORD, SBOM, Bundle, card_name, read
from packager.bundle.readers import StoredBundle
from packager.canonical import JSON
from packager.contract import contract, preflight
from packager.edits import Edit
from packager.errors import StepError, TooNewError, UsageError
from packager.events import Note, Warned
from packager.formats import cyclonedx, model_cards, modelpack, wheel_locks
from packager.knobs import catalogue, knobs
from packager.lock import build_tools, evaluation_tools, locking, opset_level, vendor
from packager.lock.build_context import BuildContext
from packager.lock.lock import Lock
from packager.policy import engine, facts
from packager.policy.engine import Profile
from packager.recipe.lengths import OF_DATA, evaluate
from packager.recipe.recipe import Recipe, Target
from packager.runtime import Runtime, load_runtime
from packager.sandbox.sandbox import Confinement
from packager.server.telemetry.distribution_file import Distributions
from packager.store.file_digests import Memo
from packager.store.store import BUILT, Store, StoreEntry, name_is_taken
from packager.types import Action, Blob, Result, Tree, Verdict

GRAPH = "model/model.onnx"  # where the export step leaves the canonical graph
OUTPUTS = ("outputs.safetensors", "outputs.json")  # what the measure step leaves beside the reference inputs
MISSES = "misses/"  # and the folder of rows that show the worst differences


@dataclass(frozen=True, slots=True)
class Compiled:
    """The artefact of a target: the tree it lies in, its path there, and what the contract says about it."""

    tree: Tree
    path: str
    about: Mapping[str, JSON]
    graph: Mapping[str, JSON] | None = None


@dataclass(frozen=True, slots=True)
class Artefact:
    """One compiled target under its bundle paths, and what was measured: `facts`, and vectors in `measured.tree`.

    `graph` are the facts of its graph where that is not the bundle's main one.
    `unmeasured` is the reason why this host could not run it, or None.
    """

    target: Target
    files: Tree
    path: str
    about: Mapping[str, JSON]
    measured: Result
    unmeasured: str | None
    graph: Mapping[str, JSON] | None = None

    @property
    def facts(self) -> MeasurementFacts:
        """What was measured."""
        return step_facts.read_measurement(self.measured)


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


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target is made: the runner, the locked source, its graph, and the recipe's directory.

    `environment` gives the virtual environment of a locked toolchain; None is this Python. `answers` are those of a
    source that generates text, `pipeline` is what stands before and behind the graph.
    """

    runner: Runner
    source: str
    graph: Result
    base: Path
    environment: Callable[[], Path] | None
    answers: generation.Answers | None = None
    pipeline: RawInputs | None = None

    @property
    def graph_facts(self) -> GraphFacts:
        """What the export says of the graph."""
        return step_facts.read_graph(self.graph)


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
    scans = [{"signer": None, **scan.scan(lock.tree, runner, lock.kind, recipe.allow_code)}]
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
    return locking.fetch_locked(lock, runner, here.settings(recipe, memo))


def assemble(recipe: Recipe, lock: Lock, source: str, runner: Runner, here: BuildContext) -> Assembled:
    """Export, compile and measure the locked source; return the files of the bundle. Nothing is judged here."""
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
        place = replace(place, graph=_as_measured(graph, artefacts))
    wheels = vendor.fetch(lock.dependencies, recipe.vendor, runner, here.environment)
    # From here on nothing runs: the same results give the same bytes.
    vectors = _vectors(place, artefacts)
    outputs = Tree.of({path: blob for path, blob in vectors if path in OUTPUTS})
    inputs = Tree.of({path: blob for path, blob in vectors if path not in OUTPUTS and not path.startswith(MISSES)})
    files = _assemble(recipe, lock, place, artefacts, inputs, wheels, pipeline)
    measured = {**_measured(recipe, place.graph, artefacts), **(pipeline.facts if pipeline else {})}
    described = evaluations.find_distributions(item.facts for item in artefacts)
    return Assembled(files, measured, outputs, _misses(runner.store, artefacts), described)


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
        action = generation.measure_action(place.answers, compiled.tree.digest, path, _engine(target), target, tools)
    return place.runner(action, label, virtualenv=place.environment)


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
        "runtime": _engine(target),
        "path": GRAPH,
        "opset": lock.level.opset,
        "ir": lock.level.ir,
        "versions": promise.versions,
        "interface": place.graph_facts["interface"],
        **({"gpu": True} if runtime.builds_on_gpu else {}),
        **({"generation": place.graph_facts["generation"]} if recipe.task else {}),
    }
    if promise.timing_cache:
        inputs["timings"] = _beside(place, promise.timing_cache, about, "timings")
    if target.precision == "int8" and recipe.calibration:
        inputs["calibration"] = _beside(place, recipe.calibration, about, "calibration")
    elif target.precision == "int8":
        inputs["source"] = place.source
        params |= {"kind": lock.kind, "payload": lock.payload, **_export_options(recipe)}
        users |= _exporter_tools(lock)
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
        params |= {"runtime": _engine(target), "path": compiled.path, "device": target.device}
        params |= {"gpu": True} if target.device != "cpu" else {}
        if recipe.samples:
            inputs["samples"] = _beside(place, recipe.samples, {}, "samples")
        users |= {*load_runtime(target.runtime).toolchain}
        if recipe.evaluation:
            more, needed = evaluations.plan_measurement(recipe.evaluation, place.graph_facts, place.pipeline)
            inputs |= {"evaluation": _beside(place, recipe.evaluation.data, {}, "evaluation"), **needed}
            params, users = {**params, **more}, users | {*evaluation_tools.list_tools(recipe)}
    return Action("measure", plugins.load("steps", "measure").VERSION, inputs, params, _tools(lock, users))


def _engine(target: Target) -> str:
    """Return the runtime that compiles and measures for a target: a server runs the artefacts of what is inside it."""
    return load_runtime(target.runtime).engine


def _tools(lock: Lock, names: Collection[str]) -> dict[str, str]:
    """Return the locked versions of distributions, and of what every action depends on."""
    return {name: lock.toolchain[name] for name in sorted({"python", "machine", *names})}


def _exporter_tools(lock: Lock) -> set[str]:
    """Return the distributions that the exporter runs on, of those it may use the locked ones."""
    module = plugins.load("exporters", lock.kind)
    return {*module.TOOLCHAIN, *(name for name in getattr(module, "MAYBE", ()) if name in lock.toolchain)}


def _measured(recipe: Recipe, graph: Result, artefacts: list[Artefact]) -> dict[str, JSON]:
    """Return the facts that only the build can see."""
    exported = step_facts.read_graph(graph)
    outputs = [output["name"] for output in exported["interface"]["outputs"]]
    outputs = list(generation.list_outputs(recipe.task)) if recipe.task else outputs
    for item in artefacts:
        check_cases(item.facts["cases"], outputs)
    return {
        "nondeterministic": exported["nondeterministic"],
        "targets": {
            item.target.name: {
                "precision": item.target.precision,
                "engine": _engine(item.target),
                "tolerance": contract.list_tolerances(recipe, item.target, outputs),
                "unmeasured": item.unmeasured,
                "cases": item.facts["cases"],
                "shortened": item.facts.get("shortened", {}),
                "dimensions": exported["interface"]["dimensions"],
                "kinds": item.facts.get("kinds", {}),
                "coverage": item.facts.get("coverage", {}),
                **evaluations.list_facts(recipe.evaluation, item.facts),
            }
            for item in artefacts
        },
    }


def _as_measured(graph: Result, artefacts: list[Artefact]) -> Result:
    """Return the graph's facts with the shapes of outputs that the measurement saw.

    An axis that had another length than it is said to have depends on the data; so `conform` finds nothing that the
    build could have found. Raises StepError for another number of axes.
    """
    interface = step_facts.read_graph(graph)["interface"]
    cases = [case for item in artefacts for case in item.facts["cases"]]
    outputs = []
    for port in interface["outputs"]:
        seen = [(case["lengths"], case["outputs"].get(port["name"], {}).get("shape")) for case in cases]
        runs = [(lengths, shape) for lengths, shape in seen if shape is not None]
        if other := [len(shape) for _, shape in runs if len(shape) != len(port["shape"])]:
            raise StepError(
                f"output `{port['name']}` has {len(port['shape'])} axes, and {other[0]} where it was measured",
                hint="return tensors of one rank",
            )
        axes = [
            _measured_axis(stated, [(lengths, shape[place]) for lengths, shape in runs], f"{port['name']}_{place}")
            for place, stated in enumerate(port["shape"])
        ]
        outputs.append({**port, "shape": axes})
    return replace(graph, facts={**graph.facts, "interface": {**interface, "outputs": outputs}})


def _measured_axis(stated: int | str, seen: Sequence[tuple[Mapping[str, int], int]], name: str) -> int | str:
    """Return an output's axis as it is stated, unless a run contradicts it: then a dimension that fits all, or none."""

    def holds(axis: int | str) -> bool:
        said = [axis if isinstance(axis, int) else lengths.get(axis, evaluate(axis, lengths)) for lengths, _ in seen]
        return all(length in (got, None) for length, (_, got) in zip(said, seen, strict=True))

    dimensions = sorted(seen[0][0]) if seen else []
    return next((axis for axis in (stated, *dimensions) if holds(axis)), OF_DATA + name)


def check_cases(cases: Sequence[CaseFacts], outputs: Sequence[str]) -> None:
    """Raise StepError where a measured case has other outputs than the graph: a worker may answer what it likes."""
    for case in cases:
        if set(case["outputs"]) != set(outputs):
            raise StepError(
                f"step `measure` answered for other outputs than the graph has (case `{case['name']:.80}`)",
                hint="build again; if it stays so, look at what the model does before you open it anywhere",
            )


def _confinement(runner: Runner) -> list[JSON]:
    """Return how the workers were confined whose results were used; of several ways the weakest."""
    known = (result.confinement for _, result in runner.steps.values() if result.confinement)
    weakest = Confinement.weakest([Confinement.from_json(value) for value in known])
    return [{"signer": None, **weakest.to_json()}] if weakest else []


def _assemble(
    recipe: Recipe,
    lock: Lock,
    place: Place,
    artefacts: list[Artefact],
    vectors: Tree,
    wheels: Mapping[str, Mapping[str, Blob]],
    pipeline: RawInputs | None,
) -> Tree:
    """Put the files of the bundle together: the graph, the artefacts, and our records about them."""
    store, graph = place.runner.store, place.graph
    files: dict[str, Blob] = dict(store.tree(graph.tree).files)
    for artefact in artefacts:
        files |= dict(artefact.files.files)
    card = _card(recipe, lock, place)
    if card is not None:
        files[card.name] = store.put(card.data)
    files |= {f"vectors/{path}": blob for path, blob in vectors}
    files |= pipeline.files if pipeline else {}
    for runtime, sets in lock.dependencies.wheels.items():
        carried = wheels.get(runtime, {})
        files |= {f"deps/{runtime}/wheels/{name}": blob for name, blob in carried.items()}
        for name, text in wheel_locks.files(sets, lock.dependencies.indexes, carried).items():
            files[f"deps/{runtime}/{name}"] = store.put(text.encode())
    paths = {artefact.target.name: artefact.path for artefact in artefacts}
    compiled = {artefact.target.name: artefact.graph for artefact in artefacts if artefact.graph}
    about = {artefact.target.name: artefact.about for artefact in artefacts}
    promise = contract.derive(recipe, graph.facts, paths, compiled, about, pipeline.promise if pipeline else None)
    version_step.check_step(recipe, promise, store, place.base)
    files[CONTRACT] = store.put(canonical.dump(promise))
    files[knobs.FILE] = store.put(catalogue.schema_bytes(promise))
    files[SBOM] = store.put(_sbom(recipe, card, lock, graph, sorted(files.items()), paths))
    files[RECORD] = store.put(_record(recipe, files, promise["targets"]))
    return Tree.of(files)


@dataclass(frozen=True, slots=True)
class _Card:
    """A model card: its name in the bundle, its bytes, and what it declares."""

    name: str
    data: bytes
    declared: model_cards.ModelCard


def _card(recipe: Recipe, lock: Lock, place: Place) -> _Card | None:
    """Return the card that the recipe names, else that of the hub's repository. Raises UsageError for the former."""
    if recipe.card is None:
        return _hub_card(lock, place)
    path = place.base / recipe.card
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the model card `{path}`: {error.strerror}") from None
    return _Card(card_name(recipe.card), data, model_cards.read_card(data, recipe.card))


def _hub_card(lock: Lock, place: Place) -> _Card | None:
    """Return the card of a repository on a hub; one that is not readable as a card is none."""
    blob = lock.tree.get("README.md") if lock.source["kind"] in ("huggingface", "modelscope") else None
    if blob is None or blob.size > model_cards.MAX_CARD:
        return None
    data = place.runner.store.get(blob.digest)
    try:
        return _Card(card_name("README.md"), data, model_cards.read_card(data, "README.md"))
    except UsageError:
        return None


def _sbom(
    recipe: Recipe,
    card: _Card | None,
    lock: Lock,
    graph: Result,
    files: list[tuple[str, Blob]],
    targets: Mapping[str, str],
) -> bytes:
    """Describe every file but the two that come after: the SBOM itself, and the record that names the SBOM's digest."""
    interface = step_facts.read_graph(graph)["interface"]
    declared = card.declared if card else None
    model = cyclonedx.Model(
        recipe.name,
        recipe.version,
        recipe.license or (declared.licence if declared else None),
        recipe.description,
        recipe.authors,
        interface["inputs"],
        interface["outputs"],
        str(lock.source["uri"]),
        lock.tree.digest,
        lock.kind,
        [item.to_json() for item in recipe.datasets],
        card.name if card else None,
        declared,
        str(lock.signed["signer"]) if lock.signed else None,
    )
    return cyclonedx.describe(model, files, targets, lock.dependencies, lock.toolchain)


def _record(recipe: Recipe, files: Mapping[str, Blob], targets: Mapping[str, JSON]) -> bytes:
    value = {
        "format": FORMAT,
        "name": recipe.name,
        "version": recipe.version,
        "files": {path: [blob.digest, blob.size] for path, blob in files.items()},
        "targets": {
            name: {key: target[key] for key in ("runtime", "device", "precision", "path")}
            for name, target in targets.items()
        },
    }
    return canonical.dump(value)


def keep(recipe: Recipe, tree: Tree, runner: Runner, *, over: bool) -> Bundle:
    """Write the manifest and name the bundle; signatures of an identical earlier build stay attached."""
    store = runner.store
    blobs = dict(tree.files)
    about = description.read_files(
        recipe.name, recipe.version, lambda path: canonical.load(store.get(blobs[path].digest), limit=1 << 30), {*blobs}
    )
    manifest, config = modelpack.manifest(about, tree)
    store.put(config)
    entry = StoreEntry(store.put(manifest).digest, origin=BUILT)
    known = store.named(recipe.name, recipe.version)
    if known is not None and known.manifest == entry.manifest:
        entry = replace(known, origin=BUILT)
    elif known is not None and not over:
        raise _taken(recipe, name_is_taken(recipe.name, recipe.version, known, entry))
    elif known is not None:
        runner.on_event(Warned(f"`{recipe.name}:{recipe.version}` was {known.manifest}, and is another bundle now"))
    store.name_bundle(recipe.name, recipe.version, entry)
    return read(StoredBundle(store, entry, f"{recipe.name}:{recipe.version}"))


def _taken(recipe: Recipe, error: UsageError) -> UsageError:
    """Return the error of a build that would take a name from another bundle, with a version that is free."""
    later = changes.next_version(recipe.version, "patch")
    hint = f"write `version: {later}` (or another `name`) in the recipe; {error.hint}"
    return UsageError(error.message, hint=hint, edits=[Edit(("version",), later, consents=True)])
