# SPDX-License-Identifier: Apache-2.0
"""What a run of the suite takes beside a bundle: where it works, its limits, and a server that is not ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from packager.conform.accuracy import Evaluation
from packager.contract.runtime_tables import Tables, load_shipped
from packager.deploy.install import Index
from packager.errors import UsageError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A running server that is not ours: its addresses, the model's name there, and credentials.

    `headers` are sent with every request, `ca` (PEM) is then the only authority that counts, and without `binary` the
    server takes no binary tensors.
    """

    http: str | None = None
    grpc: str | None = None
    model: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    ca: Path | None = None
    binary: bool = True

    @classmethod
    def from_addresses(
        cls,
        addresses: Sequence[str],
        model: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        ca: Path | None = None,
        *,
        binary: bool = True,
    ) -> Endpoint:
        """Return the endpoint at `http(s)://host[:port][/path]`, `grpc(s)://host:port`, or both. Raises UsageError."""
        found: dict[str, str] = {}
        for address in addresses:
            scheme = address.partition("://")[0]
            kind = {"http": "http", "https": "http", "grpc": "grpc", "grpcs": "grpc"}.get(scheme)
            if kind is None or kind in found:
                hint = "write http(s)://… or grpc(s)://…, each at most once"
                raise UsageError(f"`{address}` is no endpoint", hint=hint)
            found[kind] = address
        return cls(found.get("http"), found.get("grpc"), model, headers, ca, binary)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run: `seconds` and `memory` (bytes of address space, 0 for no limit) bound one cell."""

    work: Path
    cache: Path
    level: int = 5
    jobs: int = 1
    seconds: int = 600
    memory: int = 0
    index: Index = field(default_factory=Index)
    environment: Mapping[str, str] = field(default_factory=dict)
    python: Path | None = None  # an existing environment to test instead of building one
    stated: Mapping[str, bytes] = field(default_factory=dict)  # files of reference outputs, signed by a trusted key
    evaluation: Evaluation | None = None  # rows with labels on which the metric of the bundle is measured again
    tables: Tables = load_shipped  # what is known of runtimes where the suite runs
    operators: bool = False  # run ONNX's tests of the bundle's operators on every cell, not only on those that fail
