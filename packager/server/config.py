# SPDX-License-Identifier: Apache-2.0
"""The configuration that `packager install` writes beside the model it serves.

    {"name": "digits", "version": "1.4.0", "digest": "sha256:…", "runtime": "onnxruntime",
     "target": "onnxruntime-cpu-fp32", "device": "cpu", "artefact": "targets/onnxruntime-cpu-fp32/model.onnx",
     "interface": {"inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 1, 8, 8]}], "outputs": […],
                   "dimensions": {"batch": {"min": 1, "max": 64}}}}

`artefact` is relative to the configuration's own directory. `device` is `cpu` where it is left out. Unknown keys are
refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from packager.server.errors import StartError, quote
from packager.server.fields import record, text
from packager.server.interface import Interface

_KEYS = frozenset({"name", "version", "digest", "runtime", "target", "artefact", "interface"})
_RUNTIME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Config:
    """One installed model: who it is, what executes it, and what it promises."""

    name: str
    version: str
    digest: str
    runtime: str
    target: str
    device: str
    artefact: Path
    interface: Interface

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
    fields = record(orjson.loads(data), "the document", _KEYS, optional={"device"})
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
        interface=Interface.from_json(fields["interface"]),
    )
