# SPDX-License-Identifier: Apache-2.0
"""What a build measured, as policies judge it, checked against the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from packager.build import evaluations, generation, step_facts
from packager.build.made import Artefact, engine_of
from packager.build.step_facts import CaseFacts
from packager.canonical import JSON
from packager.contract import derivation
from packager.errors import StepError
from packager.recipe.lengths import OF_DATA, evaluate
from packager.recipe.recipe import Recipe
from packager.types import Result


def list_measured(recipe: Recipe, graph: Result, artefacts: list[Artefact]) -> dict[str, JSON]:
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
                "engine": engine_of(item.target),
                "tolerance": derivation.list_tolerances(recipe, item.target, outputs),
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


def settle_shapes(graph: Result, artefacts: list[Artefact]) -> Result:
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
