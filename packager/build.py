# SPDX-License-Identifier: Apache-2.0
"""The build, in one screen: source, graph, one artefact per target, measurements; then judge and assemble.

Above the line in `build` everything expensive is a cached action; below it everything is pure, cheap and always
recomputed. So a changed tolerance runs nothing, and one more target runs only that target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

from packager import canonical, contract, diff, plugins, policy, resolve
from packager.bundle import CONTRACT, FORMAT, RECORD, SBOM, Bundle, read
from packager.canonical import JSON
from packager.errors import TooNewError, UsageError
from packager.events import Note
from packager.formats import cyclonedx, modelpack, requirements
from packager.lock import Lock
from packager.media import StoredBundle
from packager.memo import Memo
from packager.recipe import Recipe, Target
from packager.run import Runner
from packager.store import Entry, Store
from packager.types import Action, Blob, Result, Tree, Verdict

Place: TypeAlias = Callable[[], Path] | None  # of a locked toolchain's environment
GRAPH = "model/model.onnx"  # where the export step leaves the canonical graph


@dataclass(frozen=True, slots=True)
class Artefact:
    """One compiled target: its files under their bundle paths, the path of its graph, and what was measured.

    `graph` are the facts of its graph where that is not the bundle's main one.
    """

    target: Target
    files: Tree
    path: str
    measured: Mapping[str, JSON]
    graph: Mapping[str, JSON] | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """A judged build. `bundle` is None when the verdict is no: what policy forbids is not even named."""

    verdict: Verdict
    facts: Mapping[str, JSON]
    bundle: Bundle | None


def build(recipe: Recipe, lock: Lock, runner: Runner, here: resolve.Surroundings, memo: Memo) -> Built:
    """Turn a recipe and its lock into an unsigned bundle in the local store."""
    profile = policy.profile(recipe.policy, here.base)
    source = resolve.fetch_locked(lock, runner, here.settings(recipe, memo))
    runner.on_event(Note(resolve.explain(recipe, lock.level)))
    place = resolve.place(lock, runner, here)
    try:
        graph = runner(_export(recipe, lock, source), f"export {recipe.name}", executes=_executes(lock), place=place)
    except TooNewError as error:
        raise resolve.unmet(recipe, error) from error
    recipe.check_outputs([output["name"] for output in graph.facts["interface"]["outputs"]])
    artefacts = runner.each(
        lambda target: _artefact(recipe, lock, runner, source, graph, target, place), recipe.targets()
    )
    # ── pure from here on ──
    facts = _facts(recipe, graph, artefacts)
    verdict = policy.judge(profile, facts, here.today)
    if not verdict.ok:
        return Built(verdict, facts, None)
    tree = _assemble(recipe, lock, runner.store, graph, artefacts, here.base)
    return Built(verdict, facts, _keep(recipe, tree, runner.store))


def _executes(lock: Lock) -> bool:
    return bool(plugins.load("exporters", lock.kind).EXECUTES)


def _export(recipe: Recipe, lock: Lock, source: str) -> Action:
    params = {
        "kind": lock.kind,
        "payload": lock.payload,
        "opset": lock.level.opset,
        "ir": lock.level.ir,
        **_wishes(recipe),
    }
    tools = _tools(lock, plugins.load("exporters", lock.kind))
    return Action("export", plugins.load("steps", "export").VERSION, {"source": source}, params, tools)


def _wishes(recipe: Recipe) -> dict[str, JSON]:
    """Return what the recipe says about inputs; the same words for the export and for the measurement."""
    inputs = recipe.inputs and {name: spec.to_json() for name, spec in recipe.inputs.items()}
    dynamic = {name: list(bounds) for name, bounds in recipe.dynamic.items()}
    domains = {"domains": list(recipe.custom_domains)} if recipe.custom_domains else {}
    return {"inputs": inputs, "dynamic": dynamic, "seed": recipe.export.seed, **domains}


def _artefact(
    recipe: Recipe, lock: Lock, runner: Runner, source: str, graph: Result, target: Target, where: Place
) -> Artefact:
    """Compile one target (nothing to do where the graph itself is the artefact) and measure it."""
    runtime = plugins.load("runtimes", target.runtime)
    tree, place, own = runner.store.tree(graph.tree), GRAPH, None
    if not runtime.is_graph(target.device, target.precision):
        params = {
            **target.to_json(),
            "runtime": _engine(target),
            "path": GRAPH,
            "opset": lock.level.opset,
            "ir": lock.level.ir,
        }
        tools = _tools(lock, runtime)
        action = Action("compile", plugins.load("steps", "compile").VERSION, {"graph": graph.tree}, params, tools)
        compiled = runner(action, f"compile {target.name}", place=where)
        tree = runner.store.tree(compiled.tree)
        place, own = compiled.facts["path"], compiled.facts.get("graph")
    measured = runner(
        _measure(recipe, lock, source, tree, place, graph.facts, target),
        f"measure {target.name}",
        executes=_executes(lock),
        place=where,
    )
    if place == GRAPH and tree.digest == graph.tree:
        return Artefact(target, Tree(), GRAPH, measured.facts)
    prefix = f"targets/{target.name}"
    return Artefact(target, Tree.of({f"{prefix}/{p}": b for p, b in tree}), f"{prefix}/{place}", measured.facts, own)


def _measure(
    recipe: Recipe, lock: Lock, source: str, tree: Tree, place: str, exported: Mapping[str, JSON], target: Target
) -> Action:
    params = {
        "kind": lock.kind,
        "payload": lock.payload,
        "runtime": _engine(target),
        "path": place,
        "interface": exported["interface"],
        "ranges": exported["ranges"],
        **_wishes(recipe),
    }
    inputs = {"source": source, "artefact": tree.digest}
    tools = _tools(lock, plugins.load("exporters", lock.kind), plugins.load("runtimes", target.runtime))
    return Action("measure", plugins.load("steps", "measure").VERSION, inputs, params, tools)


def _engine(target: Target) -> str:
    """Return the runtime that compiles and measures for a target: a server runs the artefacts of what is inside it."""
    return str(getattr(plugins.load("runtimes", target.runtime), "ENGINE", target.runtime))


def _tools(lock: Lock, *users: ModuleType) -> dict[str, str]:
    """Return the locked versions of what these plug-ins run on."""
    names = {"python", "machine", *(name for user in users for name in user.TOOLCHAIN)}
    names |= {name for user in users for name in getattr(user, "MAYBE", ()) if name in lock.toolchain}
    return {name: lock.toolchain[name] for name in sorted(names)}


def _facts(recipe: Recipe, graph: Result, artefacts: list[Artefact]) -> dict[str, JSON]:
    outputs = [output["name"] for output in graph.facts["interface"]["outputs"]]
    return {
        "name": recipe.name,
        "version": recipe.version,
        "nondeterministic": graph.facts["nondeterministic"],
        "targets": {
            item.target.name: {
                "precision": item.target.precision,
                "tolerance": contract.bounds(recipe, item.target, outputs),
                "cases": item.measured["cases"],
                "shortened": item.measured["shortened"],
            }
            for item in artefacts
        },
    }


def _assemble(recipe: Recipe, lock: Lock, store: Store, graph: Result, artefacts: list[Artefact], base: Path) -> Tree:
    """Put the files of the bundle together: the graph, the artefacts, and our records about them."""
    files: dict[str, Blob] = dict(store.tree(graph.tree).files)
    for artefact in artefacts:
        files |= dict(artefact.files.files)
    if recipe.card:
        files[_card_path(recipe.card)] = store.put(_card(base / recipe.card))
    model_files = sorted(files.items())
    for runtime, text in lock.dependencies.items():
        files[f"deps/{runtime}/requirements.txt"] = store.put(text.encode())
    paths = {artefact.target.name: artefact.path for artefact in artefacts}
    compiled = {artefact.target.name: artefact.graph for artefact in artefacts if artefact.graph}
    runtimes = {artefact.target.name: plugins.load("runtimes", artefact.target.runtime) for artefact in artefacts}
    stability = {name: getattr(module, "STABILITY", "bitwise") for name, module in runtimes.items()}
    promise = contract.derive(recipe, graph.facts, paths, compiled, stability)
    diff.check_step(recipe, promise, store, base)
    files[CONTRACT] = store.put(canonical.dump(promise))
    files[SBOM] = store.put(_sbom(recipe, lock, graph, model_files))
    files[RECORD] = store.put(_record(recipe, files, promise["targets"]))
    return Tree.of(files)


def _card_path(card: str) -> str:
    return "MODEL_CARD" + Path(card).suffix


def _card(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the model card `{path}`: {error.strerror}") from None


def _sbom(recipe: Recipe, lock: Lock, graph: Result, files: list[tuple[str, Blob]]) -> bytes:
    interface = graph.facts["interface"]
    model = cyclonedx.Model(
        recipe.name, recipe.version, recipe.license, recipe.description, recipe.authors,
        interface["inputs"], interface["outputs"],
    )  # fmt: skip
    return cyclonedx.describe(model, files, {name: requirements.parse(t) for name, t in lock.dependencies.items()})


def _record(recipe: Recipe, files: Mapping[str, Blob], targets: Mapping[str, JSON]) -> bytes:
    value = {
        "format": FORMAT,
        "name": recipe.name,
        "version": recipe.version,
        "files": {path: [blob.digest, blob.size] for path, blob in files.items()},
        "targets": {name: {key: target[key] for key in ("runtime", "device", "precision", "path")}
                    for name, target in targets.items()},
    }  # fmt: skip
    return canonical.dump(value)


def _keep(recipe: Recipe, tree: Tree, store: Store) -> Bundle:
    """Write the manifest and name the bundle; signatures of an identical earlier build stay attached."""
    about = modelpack.About(
        recipe.name, recipe.version, recipe.description, (recipe.license,) if recipe.license else (), recipe.authors
    )
    manifest, config = modelpack.manifest(about, tree)
    store.put(config)
    entry = Entry(store.put(manifest).digest)
    if (recipe.name, recipe.version) in store.bundles():
        known = store.entry(recipe.name, recipe.version)
        entry = known if known.manifest == entry.manifest else entry
    store.name_bundle(recipe.name, recipe.version, entry)
    return read(StoredBundle(store, entry, f"{recipe.name}:{recipe.version}"))
