# SPDX-License-Identifier: Apache-2.0
"""The part of a build that adapters have for themselves: matrices in the place of a graph, measured in their base."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from packager import plugins
from packager.build import generation
from packager.build.made import Artefact, Place
from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.contract import derivation
from packager.contract.contract import Base, Terms
from packager.lock import base as bases
from packager.lock.build_tools import OF_TASK
from packager.lock.lock import Lock
from packager.recipe.recipe import Recipe
from packager.server.generation.settings import ADAPTER, FOLDER, LORA
from packager.types import Action, Result, Tree


@dataclass(frozen=True, slots=True)
class Made:
    """What was made of an adapter: its answers, its artefacts, its contract."""

    place: Place
    artefacts: list[Artefact]
    promise: JSON


def make_adapter(recipe: Recipe, lock: Lock, place: Place) -> Made:
    """Export the matrices, let transformers and PEFT answer the prompts, and measure every target of the base.

    Raises UsageError where the base is not in the store any more.
    """
    pinned = lock.base or {}
    base = bases.open_base(str(pinned["bundle"]), place.runner.store)
    exported = place.runner(export_action(lock, place, base), f"export {recipe.name}")
    answered = place.runner(_reference(lock, place, pinned), f"answer prompts with {recipe.name}")
    graph = Result(exported.tree, _facts(base))
    place = replace(place, graph=graph, answers=generation.Answers(answered.tree, graph))
    about = {"reproducibility": "bitwise", "header": dict(exported.facts), "needs": {}, "toolchain": {}}
    artefacts = []
    for name, terms in base.contract.targets.items():
        action = _measure(lock, place, base, terms, exported.tree)
        measured = place.runner(action, f"measure {name}")
        artefacts.append(Artefact(terms.target, Tree(), ADAPTER, about, measured, None))
    identity = Base(base.name, base.version, base.digest)
    of_targets = {item.target.name: about for item in artefacts}
    return Made(place, artefacts, derivation.derive_adapter(recipe, base.contract, identity, of_targets, ADAPTER))


def export_action(lock: Lock, place: Place, base: Bundle) -> Action:
    """Return what makes matrices for the base's inputs of what PEFT saved."""
    about = base.contract.document["generation"]
    shapes = {port.name: list(port.shape) for port in base.contract.inputs if port.name.startswith(LORA)}
    params = {"payload": lock.payload, "inputs": shapes, **{name: about[name] for name in ("tokenizer", "template")}}
    step = "export_adapter"
    return Action(step, plugins.load("steps", step).VERSION, {"source": place.source}, params, _tools(lock, {"numpy"}))


def _reference(lock: Lock, place: Place, pinned: Mapping[str, JSON]) -> Action:
    names = {*plugins.load("exporters", lock.kind).TOOLCHAIN, *OF_TASK}
    params = {"kind": lock.kind, "payload": lock.payload}
    action = generation.reference_action(place.source, params, _tools(lock, names))
    inputs = {**action.inputs, "base": str(pinned["tree"])}
    return replace(action, inputs=inputs, params={**action.params, "base": pinned["payload"]})


def _measure(lock: Lock, place: Place, base: Bundle, terms: Terms, adapter: str) -> Action:
    """Return the measurement of the adapter in a target of its base."""
    answers = place.answers
    if answers is None:
        raise ValueError("an adapter is measured against answers")
    tree = place.runner.store.put_tree(_files_of(base, terms.path)).digest
    action = generation.measure_action(
        answers, tree, terms.path, terms.target.runtime, terms.target, _tools(lock, lock.toolchain)
    )
    return replace(action, inputs={**action.inputs, "graph": tree, "adapter": adapter})


def _files_of(base: Bundle, path: str) -> Tree:
    """Return the files of the base that a target's loop opens: the artefact, what lies beside it, tokenizer, template.

    They are in the store, where the base is.
    """
    folders = (PurePosixPath(path).parent, PurePosixPath(FOLDER))
    return Tree.of(
        {name: blob for name, blob in base.tree if any(PurePosixPath(name).is_relative_to(at) for at in folders)}
    )


def _facts(base: Bundle) -> Mapping[str, JSON]:
    """Return the facts of the base's graph, as its export gave them."""
    written = base.contract.document
    memory = [terms.needs["memory"] for terms in base.contract.targets.values()]
    activations = {"bytes": max(m["activations"] for m in memory), "unknown": max(m["unknown"] for m in memory)}
    working = [m["peak"] - m["weights"] for m in memory if "peak" in m]
    activations |= {"working": max(working)} if working else {}
    return {
        "interface": written["interface"],
        "ranges": written["ranges"],
        "graph": {**written["graph"], "activations": activations},
        "nondeterministic": [],
        "generation": written["generation"],
    }


def _tools(lock: Lock, names: Collection[str]) -> dict[str, str]:
    return {name: lock.toolchain[name] for name in sorted({"python", "machine", *names})}
