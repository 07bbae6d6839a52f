# SPDX-License-Identifier: Apache-2.0
"""The part of a build that recipes with a task have for themselves: other steps, other cases, tokens as reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from packager import plugins
from packager.build import evaluations, step_facts
from packager.canonical import JSON
from packager.errors import StepError
from packager.recipe.clauses import Target
from packager.recipe.evaluation import EvaluationSpec
from packager.runtime import load_runtime
from packager.server.generation.settings import MAX_RANK, TASK, TEMPLATE, TOKENIZER, Generation
from packager.store.store import Store
from packager.types import Action, Result, Tree

STEPS = 32
"""Tokens of an answer to a reference prompt."""
PROMPTS = "prompts.json"
AUDIO = "audio/"
VECTORS = (PROMPTS, "outputs.json")  # and audio; of what the step leaves; the logits are for the measurement alone


@dataclass(frozen=True, slots=True)
class Answers:
    """What the source answered to the reference prompts: the tree of the step, and the facts of the graph with it."""

    tree: str
    graph: Result
    rows: str | None = None
    """The tree with what the source writes of the rows of `evaluation`."""


def export_action(source: str, params: Mapping[str, JSON], tools: Mapping[str, str]) -> Action:
    """Return the export of a graph with a key-value cache."""
    return Action("export_generation", _version("export_generation"), {"source": source}, params, tools)


def reference_action(source: str, params: Mapping[str, JSON], tools: Mapping[str, str]) -> Action:
    """Return the run of the source alone."""
    chosen = {"steps": STEPS, **{name: params[name] for name in ("kind", "payload", "task") if name in params}}
    step = "reference_seq2seq" if "task" in params else "reference"
    return Action(step, _version(step), {"source": source}, chosen, tools)


def answer_rows_action(source: str, data: str, params: Mapping[str, JSON], tools: Mapping[str, str]) -> Action:
    """Return the run of the source on the rows of `evaluation`, whose file is in the tree `data`."""
    chosen = {name: params[name] for name in ("kind", "payload", "task")}
    return Action("answer_rows", _version("answer_rows"), {"source": source, "evaluation": data}, chosen, tools)


def evaluate_action(measured: Action, rows: str, data: str, spec: EvaluationSpec, tools: Mapping[str, str]) -> Action:
    """Return the evaluation of the artefact that `measured` measures, beside the source's answers in `rows`."""
    inputs = {name: measured.inputs[name] for name in ("graph", "artefact")}
    params = {**measured.params, "evaluation": evaluations.list_params(spec)}
    known = {**measured.toolchain, **tools}
    return Action(
        "evaluate_rows", _version("evaluate_rows"), {**inputs, "answers": rows, "evaluation": data}, params, known
    )


def of_task(task: str | None) -> dict[str, JSON]:
    """Return what the actions of a task say besides: nothing of a causal language model."""
    return {} if task in (None, TASK) else {"task": task}


def measure_action(
    answers: Answers, artefact: str, path: str, engine: str, target: Target, tools: Mapping[str, str]
) -> Action:
    """Return the measurement of an artefact against the answers."""
    inputs = {"reference": answers.tree, "graph": answers.graph.tree, "artefact": artefact}
    about = step_facts.read_graph(answers.graph)["generation"]
    special = about["special"]
    pair = "decoding" in about
    step = "measure_seq2seq" if pair else "measure_generation"
    params: dict[str, JSON] = {
        "runtime": engine,
        "path": path,
        "device": target.device,
        "generation": about if pair else {"bos": special["bos"], "eos": next(iter(special["eos"]), None)},
        **({"gpu": True} if target.device != "cpu" else {}),
    }
    names = {"python", "machine", *_TOOLS, *load_runtime(engine).toolchain}
    known = {name: version for name, version in tools.items() if name in names}
    return Action(step, _version(step), inputs, params, known)


_TOOLS = ("tokenizers", "jinja2", "numpy")


def _version(step: str) -> int:
    version: int = plugins.load("steps", step).VERSION
    return version


def complete(graph: Result, reference: Result, store: Store) -> Answers:
    """Return the answers, with the graph's facts as a contract needs them: digests of files, and lengths that ran."""
    files = dict(store.tree(graph.tree).files)
    template = files.get(TEMPLATE)
    exported = step_facts.read_graph(graph)
    about = {
        **exported["generation"],
        "tokenizer": files[TOKENIZER].digest,
        "template": template.digest if template else None,
    }
    try:
        Generation.from_json(about)
    except ValueError as error:
        raise StepError(f"what the export says of generation does not hold: {error}") from error
    interface = exported["interface"]
    context, longest = about["context"], min(step_facts.read_reference(reference)["longest"], about["context"])
    ran = {"min": 1, "max": longest, **({"limit": {"min": 1, "max": context}} if longest < context else {})}
    rank = {"min": 1, "max": 1, "limit": {"min": 1, "max": MAX_RANK}}  # of the model as it is: matrices of zeros
    spans = {"batch": interface["dimensions"]["batch"], "source": _of_source(about, reference), "rank": rank}
    dimensions = {name: spans.get(name, ran) for name in interface["dimensions"]}
    facts = {**exported, "generation": about, "interface": {**interface, "dimensions": dimensions}}
    return Answers(reference.tree, replace(graph, facts=facts))


def _of_source(about: Mapping[str, JSON], reference: Result) -> JSON:
    if "decoding" not in about:
        return None
    most = about["decoding"]["source"]
    ran = min(step_facts.read_reference(reference)["source"], most)
    return {"min": 1, "max": ran, **({"limit": {"min": 1, "max": most}} if ran < most else {})}


def list_vectors(answers: Answers, store: Store) -> Tree:
    """Return the prompts and the source's tokens, which take the place of tensors among the reference vectors."""
    found = {path: blob for path, blob in store.tree(answers.tree) if path in VECTORS or path.startswith(AUDIO)}
    return Tree.of(found)


def list_outputs(task: str) -> Sequence[str]:
    """Return what a measurement compares of every case."""
    step = "measure_seq2seq" if of_task(task) else "measure_generation"
    found: Sequence[str] = plugins.load("steps", step).OUTPUTS
    return found
