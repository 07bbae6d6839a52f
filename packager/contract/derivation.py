# SPDX-License-Identifier: Apache-2.0
"""Derive a contract from what the exported graph is and what the recipe promises.

Interface, opset, IR and operators come from the graph itself, the versions it loads on from the knowledge that ships;
only the promises (`runs-on`), tolerances and objectives come from the recipe. Nothing of the host enters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from packager.canonical import JSON
from packager.contract import runtime_support, runtime_tables
from packager.contract.contract import STABILITIES, Base, Contract
from packager.contract.format_numbers import FORMAT
from packager.edits import Edit
from packager.errors import StepError
from packager.graph import saturation
from packager.recipe.clauses import RunsOn, Target, Tolerance
from packager.recipe.recipe import Recipe

Artefacts = Mapping[str, str]  # target name -> path of its graph inside the bundle
Graphs = Mapping[str, Mapping[str, JSON]]  # target name -> facts of its graph, where it is not the main one


def derive(
    recipe: Recipe,
    exported: Mapping[str, JSON],
    artefacts: Artefacts,
    compiled: Graphs | None = None,
    about: Graphs | None = None,
    pipeline: Mapping[str, JSON] | None = None,
) -> JSON:
    """Return the contract as JSON. `exported` are the facts of the export step, `compiled` those of other graphs.

    `about` says of a target what its artefact is; its `reproducibility` is what a rebuild gives: the same bytes
    (`bitwise`, by default), or other bytes with the same function (`recorded`). `pipeline` is what is said of the raw
    inputs that the bundle takes besides tensors.

    Raises StepError when a promise is known not to hold.
    """
    interface, main, own, known = exported["interface"], exported["graph"], compiled or {}, about or {}
    outputs = [output["name"] for output in interface["outputs"]]
    if "generation" in exported:
        outputs = ["logits"]  # what the cache holds is not compared, only what comes of it
    check_promises(recipe, main, own)
    value = {
        "format": FORMAT,
        "interface": interface,
        "ranges": exported["ranges"],
        **_values(recipe, exported),
        "graph": _graph(main),
        "runs-on": {entry.runtime: promise_of(entry.runtime, entry.versions, main) for entry in recipe.runs_on},
        "targets": {
            target.name: {
                **target.to_json(),
                "path": artefacts[target.name],
                "tolerance": list_tolerances(recipe, target, outputs),
                "needs": _needs(target, main, own.get(target.name)),
                "stability": known.get(target.name, {}).get("reproducibility", STABILITIES[0]),
                **({"artefact": known[target.name]} if target.name in known else {}),
                **({"graph": _graph(own[target.name])} if target.name in own else {}),
            }
            for target in recipe.targets()
        },
    }
    value |= {key: exported[key] for key in ("classes", "generation") if exported.get(key)}
    value |= {"pipeline": pipeline} if pipeline else {}
    return value | ({"slo": recipe.slo.to_json()} if recipe.slo else {})


def derive_adapter(recipe: Recipe, base: Contract, identity: Base, about: Graphs, path: str) -> JSON:
    """Return the contract of an adapter: what its base takes, gives and needs, by that bundle's contract.

    `about` says of a target what the adapter's artefact is; `path` is where the bundle has it. Versions of runtimes
    are the base's promise alone.
    """
    written = base.document
    kept = ("format", "interface", "ranges", "values", "missing", "graph", "generation")
    targets = {}
    for name, terms in base.targets.items():
        tolerance = list_tolerances(recipe, terms.target, ["logits"])
        artefact = {"stability": STABILITIES[0], "artefact": about[name]}
        targets[name] = {**written["targets"][name], "path": path, "tolerance": tolerance, **artefact}
    return {
        **{key: written[key] for key in kept if key in written},
        "runs-on": {},
        "targets": targets,
        "base": {"name": identity.name, "version": identity.version, "digest": identity.digest},
    }


def _values(recipe: Recipe, exported: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return the limits of values, and the inputs in which a number may be missing.

    A limit is what the recipe states, and what the source refuses; a range that is only measured is none.
    """
    stated = {name for name, spec in (recipe.inputs or {}).items() if spec.range is not None}
    found: dict[str, JSON] = {
        name: {"min": low, "max": high}
        for name, (low, high) in exported["ranges"].items()
        if name in stated or name in exported.get("firm", ())
    }
    found |= {name: {"values": listed} for name, listed in exported.get("values", {}).items()}
    return {"values": found, **({"missing": exported["missing"]} if exported.get("missing") else {})}


def list_tolerances(recipe: Recipe, target: Target, outputs: Sequence[str]) -> Mapping[str, JSON]:
    """Return the tolerance of every output of a target."""
    return {name: _tolerance(recipe, target, name).to_json() for name in outputs}


_OF_TASK = Tolerance(1e-3, 1e-4)
"""Of logits, where a recipe with a task states none: ten times what another order of sums was seen to move them by."""


def _tolerance(recipe: Recipe, target: Target, name: str) -> Tolerance:
    """Return the tolerance of an output; of all that a task gives that of the logits, by which tokens tie."""
    if recipe.task is None:
        return recipe.tolerance_for(name, target.precision)
    found = recipe.tolerance_for("logits", target.precision)
    return _OF_TASK if found == Tolerance() else found


def check_promises(recipe: Recipe, main: Mapping[str, JSON], own: Graphs) -> None:
    """Raise StepError for the first promised version that is known not to load a graph it is promised for.

    What is unknown is no error here: `packager conform` proves it.
    """
    for promise in recipe.runs_on:
        targets = [target.name for target in recipe.targets() if target.runtime == promise.runtime]
        for row in runtime_support.list_promised(runtime_tables.load_shipped(promise.runtime), promise.versions):
            for name in targets:
                graph = own.get(name, main)
                answer = runtime_support.judge_graph(graph, promise.runtime, row.version, runtime_tables.load_shipped)
                if answer.outcome == "no":
                    reason = answer.reasons[0]
                    hint, instead = _narrower(graph, promise, reason)
                    others = [other.fix for other in answer.reasons if other.fix]
                    raise StepError(
                        f"target `{name}` cannot keep `{promise.runtime}{promise.versions}`: {reason.message}",
                        hint=", or ".join((hint, *others[:1])),
                        edits=[Edit(("runs-on", promise.runtime, "versions"), instead)] if instead else (),
                    )


def _narrower(graph: Mapping[str, JSON], promise: RunsOn, reason: runtime_support.Reason) -> tuple[str, str | None]:
    """Return what to promise instead, in words and as a range.

    What is known to load the graph, else what is not known to refuse it.
    """
    if loads := runtime_support.loads_on(graph, promise.runtime):
        return f'promise `{promise.runtime}: "{loads}"` under `runs-on`', loads
    rows = runtime_support.list_promised(runtime_tables.load_shipped(promise.runtime), promise.versions)
    later = [
        row.version
        for row in sorted(rows, key=lambda row: runtime_tables.version_key(row.version))
        if runtime_support.judge_graph(graph, promise.runtime, row.version, runtime_tables.load_shipped).outcome != "no"
    ]
    if not later:
        return "promise another runtime", None
    needed = f"reads {reason.subject} {graph['opset'][reason.subject]}" if reason.limit == "opset" else "may load it"
    return f'raise `runs-on` to `{promise.runtime}: ">={later[0]}"`, the first that {needed}', f">={later[0]}"


def _graph(facts: Mapping[str, JSON]) -> JSON:
    return {key: facts[key] for key in ("opset", "ir", "operators", "parameters", "bytes")}


def promise_of(runtime: str, versions: str, main: Mapping[str, JSON]) -> JSON:
    """Return the promised and the derived range, and what the oldest promised version needs.

    The oldest decides, and a table that only grew at its end derives the same: both keep digests as they are.
    """
    rows = runtime_support.list_promised(runtime_tables.load_shipped(runtime), versions)
    value: dict[str, JSON] = {"versions": versions, "loads": runtime_support.loads_on(main, runtime)}
    if rows:
        oldest = rows[0]
        known = {
            "python": list(oldest.python),
            "numpy": oldest.numpy,
            "cuda": oldest.cuda,
            "driver": oldest.driver,
            "capability": oldest.capability,
        }
        value["oldest"] = {"version": oldest.version} | {key: member for key, member in known.items() if member}
    return value


def _needs(target: Target, main: Mapping[str, JSON], own: Mapping[str, JSON] | None) -> JSON:
    """Return what a host must have: CPU features beyond its architecture's, a GPU, and an estimate of memory.

    `activations` counts the intermediate values of one request of the largest promised size in fp32, `peak` is what a
    process of ONNX Runtime comes to take on a CPU with such requests, weights among it. `exact` are the
    features of which an x86-64 CPU must have one for 8-bit sums to be exact: without it answers move by whole steps.
    """
    activations = main["activations"]
    memory = {"weights": (own or main)["bytes"], "activations": activations["bytes"], "unknown": activations["unknown"]}
    if "working" in activations and (target.runtime, target.device) == ("onnxruntime", "cpu"):
        memory["peak"] = memory["weights"] + activations["working"]
    capability = re.fullmatch(r"sm_([0-9]+)([0-9])", target.device)
    gpu = {"capability": f"{capability[1]}.{capability[2]}"} if capability else {}
    depends = target.device == "cpu" and (own or main).get("saturates")
    return {"cpu": [], "memory": memory, **gpu, **({"exact": list(saturation.EXACT)} if depends else {})}
