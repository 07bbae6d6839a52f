# SPDX-License-Identifier: Apache-2.0
"""The part of a build that recipes with a task have for themselves: other steps, other cases, tokens as reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from packager import plugins
from packager.canonical import JSON
from packager.recipe.recipe import Target
from packager.runtime import load_runtime
from packager.server.generation.settings import TEMPLATE, TOKENIZER
from packager.store.store import Store
from packager.types import Action, Result, Tree

STEPS = 32
"""Tokens of an answer to a reference prompt."""
PROMPTS = "prompts.json"
VECTORS = (PROMPTS, "outputs.json")  # of what the step leaves; the logits are for the measurement alone


@dataclass(frozen=True, slots=True)
class Answers:
    """What the source answered to the reference prompts: the tree of the step, and the facts of the graph with it."""

    tree: str
    graph: Result


def export_action(source: str, params: Mapping[str, JSON], tools: Mapping[str, str]) -> Action:
    """Return the export of a graph with a key-value cache."""
    return Action("export_generation", _version("export_generation"), {"source": source}, params, tools)


def reference_action(source: str, params: Mapping[str, JSON], tools: Mapping[str, str]) -> Action:
    """Return the run of the source alone."""
    asked = {"kind": params["kind"], "payload": params["payload"], "steps": STEPS}
    return Action("reference", _version("reference"), {"source": source}, asked, tools)


def measure_action(
    answers: Answers, artefact: str, path: str, engine: str, target: Target, tools: Mapping[str, str]
) -> Action:
    """Return the measurement of an artefact against the answers."""
    inputs = {"reference": answers.tree, "graph": answers.graph.tree, "artefact": artefact}
    special = answers.graph.facts["generation"]["special"]
    params: dict[str, JSON] = {
        "runtime": engine,
        "path": path,
        "device": target.device,
        "generation": {"bos": special["bos"], "eos": next(iter(special["eos"]), None)},
        **({"gpu": True} if target.device != "cpu" else {}),
    }
    names = {"python", "machine", *_TOOLS, *load_runtime(engine).toolchain}
    known = {name: version for name, version in tools.items() if name in names}
    return Action("measure_generation", _version("measure_generation"), inputs, params, known)


_TOOLS = ("tokenizers", "jinja2", "numpy")


def _version(step: str) -> int:
    version: int = plugins.load("steps", step).VERSION
    return version


def complete(graph: Result, reference: Result, store: Store) -> Answers:
    """Return the answers, with the graph's facts as a contract needs them: digests of files, and lengths that ran."""
    files = dict(store.tree(graph.tree).files)
    template = files.get(TEMPLATE)
    about = {
        **graph.facts["generation"],
        "tokenizer": files[TOKENIZER].digest,
        "template": template.digest if template else None,
    }
    interface = graph.facts["interface"]
    context, longest = about["context"], min(reference.facts["longest"], about["context"])
    ran = {"min": 1, "max": longest, **({"limit": {"min": 1, "max": context}} if longest < context else {})}
    dimensions = {name: span if name == "batch" else ran for name, span in interface["dimensions"].items()}
    facts = {**graph.facts, "generation": about, "interface": {**interface, "dimensions": dimensions}}
    return Answers(reference.tree, replace(graph, facts=facts))


def vectors(answers: Answers, store: Store) -> Tree:
    """Return the prompts and the source's tokens, which take the place of tensors among the reference vectors."""
    return Tree.of({path: blob for path, blob in store.tree(answers.tree) if path in VECTORS})


def outputs() -> Sequence[str]:
    """Return what a measurement compares of every case."""
    found: Sequence[str] = plugins.load("steps", "measure_generation").OUTPUTS
    return found
