# SPDX-License-Identifier: Apache-2.0
"""The recipe: `bundle.yaml`, parsed once, completely, into plain records.

`name`, `version` and `source` are a complete recipe; all else has a default that is written out in the record, so a
`Recipe` never holds "not yet known". Everything unknown is an error that names its line: a typo never passes
silently. Comments, order and layout carry no meaning: two texts with one meaning have one `digest`.

Laws: `from_json(to_json(recipe)) == recipe`; `to_json` written as JSON is itself a valid `bundle.yaml`; `parse` either
returns a recipe or raises UsageError. `recipe.schema.json` beside this file says the same to editors.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packager import canonical, strictyaml
from packager.canonical import JSON
from packager.edits import Edit
from packager.errors import UsageError, close_match, did_you_mean
from packager.recipe import evaluation, fields, int4, pipeline
from packager.recipe.clauses import (
    Dataset,
    ExportSettings,
    InputSpec,
    Limits,
    Objectives,
    RunsOn,
    SourceTrust,
    Target,
    Tolerance,
    built_in_tolerance,
)
from packager.recipe.evaluation import EvaluationSpec
from packager.recipe.fields import DEVICE, DIMENSION, DTYPES, LOSSY, PRECISIONS, RUNTIME
from packager.recipe.int4 import Int4
from packager.recipe.lengths import Axis
from packager.recipe.pipeline import PipelineSpec
from packager.strictyaml import Node, Scalar, Table

TASK = fields.TASKS[0]
_PROMISE = ("versions", "precision", "devices", "timing-cache")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A parsed `bundle.yaml`. Mappings carry no order; paths are relative to the recipe's directory."""

    name: str
    version: str
    source: str
    task: str | None = None
    adapters: tuple[str, ...] = ()
    base: str | None = None
    registry: str | None = None
    license: str | None = None
    description: str | None = None
    authors: tuple[str, ...] = ()
    card: str | None = None
    inputs: Mapping[str, InputSpec] | None = None
    dynamic: Mapping[str, Axis] = field(default_factory=dict)
    runs_on: tuple[RunsOn, ...] = (RunsOn("onnxruntime", ">=1.17"),)
    tolerance: Mapping[str, Tolerance] = field(default_factory=built_in_tolerance)
    samples: str | None = None
    calibration: str | None = None
    int4: Int4 = field(default_factory=Int4)
    allow_pickle: bool = False
    dequantize: bool = False
    allow_code: str | None = None
    custom_domains: tuple[str, ...] = ()
    toolchain: str = "host"
    sandbox: str = "required"
    export: ExportSettings = field(default_factory=ExportSettings)
    limits: Limits = field(default_factory=Limits)
    slo: Objectives | None = None
    previous: str | None = None
    policy: str = "release"
    platforms: tuple[str, ...] | None = None
    vendor: tuple[str, ...] = ()
    dependencies: str | None = None
    datasets: tuple[Dataset, ...] = ()
    pipeline: PipelineSpec | None = None
    evaluation: EvaluationSpec | None = None
    trust: SourceTrust | None = None

    def targets(self) -> tuple[Target, ...]:
        """Return what the artefacts are compiled for, sorted by name."""
        found = (
            Target(promise.runtime, device, precision)
            for promise in self.runs_on
            for device, precision in itertools.product(promise.devices, promise.precision)
        )
        return tuple(sorted(found, key=lambda target: target.name))

    def tolerance_for(self, output: str, precision: str) -> Tolerance:
        """Return the tolerance of one output: its own entry, else its precision's, else the default.

        `mixed` is fp16 where that is harmless, so what holds for fp16 holds for it unless it has an entry.
        """
        like = {"mixed": "fp16"}.get(precision, "default")
        return self.tolerance.get(output) or self.tolerance.get(precision) or self.tolerance[like]

    def promise(self, runtime: str) -> RunsOn:
        """Return what the recipe promises of a runtime it names."""
        return next(promise for promise in self.runs_on if promise.runtime == runtime)

    def check_outputs(self, outputs: Collection[str]) -> None:
        """Refuse a tolerance for an output that the graph does not have, and an output of int8 or int4 without one."""
        for target in self.targets():
            for name in sorted(outputs) if target.precision.startswith(LOSSY) else ():
                if not self.tolerance.keys() & {name, target.precision}:
                    raise no_tolerance(target.precision)
        for name in sorted(set(self.tolerance) - {"default", *PRECISIONS, *outputs}):
            known = {"default", *PRECISIONS, *outputs}
            close = close_match(name, known) or (next(iter(outputs)) if len(outputs) == 1 else None)
            raise UsageError(
                f"`tolerance` names `{name:.60}`, which is neither a precision nor an output",
                hint=did_you_mean(name, known),
                edits=[Edit(("tolerance", name), rename=close)] if close else (),
            )

    def to_json(self) -> JSON:
        """Return the recipe as written out in full; what is None is left out, and a toolchain that is the host's."""
        value = {
            "name": self.name,
            "version": self.version,
            "source": self.source,
            "task": self.task,
            "adapters": list(self.adapters) or None,
            "base": self.base,
            "registry": self.registry,
            "license": self.license,
            "description": self.description,
            "authors": list(self.authors),
            "card": self.card,
            "inputs": self.inputs and {name: spec.to_json() for name, spec in self.inputs.items()},
            "dynamic": {name: axis.to_json() for name, axis in self.dynamic.items()},
            "runs-on": None if self.base else {promise.runtime: promise.to_json() for promise in self.runs_on},
            "tolerance": {name: tolerance.to_json() for name, tolerance in self.tolerance.items()},
            "samples": self.samples,
            "calibration": self.calibration,
            "int4": self.int4.to_json() if _has_int4(self.runs_on) else None,
            "allow-pickle": self.allow_pickle,
            "allow-code": self.allow_code,
            "dequantize": self.dequantize or None,
            "custom-domains": list(self.custom_domains) or None,
            "toolchain": None if self.toolchain == "host" else self.toolchain,
            "sandbox": None if self.sandbox == "required" else self.sandbox,
            "export": None if self.base else self.export.to_json(),
            "limits": self.limits.to_json(),
            "slo": self.slo and self.slo.written(),
            "previous": self.previous,
            "policy": self.policy,
            "platforms": None if self.platforms is None else list(self.platforms),
            "vendor": list(self.vendor) or None,
            "dependencies": self.dependencies,
            "datasets": [item.to_json() for item in self.datasets] or None,
            "pipeline": self.pipeline and self.pipeline.to_json(),
            "evaluation": self.evaluation and self.evaluation.to_json(),
            "trust": self.trust and self.trust.to_json(),
        }
        return {key: member for key, member in value.items() if member is not None}

    @property
    def digest(self) -> str:
        """Identity of the meaning: sha256 of the canonical JSON of `to_json`."""
        return canonical.sha256(canonical.dump(self.to_json()))


def no_tolerance(precision: str) -> UsageError:
    """Return the error of a target that loses more than any default could allow."""
    return UsageError(
        f"`{precision}` is promised without a tolerance: how much it may lose depends on the model",
        hint=f"add `tolerance: {{{precision}: {{atol: 0.1, rtol: 0.1}}}}` with what your model can afford",
        edits=[Edit(("tolerance", precision), {"atol": 0.1, "rtol": 0.1}, consents=True)],
    )


def parse(data: bytes | str, file: str, known_runtimes: Collection[str] | None = None) -> Recipe:
    """Parse the text of a recipe; `file` is what messages call it.

    With `known_runtimes` an unknown runtime is an error with its line. Raises UsageError.
    """
    node = strictyaml.parse(data, file)
    members = strictyaml.read_fields(node, "recipe", _READERS, required=("name", "version", "source"))
    if known_runtimes is not None and "runs-on" in members:
        _check_runtimes(strictyaml.read_table(members["runs-on"], "runs-on"), known_runtimes)
    if "task" in members:
        _check_task(members)
    if {"adapters", "base"} & set(members):
        _check_adapters(members)
    values = {key.replace("-", "_"): _READERS[key](member) for key, member in members.items()}
    if "int4" in members and not _has_int4(values.get("runs_on", ())):
        raise members["int4"].where.error(
            "`int4` has no meaning where no target has that precision",
            hint="write `precision: [fp32, int4]` under `runs-on`, or remove `int4`",
        )
    if values.get("evaluation") is not None:
        evaluation.check_task(members["evaluation"], values["evaluation"], values.get("task"))
    return Recipe(**values, runs_on=()) if "base" in members else Recipe(**values)


def _has_int4(promises: Collection[RunsOn]) -> bool:
    return any(int4.PRECISION in promise.precision for promise in promises)


def _check_task(members: Mapping[str, Node]) -> None:
    """Refuse what says something of single tensors beside a task, whose inputs and measurement follow from the task."""
    for key in ("inputs", "dynamic", "samples", "calibration", "pipeline"):
        if key in members and members[key] != Table((), members[key].where):  # written out in full, it is empty
            raise members[key].where.error(
                f"`{key}` has no meaning beside `task`: what is measured are prompts and their tokens",
                hint=f"remove `{key}`, or remove `task` for a graph of one pass",
            )


_OF_BASE = (
    "adapters",
    "allow-code",
    "custom-domains",
    "dependencies",
    "dequantize",
    "export",
    "int4",
    "platforms",
    "runs-on",
    "slo",
    "toolchain",
    "vendor",
)


def _check_adapters(members: Mapping[str, Node]) -> None:
    """Refuse `adapters` and `base` without the task they are for, and what of an adapter its base says."""
    key = "base" if "base" in members else "adapters"
    task = members.get("task")
    if not isinstance(task, Scalar) or task.text != TASK:
        raise members[key].where.error(f"`{key}` is for language models", hint=f"add `task: {TASK}`")
    for other in _OF_BASE if key == "base" else ():
        if other in members:
            raise members[other].where.error(
                f"`{other}` has no meaning beside `base`: an adapter runs in its base, as that promises",
                hint=f"remove `{other}`",
            )


def load(path: Path, known_runtimes: Collection[str] | None = None) -> Recipe:
    """Parse the recipe at `path`. Raises UsageError, also when it is not there."""
    data = strictyaml.load(path, missing="write one with `packager init SOURCE`")
    return parse(data, str(path), known_runtimes)


def from_json(value: JSON) -> Recipe:
    """Return the recipe that `to_json` wrote, checked as strictly as if a person had written it."""
    return parse(canonical.dump(value), "recipe.json")


def _inputs(node: Node) -> dict[str, InputSpec]:
    """Sorted by name, so that nothing can come to depend on the order in which they were written."""
    entries = strictyaml.read_table(node, "inputs", least=1).entries
    return {fields.entry_name(key, "inputs"): _input(key.text, member) for key, member in _by_name(entries)}


def _by_name(entries: tuple[tuple[Scalar, Node], ...]) -> list[tuple[Scalar, Node]]:
    return sorted(entries, key=lambda entry: entry[0].text)


def _input(name: str, node: Node) -> InputSpec:
    what = f"inputs.{name}"
    members = strictyaml.read_fields(node, what, ("dtype", "shape", "range", "values"))
    if not members:
        raise node.where.error(f"`{what}` states nothing", hint="write its `dtype`, `shape`, `range` or `values`")
    if {"range", "values"} <= set(members):
        raise node.where.error(f"`{what}`: `values` lists every value, so `range` has no meaning", hint="remove it")
    dtype = strictyaml.read_choice(members["dtype"], f"{what}.dtype", DTYPES) if "dtype" in members else None
    sizes = strictyaml.read_items(members["shape"], f"{what}.shape", most=64) if "shape" in members else None
    shape = None if sizes is None else tuple(fields.read_dimension(size, f"{what}.shape") for size in sizes)
    span = fields.value_range(members["range"], f"{what}.range", dtype) if "range" in members else None
    listed = fields.read_values(members["values"], f"{what}.values", dtype) if "values" in members else ()
    return InputSpec(dtype, shape, span, listed)


def _dynamic(node: Node) -> dict[str, Axis]:
    entries = strictyaml.read_table(node, "dynamic").entries
    found = {
        fields.entry_name(key, "dynamic", DIMENSION): fields.read_axis(key.text, member)
        for key, member in _by_name(entries)
    }
    for key, _ in entries:
        followed = found[key.text].tied
        if followed and (followed[1] == key.text or (followed[1] in found and found[followed[1]].tied)):
            problem = f"`dynamic.{key.text}`: `{followed[1]}` follows something itself"
            raise key.where.error(problem, hint="name the dimension that is free")
    return found


def _runs_on(node: Node) -> tuple[RunsOn, ...]:
    entries = strictyaml.read_table(node, "runs-on", least=1).entries
    return tuple(_promise(fields.entry_name(key, "runs-on", RUNTIME), member) for key, member in _by_name(entries))


def _promise(runtime: str, node: Node) -> RunsOn:
    what = f"runs-on.{runtime}"
    if isinstance(node, Scalar):
        return RunsOn(runtime, fields.read_versions(node, what))
    members = strictyaml.read_fields(node, what, _PROMISE, required=("versions",))
    versions = fields.read_versions(members.pop("versions"), f"{what}.versions")
    precision = fields.read_words(members.get("precision"), f"{what}.precision", ("fp32",), "|".join(PRECISIONS))
    devices = fields.read_words(members.get("devices"), f"{what}.devices", ("cpu",), DEVICE)
    cache = members.get("timing-cache")
    timings = None if cache is None else fields.timing_cache(cache, f"{what}.timing-cache")
    return RunsOn(runtime, versions, precision, devices, timings)


def _check_runtimes(promises: Table, known: Collection[str]) -> None:
    for key, _ in promises.entries:
        if key.text not in known:
            close = close_match(key.text, known)
            raise key.where.error(
                f"runtime `{key.text:.60}` is unknown",
                hint=did_you_mean(key.text, known),
                change=(key.text, close) if close else None,
            )


def _tolerance(node: Node) -> dict[str, Tolerance]:
    """What an entry leaves out comes from the built-in entry of that name, else from `default`."""
    found = built_in_tolerance()
    entries = sorted(
        strictyaml.read_table(node, "tolerance").entries, key=lambda e: (e[0].text != "default", e[0].text)
    )
    for key, member in entries:
        what = f"tolerance.{fields.entry_name(key, 'tolerance')}"
        members = strictyaml.read_fields(member, what, ("atol", "rtol"))
        base = found.get(key.text, found["default"]).to_json()
        written = {part: strictyaml.read_number(value, f"{what}.{part}", 0, 1e6) for part, value in members.items()}
        found[key.text] = Tolerance(**{**base, **written})
    return found


def _export(node: Node) -> ExportSettings:
    members = strictyaml.read_fields(node, "export", ("opset", "seed", "signature"))
    named = members.pop("signature", None)
    bounds = {"opset": (7, 99), "seed": (0, 2**32 - 1)}
    found = {key: strictyaml.read_integer(part, f"export.{key}", *bounds[key]) for key, part in members.items()}
    return ExportSettings(**found, signature=None if named is None else fields.read_signature(named))


def _limits(node: Node) -> Limits:
    members = strictyaml.read_fields(node, "limits", ("memory", "minutes"))
    readers = {"memory": fields.read_memory, "minutes": fields.read_minutes}
    return Limits(**{key: readers[key](part) for key, part in members.items()})


def _slo(node: Node) -> Objectives:
    members = strictyaml.read_fields(node, "slo", ("p50_ms", "p99_ms", "at_rps", "cold_start_s", "memory"))
    memory = fields.read_memory(members.pop("memory"), "slo.memory") if "memory" in members else None
    found = {key: strictyaml.read_number(part, f"slo.{key}", 1e-3, 1e9) for key, part in members.items()}
    if "at_rps" in found and not {"p50_ms", "p99_ms"} & set(found):
        raise node.where.error("`slo`: `at_rps` says at which rate a latency holds", hint="add `p99_ms`")
    return Objectives(**found, memory=memory)


def _datasets(node: Node) -> tuple[Dataset, ...]:
    found = []
    for item in strictyaml.read_items(node, "datasets", least=1, most=1000):
        members = strictyaml.read_fields(item, "datasets", tuple(fields.DATASET), required=("name",))
        found.append(Dataset(**{key: fields.DATASET[key](part) for key, part in members.items()}))
    return tuple(sorted(found, key=lambda dataset: (dataset.name, dataset.uri or "")))


_TRUST_WAYS = (
    ({"key"}, set[str]()),
    ({"ca", "identity"}, {"ca-intermediates", "tsa-ca"}),
    ({"identity", "issuer"}, {"trust-config"}),
)


def _trust(node: Node) -> SourceTrust:
    names = tuple(name.replace("_", "-") for name in SourceTrust.__slots__)
    members = strictyaml.read_fields(node, "trust", names)
    said = set(members) - {"signature"}
    if not any(need <= said <= need | may for need, may in _TRUST_WAYS):
        raise node.where.error(
            "`trust` names no signer, or two",
            hint="write `key: publisher.pub`, `ca: root.pem` with `identity: NAME`, or `identity: NAME` with "
            "`issuer: URL`",
        )
    return SourceTrust(**{name.replace("-", "_"): fields.trust_member(part, name) for name, part in members.items()})


_READERS: Mapping[str, Callable[[Node], Any]] = {
    "name": fields.read_name,
    "version": fields.read_version,
    "source": fields.read_source,
    "task": fields.read_task,
    "adapters": fields.read_adapters,
    "base": fields.read_base,
    "registry": fields.read_registry,
    "license": fields.read_licence,
    "description": fields.read_description,
    "authors": fields.read_authors,
    "card": fields.read_card,
    "inputs": _inputs,
    "dynamic": _dynamic,
    "runs-on": _runs_on,
    "tolerance": _tolerance,
    "samples": fields.read_samples,
    "calibration": fields.read_calibration,
    "int4": int4.read,
    "allow-pickle": fields.allow_pickle,
    "allow-code": fields.allow_code,
    "dequantize": fields.read_dequantize,
    "custom-domains": fields.custom_domains,
    "toolchain": fields.read_toolchain,
    "sandbox": fields.read_sandbox,
    "export": _export,
    "limits": _limits,
    "slo": _slo,
    "previous": fields.read_previous,
    "policy": fields.read_policy,
    "platforms": fields.platform_names("platforms"),
    "vendor": fields.platform_names("vendor"),
    "dependencies": fields.read_dependencies,
    "datasets": _datasets,
    "pipeline": pipeline.read,
    "evaluation": evaluation.read,
    "trust": _trust,
}
