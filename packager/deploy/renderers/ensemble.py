# SPDX-License-Identifier: Apache-2.0
"""A chain of rendered models as one more model of the same repository: Triton's ensemble scheduler runs the steps.

<name>/config.pbtxt              steps with `model_version: -1`: whatever version of them is served
<name>/configs/<site>.pbtxt      the same where a step has a configuration for the site
<name>/<N>/deployment.json       the pipeline, and of every step the bundle and the knobs it was checked with
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from packager import canonical
from packager.canonical import JSON
from packager.deploy.renderers import _wiring
from packager.deploy.renderers._modelconfig import Field, Rendered, build_map, build_tensor, config_text
from packager.deploy.triton.pipeline import Pipeline
from packager.deploy.triton.repository import CONFIG, RECORD, SITES

ABOUT = "an ensemble of a Triton model repository"
KIND = "ensemble"


@dataclass(frozen=True, slots=True)
class Served:
    """What a configuration of a step serves: the version's number and record, the knobs and the largest batch."""

    number: int
    record: JSON
    knobs: str
    batch: int

    def about(self, model: str) -> JSON:
        return {
            "model": model,
            "number": self.number,
            "version": self.record["version"],
            "bundle": self.record["bundle"],
            "knobs": self.knobs,
        }


Steps = Mapping[str, Served]


def build_record(pipeline: Pipeline, steps: Steps, sites: Mapping[str, Steps]) -> JSON:
    """Return what identifies a version of an ensemble. Raises UsageError if the steps do not fit."""
    return {
        "kind": KIND,
        "name": pipeline.name,
        "pipeline": pipeline.to_json(),
        **_whole(pipeline, steps),
        "sites": {site: _whole(pipeline, found) for site, found in sites.items()},
    }


def _whole(pipeline: Pipeline, steps: Steps) -> dict[str, JSON]:
    interfaces = {model: served.record["interface"] for model, served in steps.items()}
    batch = min(steps[step.model].batch for step in pipeline.steps)
    return {
        "steps": [steps[step.model].about(step.model) for step in pipeline.steps],
        "batch": batch,
        "interface": _wiring.join_interfaces(pipeline, interfaces, batched=batch > 0),
    }


def render(pipeline: Pipeline, about: JSON, number: int) -> Rendered:
    """Return the files of version `number` of the ensemble with this record."""
    own = config_text(_config(pipeline, about, number))
    made = {f"{number}/{RECORD}": canonical.dump(about), f"{number}/{CONFIG}": own, CONFIG: own}
    for site, found in about["sites"].items():
        made[f"{SITES}/{site}.pbtxt"] = config_text(_config(pipeline, found, number))
    return Rendered(pipeline.name, made, {}, about)


def _config(pipeline: Pipeline, about: JSON, number: int) -> dict[str, Field]:
    """Return the configuration; a batch of 0 leaves rows to the tensors, as a step does that counts none."""
    tags = {"pipeline": canonical.sha256(canonical.dump(pipeline.to_json()))}
    for place, step in enumerate(about["steps"], 1):
        tags |= {f"bundle_{place}": step["bundle"], f"knobs_{place}": step["knobs"]}
    steps: list[Field] = [
        {
            "model_name": step.model,
            "model_version": -1,
            "input_map": build_map(step.inputs),
            "output_map": build_map(step.outputs),
        }
        for step in pipeline.steps
    ]
    return {
        "name": pipeline.name,
        "platform": "ensemble",
        "max_batch_size": about["batch"],
        "input": [build_tensor(**port, batched=about["batch"] > 0) for port in about["interface"]["inputs"]],
        "output": [build_tensor(**port, batched=about["batch"] > 0) for port in about["interface"]["outputs"]],
        "version_policy": {"specific": {"versions": [number]}},
        "metric_tags": build_map(tags),
        "ensemble_scheduling": {"step": steps},
    }
