# SPDX-License-Identifier: Apache-2.0
"""The contract of a bundle: what it takes, what it gives, what it needs, how exact it promises to be.

Derived from what the exported graph is, not from what somebody typed: the interface, opset, IR and operators come
from the graph itself; only the promises (`runs-on`) and the tolerances come from the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from packager.canonical import JSON
from packager.recipe import Recipe, Target

FORMAT = 1
Artefacts = Mapping[str, str]  # target name -> path of its graph inside the bundle


def derive(recipe: Recipe, exported: Mapping[str, JSON], artefacts: Artefacts) -> JSON:
    """Return the contract as JSON. `exported` are the facts of the export step."""
    interface = exported["interface"]
    outputs = [output["name"] for output in interface["outputs"]]
    return {
        "format": FORMAT,
        "interface": interface,
        "ranges": exported["ranges"],
        "graph": {key: exported["graph"][key] for key in ("opset", "ir", "operators")},
        "runs-on": {promise.runtime: {"versions": promise.versions} for promise in recipe.runs_on},
        "targets": {
            target.name: {
                **target.to_json(),
                "path": artefacts[target.name],
                "tolerance": bounds(recipe, target, outputs),
            }
            for target in recipe.targets()
        },
    }


def bounds(recipe: Recipe, target: Target, outputs: Sequence[str]) -> Mapping[str, JSON]:
    """Return the tolerance of every output of a target."""
    return {name: recipe.tolerance_for(name, target.precision).to_json() for name in outputs}
