# SPDX-License-Identifier: Apache-2.0
"""What a recipe's `evaluation` adds to the measurement of a target, and to the facts about it."""

from __future__ import annotations

from packager.build.raw_inputs import RawInputs
from packager.build.step_facts import GraphFacts, MeasurementFacts
from packager.canonical import JSON
from packager.recipe.evaluation import EvaluationSpec


def plan_measurement(
    spec: EvaluationSpec, graph: GraphFacts, pipeline: RawInputs | None
) -> tuple[dict[str, JSON], dict[str, str]]:
    """Return the parameters and the trees that the measurement needs besides. Bounds are judged later, and not here."""
    params = spec.to_json()
    params = {key: params[key] for key in ("label", "metric", "slices", "output") if key in params}
    classes = {"classes": graph["classes"]} if "classes" in graph else {}
    return {"evaluation": params, **classes}, {"pipeline": pipeline.tree} if pipeline else {}


def list_facts(spec: EvaluationSpec | None, measured: MeasurementFacts) -> dict[str, JSON]:
    """Return what is known of a target besides: what it reaches, and what the recipe asks for."""
    if spec is None or "evaluation" not in measured:
        return {}
    bounds = {"bound": spec.bound} | ({} if spec.slice_bound is None else {"slice-bound": spec.slice_bound})
    return {"evaluation": {"metric": spec.metric, **bounds, **measured["evaluation"]}}
