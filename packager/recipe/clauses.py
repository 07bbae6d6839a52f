# SPDX-License-Identifier: Apache-2.0
"""The clauses of a recipe as plain records: inputs, promises, tolerances, limits, objectives, data, trust."""

from __future__ import annotations

from dataclasses import dataclass

from packager.canonical import JSON


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of the graph: element type, shape (sizes, or names of dimensions), and the values it may take.

    What is None is as the source says. `values` lists all values there are, `range` the first and the last.
    """

    dtype: str | None = None
    shape: tuple[int | str, ...] | None = None
    range: tuple[float, float] | None = None
    values: tuple[float | int | str, ...] = ()

    def to_json(self) -> JSON:
        known = {
            "dtype": self.dtype,
            "shape": None if self.shape is None else list(self.shape),
            "range": self.range and list(self.range),
            "values": list(self.values) or None,
        }
        return {key: member for key, member in known.items() if member is not None}


@dataclass(frozen=True, slots=True)
class RunsOn:
    """One promise: these versions (PEP 440) of a runtime, on these devices, at these precisions.

    `timing_cache` is a file beside the recipe with the timings that a compiler which measures kernels is bound to.
    """

    runtime: str
    versions: str
    precision: tuple[str, ...] = ("fp32",)
    devices: tuple[str, ...] = ("cpu",)
    timing_cache: str | None = None

    def to_json(self) -> JSON:
        known = {"versions": self.versions, "precision": list(self.precision), "devices": list(self.devices)}
        return known if self.timing_cache is None else {**known, "timing-cache": self.timing_cache}


@dataclass(frozen=True, slots=True)
class Target:
    """What one artefact is compiled for."""

    runtime: str
    device: str
    precision: str

    @property
    def name(self) -> str:
        """Its folder in the bundle; unambiguous because neither device nor precision may hold a hyphen."""
        return f"{self.runtime}-{self.device}-{self.precision}"

    def to_json(self) -> JSON:
        return {"runtime": self.runtime, "device": self.device, "precision": self.precision}

    @staticmethod
    def from_json(value: JSON) -> Target:
        """Read what `to_json` wrote."""
        return Target(value["runtime"], value["device"], value["precision"])


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What |got - expected| <= atol + rtol * |expected| may use."""

    atol: float = 1e-5
    rtol: float = 1e-4

    def to_json(self) -> JSON:
        return {"atol": self.atol, "rtol": self.rtol}


def built_in_tolerance() -> dict[str, Tolerance]:
    """Return the tolerances of a recipe that names none; int8 and int4 have no default, it must be stated."""
    return {"default": Tolerance(), "fp16": Tolerance(2e-3, 2e-2), "bf16": Tolerance(2e-2, 1e-1)}


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """How to export: a fixed opset (None: the newest that every promised runtime reads) and the seed of all chance.

    `signature` is which function of a SavedModel (None: `serving_default`, else the only one).
    """

    opset: int | None = None
    seed: int = 0
    signature: str | None = None

    def to_json(self) -> JSON:
        known = {"seed": self.seed, "opset": self.opset, "signature": self.signature}
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step of the build may use: bytes of memory (None: what the machine has) and minutes."""

    memory: int | None = None
    minutes: int = 30

    def to_json(self) -> JSON:
        return {"minutes": self.minutes} | ({} if self.memory is None else {"memory": _size_text(self.memory)})


def _size_text(count: int) -> str:
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count % (1 << shift) == 0:
            return f"{count >> shift}{unit}"
    return f"{count}B"


@dataclass(frozen=True, slots=True)
class Objectives:
    """How fast and small a release promises to be: milliseconds at a rate of requests, seconds to ready, bytes."""

    p50_ms: float | None = None
    p99_ms: float | None = None
    at_rps: float | None = None
    cold_start_s: float | None = None
    memory: int | None = None

    def to_json(self) -> JSON:
        known = {name: getattr(self, name) for name in ("p50_ms", "p99_ms", "at_rps", "cold_start_s", "memory")}
        return {name: value for name, value in known.items() if value is not None}

    def written(self) -> JSON:
        """Return them as a recipe writes them."""
        return self.to_json() | ({} if self.memory is None else {"memory": _size_text(self.memory)})


@dataclass(frozen=True, slots=True)
class Dataset:
    """Data that the model was made from, as far as is known; all but the name may be left out."""

    name: str
    uri: str | None = None
    digest: str | None = None
    license: str | None = None
    classification: str | None = None

    def to_json(self) -> JSON:
        known = {
            "name": self.name,
            "uri": self.uri,
            "digest": self.digest,
            "license": self.license,
            "classification": self.classification,
        }
        return {key: member for key, member in known.items() if member is not None}


@dataclass(frozen=True, slots=True)
class SourceTrust:
    """Whose signature a source must carry: a key, a name in a certificate, or a Sigstore identity.

    All but the names are files beside the recipe. `signature` is a file of the source, else one beside the recipe.
    """

    key: str | None = None
    ca: str | None = None
    ca_intermediates: str | None = None
    tsa_ca: str | None = None
    identity: str | None = None
    issuer: str | None = None
    trust_config: str | None = None
    signature: str | None = None

    def to_json(self) -> JSON:
        known = {name.replace("_", "-"): getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in known.items() if value is not None}
