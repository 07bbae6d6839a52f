# SPDX-License-Identifier: Apache-2.0
"""Make the pipeline of a bundle: what stands before and behind the graph, compared with the source's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packager import plugins
from packager.actions.runner import Runner
from packager.build import step_facts
from packager.canonical import JSON
from packager.lock import pipeline_tools
from packager.lock.lock import Lock
from packager.pipelines.strings import DEFAULT_COUNT
from packager.recipe.recipe import Recipe
from packager.server.pipeline.document import FILE
from packager.types import Action, Blob, Result

FOLDER = "pipeline"
_GRAPH = "model/model.onnx"


@dataclass(frozen=True, slots=True)
class RawInputs:
    """The tree of a pipeline, its files by their paths in the bundle, what the contract says, and what was measured."""

    tree: str
    files: Mapping[str, Blob]
    promise: Mapping[str, JSON]
    facts: Mapping[str, JSON]


def build(
    recipe: Recipe,
    lock: Lock,
    source: str,
    graph: Result,
    runner: Runner,
    environment: Callable[[], Path] | None,
    options: Mapping[str, JSON],
) -> RawInputs | None:
    """Derive and compare the pipeline that the recipe names; None where it names none. Raises StepError."""
    if recipe.pipeline is None:
        return None
    bounds = recipe.tolerance_for("", "fp32").to_json()
    params = {
        "kind": lock.kind,
        "payload": lock.payload,
        "path": _GRAPH,
        "interface": step_facts.read_graph(graph)["interface"],
        "pipeline": recipe.pipeline.to_json(),
        "strings": DEFAULT_COUNT,
        "bounds": bounds,
        **options,
    }
    exporter = plugins.load("exporters", lock.kind)
    names = {"python", "machine", *exporter.TOOLCHAIN, *pipeline_tools.list_tools(recipe.pipeline)}
    tools = {name: lock.toolchain[name] for name in sorted(names)}
    step = plugins.load("steps", "pipeline")
    action = Action("pipeline", step.VERSION, {"source": source, "graph": graph.tree}, params, tools)
    made = runner(
        action, f"compare the pipeline with the source's own ({recipe.pipeline.task})", virtualenv=environment
    )
    files = {f"{FOLDER}/{path}": blob for path, blob in runner.store.tree(made.tree)}
    path, compared = f"{FOLDER}/{FILE}", step_facts.read_pipeline(made)
    promise = {
        "task": compared["task"],
        "path": path,
        "digest": files[path].digest,
        "reference": compared["reference"],
        "inputs": compared["inputs"],
        "largest": compared["largest"],
        "tolerance": bounds,
    }
    return RawInputs(made.tree, files, promise, {"pipeline": made.facts})
