# SPDX-License-Identifier: Apache-2.0
"""What a recipe's `evaluation` adds to the measurement of a target, and what its rows and those of `samples` show."""

from __future__ import annotations

from collections.abc import Iterable

from packager.build.raw_inputs import RawInputs
from packager.build.step_facts import GraphFacts, MeasurementFacts
from packager.canonical import JSON
from packager.errors import StepError
from packager.recipe.evaluation import EvaluationSpec
from packager.server.telemetry.distribution_file import Distributions


def plan_measurement(
    spec: EvaluationSpec, graph: GraphFacts, pipeline: RawInputs | None
) -> tuple[dict[str, JSON], dict[str, str]]:
    """Return the parameters and the trees that the measurement needs besides. Bounds are judged later, and not here."""
    classes = {"classes": graph["classes"]} if "classes" in graph else {}
    return {"evaluation": list_params(spec), **classes}, {"pipeline": pipeline.tree} if pipeline else {}


def list_params(spec: EvaluationSpec) -> dict[str, JSON]:
    """Return what a step has to know of an evaluation."""
    params = spec.to_json()
    return {key: params[key] for key in ("label", "metric", "slices", "output") if key in params}


def list_facts(spec: EvaluationSpec | None, measured: MeasurementFacts) -> dict[str, JSON]:
    """Return what is known of a target besides: what it reaches, and what the recipe asks for."""
    if spec is None or "evaluation" not in measured:
        return {}
    bounds = {"bound": spec.bound} | ({} if spec.slice_bound is None else {"slice-bound": spec.slice_bound})
    return {"evaluation": {"metric": spec.metric, **bounds, **measured["evaluation"]}}


def find_distributions(measured: Iterable[MeasurementFacts]) -> Distributions | None:
    """Return the distributions of the recipe's rows, as the first target that was measured on them has them.

    Raises StepError where a worker answered something else.
    """
    found = next((item["distributions"] for item in measured if "distributions" in item), None)
    try:
        return None if found is None else Distributions.from_json(found)
    except ValueError as error:
        raise StepError(
            f"step `measure` answered with distributions of another form: {error}",
            hint="build again; if it stays so, look at what the model does before you open it anywhere",
        ) from None
