# SPDX-License-Identifier: Apache-2.0
"""CycloneDX 1.6 as plain JSON: the model as a component, its files, and the locked dependencies.

Source: CycloneDX 1.6 JSON schema. Written by hand because the reference library's classes drop the model card
(measured); its strict validator judges the result in the tests. Everything is derived from content: the serial
number is a UUIDv5, there is no time stamp, and the order is fixed.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from packager import canonical
from packager.canonical import JSON
from packager.formats.requirements import Pinned
from packager.types import Blob

_NAMESPACE = uuid.UUID("0e8b7f9c-6f0e-5d1b-9a55-2f6c3a1d7e44")  # ours, fixed for ever: serial numbers depend on it


@dataclass(frozen=True, slots=True)
class Model:
    """What the model card of the main component says."""

    name: str
    version: str
    licence: str | None
    description: str | None
    authors: tuple[str, ...]
    inputs: Sequence[Mapping[str, JSON]]
    outputs: Sequence[Mapping[str, JSON]]


def describe(model: Model, files: Sequence[tuple[str, Blob]], runtimes: Mapping[str, Sequence[Pinned]]) -> bytes:
    """Return the SBOM of a bundle: `files` are what the model consists of, `runtimes` what each one installs."""
    reference = f"pkg:generic/{model.name}@{model.version}"
    file_components = [_file(path, blob) for path, blob in files]
    packages = {_purl(pinned): pinned for pins in runtimes.values() for pinned in pins}
    body: dict[str, JSON] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _model(model, reference)},
        "components": [*file_components, *(_package(purl, pinned) for purl, pinned in sorted(packages.items()))],
        "dependencies": _edges(reference, [c["bom-ref"] for c in file_components], sorted(packages)),
        "properties": [
            {"name": f"packager:runtime:{name}", "value": str(len(pins))} for name, pins in sorted(runtimes.items())
        ],
    }
    serial = uuid.uuid5(_NAMESPACE, canonical.sha256(canonical.dump(body)))
    return canonical.dump({**body, "serialNumber": f"urn:uuid:{serial}"})


def _model(model: Model, reference: str) -> JSON:
    component: dict[str, JSON] = {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": model.name,
        "version": model.version,
        "modelCard": {
            "modelParameters": {
                "inputs": [{"format": _tensor(port)} for port in model.inputs],
                "outputs": [{"format": _tensor(port)} for port in model.outputs],
            }
        },
    }
    if model.description:
        component["description"] = model.description
    if model.licence:
        component["licenses"] = [{"expression": model.licence}]
    if model.authors:
        component["authors"] = [{"name": name} for name in model.authors]
    return component


def _tensor(port: Mapping[str, JSON]) -> str:
    return f"{port['name']}: {port['dtype']}[{', '.join(map(str, port['shape']))}]"


def _file(path: str, blob: Blob) -> JSON:
    return {
        "type": "file",
        "bom-ref": f"file:{path}",
        "name": path,
        "hashes": [{"alg": "SHA-256", "content": blob.digest.removeprefix("sha256:")}],
        "properties": [{"name": "packager:size", "value": str(blob.size)}],
    }


def _purl(pinned: Pinned) -> str:
    return f"pkg:pypi/{pinned.name}@{pinned.version}"


def _package(purl: str, pinned: Pinned) -> JSON:
    """Describe one locked distribution; each hash is of one file that may be installed."""
    component: dict[str, JSON] = {
        "type": "library",
        "bom-ref": purl,
        "purl": purl,
        "name": pinned.name,
        "version": pinned.version,
        "properties": [{"name": "packager:accepted-file", "value": value} for value in sorted(pinned.hashes)],
    }
    if pinned.marker:
        component["properties"].append({"name": "packager:marker", "value": pinned.marker})
    return component


def _edges(model: str, files: Sequence[str], packages: Sequence[str]) -> JSON:
    leaves = [*files, *packages]
    return [{"ref": model, "dependsOn": leaves}, *({"ref": leaf} for leaf in leaves)]
