# SPDX-License-Identifier: Apache-2.0
"""What a build has made so far of a target, and where it makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packager.actions.runner import Runner
from packager.build import generation, step_facts
from packager.build.raw_inputs import RawInputs
from packager.build.step_facts import GraphFacts, MeasurementFacts
from packager.canonical import JSON
from packager.recipe.clauses import Target
from packager.runtime import load_runtime
from packager.types import Result, Tree

GRAPH = "model/model.onnx"  # where the export step leaves the canonical graph


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


def engine_of(target: Target) -> str:
    """Return the runtime that compiles and measures for a target: a server runs the artefacts of what is inside it."""
    return load_runtime(target.runtime).engine
