# SPDX-License-Identifier: Apache-2.0
"""The configuration that `packager install` writes beside the model it serves.

    {"name": "digits", "version": "1.4.0", "digest": "sha256:…", "runtime": "onnxruntime",
     "target": "onnxruntime-cpu-fp32", "device": "cpu", "artefact": "targets/onnxruntime-cpu-fp32/model.onnx",
     "interface": {"inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 1, 8, 8]}], "outputs": […],
                   "dimensions": {"batch": {"min": 1, "max": 64}}},
     "ranges": {"x": [0, 1]}, "slo": {"p99_ms": 5}}

`artefact` is relative to the configuration's own directory. `device` is `cpu` where it is left out; `ranges` (plausible
values, by input), `values` (those that are allowed), `missing` (inputs in which a number may be missing), `slo`,
`reference`, the folder of the bundle's reference inputs, `pipeline`, `path` and `digest` of the document that says how
raw inputs become tensors, and `generation`, what the contract of a bundle that generates text says, with `files`, the
folder of the bundle, may be left out, and so may `distributions`, those of the data that the bundle was measured on.
Unknown keys are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from packager.server.errors import StartError, quote
from packager.server.fields import record, text
from packager.server.generation.settings import Generation
from packager.server.protocol.interface import Interface
from packager.server.protocol.values import Values
from packager.server.telemetry.distribution_file import Distributions

_KEYS = frozenset({"name", "version", "digest", "runtime", "target", "artefact", "interface"})
ADAPTERS = "adapters"  # beside the configuration; what is in it is no part of the installed release
_RUNTIME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class PipelineFile:
    """The document of a pipeline, and the digest that the contract states."""

    path: Path
    digest: str


@dataclass(frozen=True, slots=True)
class Config:
    """One installed model: its identity, runtime, artefact and interface."""

    name: str
    version: str
    digest: str
    runtime: str
    target: str
    device: str
    artefact: Path
    interface: Interface
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    p99_seconds: float | None = None
    reference: Path | None = None
    generation: Generation | None = None
    files: Path | None = None
    pipeline: PipelineFile | None = None
    distributions: Distributions | None = None
    adapters: Path | None = None

    def with_limits(self, to: str) -> Config:
        """Return this configuration with the limits that the contract states, or `measured` ones."""
        return replace(self, interface=self.interface.limited_to_measured()) if to == "measured" else self

    def with_rows(self, most: int | None) -> Config:
        """Return this configuration with requests of at most `most` rows; None changes nothing."""
        return self if most is None else replace(self, interface=self.interface.with_rows(most))


def read(path: Path) -> Config:
    """Read the configuration at `path`. Raises StartError."""
    try:
        config = _parse(path.read_bytes(), path.parent)
    except OSError as error:
        raise StartError(f"configuration {quote(path)} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise StartError(f"configuration {quote(path)}: {error}") from None
    if not config.artefact.is_file():
        raise StartError(f"artefact {quote(config.artefact)} is not there", hint="install the bundle again")
    return config


def _parse(data: bytes, directory: Path) -> Config:
    fields = record(
        orjson.loads(data),
        "the document",
        _KEYS,
        optional={
            "device",
            "ranges",
            "slo",
            "values",
            "missing",
            "reference",
            "generation",
            "files",
            "pipeline",
            "distributions",
        },
    )
    words = {key: text(fields[key], key) for key in sorted(_KEYS - {"interface"})}
    if not _RUNTIME.fullmatch(words["runtime"]):
        raise ValueError(f"`runtime`: expected the name of a runtime, got {quote(words['runtime'])}")
    return Config(
        name=words["name"],
        version=words["version"],
        digest=words["digest"],
        runtime=words["runtime"],
        target=words["target"],
        device=text(fields.get("device", "cpu"), "device"),
        artefact=directory / words["artefact"],
        interface=_interface(fields),
        ranges=_ranges(fields.get("ranges", {})),
        p99_seconds=_p99(fields.get("slo", {})),
        reference=directory / text(fields["reference"], "reference") if "reference" in fields else None,
        generation=Generation.from_json(fields["generation"]) if "generation" in fields else None,
        files=directory / text(fields["files"], "files") if "files" in fields else None,
        pipeline=_pipeline(fields["pipeline"], directory) if "pipeline" in fields else None,
        distributions=Distributions.from_json(fields["distributions"]) if "distributions" in fields else None,
        adapters=directory / ADAPTERS if "generation" in fields else None,
    )


def _pipeline(value: Any, directory: Path) -> PipelineFile:
    fields = record(value, "pipeline", {"path", "digest"})
    return PipelineFile(directory / text(fields["path"], "pipeline.path"), text(fields["digest"], "pipeline.digest"))


def _interface(fields: Mapping[str, Any]) -> Interface:
    found = Interface.from_json(fields["interface"])
    values, missing = fields.get("values", {}), fields.get("missing", [])
    names = {tensor.name for tensor in found.inputs}
    if not isinstance(values, dict) or not isinstance(missing, list) or not names >= {*values, *missing}:
        raise ValueError("`values` and `missing`: expected inputs")
    limits = {name: Values.from_json(item, f"values.{name}") for name, item in values.items()}
    return replace(found, values=limits, missing=frozenset(missing))


def _ranges(value: Any) -> dict[str, tuple[float, float]]:
    if not isinstance(value, dict) or not all(_is_range(item) for item in value.values()):
        raise ValueError("`ranges`: expected pairs of numbers")
    return {name: (float(low), float(high)) for name, (low, high) in value.items()}


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(item) in (int, float) for item in value)


def _p99(value: Any) -> float | None:
    if not isinstance(value, dict):
        raise ValueError("`slo` is not an object")
    most = value.get("p99_ms")
    if most is not None and (type(most) not in (int, float) or most <= 0):
        raise ValueError("`slo.p99_ms`: expected milliseconds")
    return None if most is None else most / 1000
