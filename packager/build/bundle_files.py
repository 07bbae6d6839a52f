# SPDX-License-Identifier: Apache-2.0
"""The files of a bundle: graph, artefacts and our records about them, kept in the store under the bundle's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from packager import canonical
from packager.actions.runner import Runner
from packager.build import step_facts
from packager.build.made import Artefact, Place
from packager.build.raw_inputs import RawInputs
from packager.bundle import changes, description, version_step
from packager.bundle.bundle import CONTRACT, FORMAT, RECORD, SBOM, Bundle, card_name, read
from packager.bundle.readers import StoredBundle
from packager.canonical import JSON
from packager.contract import derivation
from packager.edits import Edit
from packager.errors import UsageError
from packager.events import Warned
from packager.formats import cyclonedx, model_cards, modelpack, wheel_locks
from packager.knobs import catalogue, knobs
from packager.lock.lock import Lock
from packager.recipe.recipe import Recipe
from packager.store.entries import BUILT, StoreEntry, name_is_taken
from packager.types import Blob, Result, Tree


def write_files(
    recipe: Recipe,
    lock: Lock,
    place: Place,
    artefacts: list[Artefact],
    vectors: Tree,
    wheels: Mapping[str, Mapping[str, Blob]],
    pipeline: RawInputs | None,
    of_adapter: JSON = None,
) -> Tree:
    """Put the files of the bundle together: the graph, the artefacts, and our records about them.

    `of_adapter` is the contract of an adapter, which does not follow from a graph.
    """
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
        for name, text in wheel_locks.write_lock_files(sets, lock.dependencies.indexes, carried).items():
            files[f"deps/{runtime}/{name}"] = store.put(text.encode())
    paths = {artefact.target.name: artefact.path for artefact in artefacts}
    compiled = {artefact.target.name: artefact.graph for artefact in artefacts if artefact.graph}
    about = {artefact.target.name: artefact.about for artefact in artefacts}
    promise = of_adapter or derivation.derive(
        recipe, graph.facts, paths, compiled, about, pipeline.promise if pipeline else None
    )
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
    manifest, config = modelpack.write_manifest(about, tree)
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
