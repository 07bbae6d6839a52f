# SPDX-License-Identifier: Apache-2.0
"""Write CycloneDX 1.6 as plain JSON: the model as a component, its files, the locked wheels, and how it was made.

Source: CycloneDX 1.6 and 1.7 JSON schemas. Written by hand because the reference library's classes drop the model
card, data and formulation (measured); its strict validator judges the result in the tests. Everything is derived from
content: the serial number is a UUIDv5, there is no timestamp, and the order is fixed. 1.7 adds members and removes
none that are used here, so that form differs only in its version.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from packager import canonical
from packager.canonical import JSON
from packager.formats import platforms
from packager.formats.cyclonedx_card import describe_card, list_terms
from packager.formats.cyclonedx_libraries import (
    describe_libraries,
    list_needed,
    write_hash,
    write_licence,
    write_property,
    write_purl,
)
from packager.formats.model_cards import ModelCard
from packager.formats.wheel_locks import Dependencies
from packager.types import Blob

PREDICATE = "https://cyclonedx.org/bom"  # of a statement that repeats the SBOM
DEFAULT_VERSION = "1.6"
VERSIONS = ("1.6", "1.7")
_NAMESPACE = uuid.UUID("0e8b7f9c-6f0e-5d1b-9a55-2f6c3a1d7e44")  # ours; never changes: serial numbers depend on it
_URI = ":/?#[]@!$&'()*+,;=%"  # what RFC 3986 reserves, and escapes
_ROLES = {
    "model/": "graph",
    "targets/": "artefact",
    "tokenizer/": "tokenizer",
    "pipeline/": "pipeline",
    "deps/": "dependency lock",
}


@dataclass(frozen=True, slots=True)
class Model:
    """The main component. `origin` is the pinned source, `origin_digest` its tree, `kind` its form; `datasets` are
    records with `name` and, where known, `uri`, `digest`, `license`, `classification`. `card` is the card's path in the
    bundle.
    """

    name: str
    version: str
    licence: str | None
    description: str | None
    authors: tuple[str, ...]
    inputs: Sequence[Mapping[str, JSON]]
    outputs: Sequence[Mapping[str, JSON]]
    origin: str
    origin_digest: str
    kind: str
    datasets: Sequence[Mapping[str, str]] = field(default_factory=tuple)
    card: str | None = None
    declared: ModelCard | None = None  # what the card says, as data
    publisher: str | None = None  # who signed the source, where that was demanded

    @property
    def reference(self) -> str:
        return f"pkg:generic/{quote(self.name)}@{quote(self.version, safe='')}"


def describe(
    model: Model,
    files: Sequence[tuple[str, Blob]],
    targets: Mapping[str, str],
    locked: Dependencies,
    toolchain: Mapping[str, str],
) -> bytes:
    """Return the SBOM of a bundle.

    `files` are all its files except the SBOM and the record that names the SBOM's digest; `targets` names the
    graph of each target; `toolchain` is tool to version. Equal arguments give equal bytes.
    """
    vendored = {path.rpartition("/")[2]: path for path, _ in files if path.endswith(".whl")}
    libraries = describe_libraries(locked, vendored)
    data = [_dataset(item) for item in _all_datasets(model)]
    parts = [_file(path, blob, model, targets) for path, blob in files if not path.endswith(".whl")]
    body: dict[str, JSON] = {
        "$schema": f"http://cyclonedx.org/schema/bom-{DEFAULT_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": DEFAULT_VERSION,
        "version": 1,
        "metadata": _metadata(model),
        "components": [*parts, *data, *libraries],
        "dependencies": _dependencies(model, [*parts, *data], locked),
        "formulation": [_formulation(model, targets, toolchain)],
        "properties": _properties(locked),
    }
    serial = uuid.uuid5(_NAMESPACE, canonical.sha256(canonical.dump(body)))
    return canonical.dump({**body, "serialNumber": f"urn:uuid:{serial}"})


def as_version(bom: Mapping[str, JSON], version: str) -> dict[str, JSON]:
    """Return the same SBOM in another version of the specification, with another serial number."""
    if version == bom["specVersion"]:
        return dict(bom)
    serial = uuid.uuid5(_NAMESPACE, f"{bom['serialNumber']} {version}")
    schema = f"http://cyclonedx.org/schema/bom-{version}.schema.json"
    return {**bom, "$schema": schema, "specVersion": version, "serialNumber": f"urn:uuid:{serial}"}


def with_measured(bom: Mapping[str, JSON], measured: Mapping[str, Mapping[str, JSON]]) -> dict[str, JSON]:
    """Return the same SBOM with what the build measured on rows with labels, and another serial number.

    `measured` are facts by target: metric, both values, rows, digest of the data, slices. Each target has one metric
    over all rows, one for every slice, and the source has the same; values that are not defined are left out. They are
    no part of the SBOM in the bundle, because they depend on the processor in ties.
    """
    rows = [row for name, facts in measured.items() for row in _measured_metrics(name, facts)]
    if not rows:
        return dict(bom)
    component = bom["metadata"]["component"]
    card = component.get("modelCard", {})
    stated = card.get("quantitativeAnalysis", {}).get("performanceMetrics", [])
    unique = list({canonical.dump(row): row for row in rows}.values())
    card = {**card, "quantitativeAnalysis": {"performanceMetrics": [*stated, *unique]}}
    serial = uuid.uuid5(_NAMESPACE, f"{bom['serialNumber']} {canonical.sha256(canonical.dump(unique))}")
    metadata = {**bom["metadata"], "component": {**component, "modelCard": card}}
    return {**bom, "metadata": metadata, "serialNumber": f"urn:uuid:{serial}"}


def _measured_metrics(target: str, facts: Mapping[str, JSON]) -> Iterator[JSON]:
    parts = [(facts, ""), *((item, f", {item['column']} = {item['value']}") for item in facts["slices"])]
    for item, part in parts:
        for key, side in (("source", "the source"), ("target", f"target {target}")):
            if item[key] is not None:
                where = f"{side} on {item['rows']} rows of {facts['data']}{part}"
                yield {"type": facts["metric"], "value": f"{item[key]:.6g}", "slice": where}


def _metadata(model: Model) -> JSON:
    """Return the metadata; the tool has no version, because no byte of a bundle depends on that."""
    value: dict[str, JSON] = {
        "lifecycles": [{"phase": "build"}],
        "tools": {"components": [{"type": "application", "name": "packager"}]},
        "component": _model(model),
    }
    if model.authors:
        value["authors"] = [{"name": name} for name in model.authors]
        value["supplier"] = {"name": model.authors[0]}
    if model.declared and (rows := list_terms(model.declared)):
        value["properties"] = [{"name": f"spdx:{name}", "value": text} for name, text in rows]
    return value


def _model(model: Model) -> JSON:
    parameters: dict[str, JSON] = {
        "inputs": [{"format": _tensor(port)} for port in model.inputs],
        "outputs": [{"format": _tensor(port)} for port in model.outputs],
    }
    if rows := _all_datasets(model):
        parameters["datasets"] = [{"ref": _dataset_reference(item)} for item in rows]
    if model.declared and model.declared.task:
        parameters["task"] = model.declared.task
    if model.declared and (architecture := model.declared.sections.get("architecture")):
        parameters["modelArchitecture"] = architecture.partition("\n\n")[0]
    component: dict[str, JSON] = {
        "type": "machine-learning-model",
        "bom-ref": model.reference,
        "purl": model.reference,
        "name": model.name,
        "version": model.version,
        "modelCard": {"modelParameters": parameters, **describe_card(model.declared)},
        "pedigree": {"ancestors": [_ancestor(model), *_bases(model.declared)]},
        **write_licence(model.licence, None),
    }
    if model.description:
        component["description"] = model.description
    if model.authors:
        component["authors"] = [{"name": name} for name in model.authors]
        component["supplier"] = {"name": model.authors[0]}
    if references := list(_references(model)):
        component["externalReferences"] = references
    return component


def _references(model: Model) -> Iterator[JSON]:
    if model.card:
        yield {"type": "documentation", "url": model.card, "comment": "the model card"}
    if "://" in model.origin:
        yield {"type": "distribution", "url": quote(model.origin, safe=_URI), "comment": "the pinned source"}
    for kind, address in model.declared.links if model.declared else ():
        yield {"type": kind, "url": address, "comment": "declared by the model card"}


def _bases(card: ModelCard | None) -> list[JSON]:
    return [
        {
            "type": "machine-learning-model",
            "bom-ref": f"base:{name}",
            "name": name,
            "description": "the base model that the model card declares",
        }
        for name in (card.base_models if card else ())
    ]


def _all_datasets(model: Model) -> list[Mapping[str, str]]:
    """Return the datasets of the recipe, and those that only the card names."""
    known = {item["name"] for item in model.datasets}
    more = model.declared.datasets if model.declared else ()
    return [*model.datasets, *({"name": name} for name in more if name not in known)]


def _tensor(port: Mapping[str, JSON]) -> str:
    return f"{port['name']}: {port['dtype']}[{', '.join(map(str, port['shape']))}]"


def _ancestor(model: Model) -> JSON:
    return {
        "type": "machine-learning-model",
        "bom-ref": "source",
        "name": model.origin,
        "description": "the registered model that the graph was exported from",
        "properties": [
            write_property("kind", model.kind),
            write_property("tree", model.origin_digest),
            *([write_property("signed-by", model.publisher)] if model.publisher else []),
        ],
    }


def read_origin(sbom: JSON) -> tuple[str, str] | None:
    """Return the pinned source and the digest of its tree from one of our SBOMs, or None."""
    for item in sbom.get("metadata", {}).get("component", {}).get("pedigree", {}).get("ancestors", ()):
        properties = {entry["name"]: entry["value"] for entry in item.get("properties", ())}
        if item.get("bom-ref") == "source" and "packager:tree" in properties:
            return item["name"], properties["packager:tree"]
    return None


def _dataset_reference(item: Mapping[str, str]) -> str:
    return "data:" + "@".join(item[key] for key in ("name", "uri", "digest") if key in item)


def _dataset(item: Mapping[str, str]) -> JSON:
    about: dict[str, JSON] = {"type": "dataset", "name": item["name"]}
    if "uri" in item:
        about["contents"] = {"url": item["uri"]}
    if "classification" in item:
        about["classification"] = item["classification"]
    value = {
        "type": "data",
        "bom-ref": _dataset_reference(item),
        "name": item["name"],
        "data": [about],
        **write_licence(item.get("license"), None),
    }
    return {**value, "hashes": [write_hash(item["digest"])]} if "digest" in item else value


def _file(path: str, blob: Blob, model: Model, targets: Mapping[str, str]) -> JSON:
    """Describe one file; files of the model have its licence."""
    role = next((role for prefix, role in _ROLES.items() if path.startswith(prefix)), "record")
    if path == model.card:
        role = "model card"
    elif path.endswith((".bin", ".safetensors")):
        role = "weights"
    properties = [write_property("role", role), write_property("size", str(blob.size))]
    properties += [write_property("target", name) for name, graph in sorted(targets.items()) if graph == path]
    return {
        "type": "file",
        "bom-ref": f"file:{path}",
        "name": path,
        "hashes": [write_hash(blob.digest)],
        "properties": properties,
        **write_licence(model.licence, None),
    }


def _dependencies(model: Model, parts: Sequence[JSON], locked: Dependencies) -> list[JSON]:
    """Return the edges: the model on its parts and on what a runtime needs directly; distributions among each other."""
    edges: dict[str, set[str]] = {model.reference: {part["bom-ref"] for part in parts}}
    for runtime, sets in locked.wheels.items():
        for platform, wheels in sets.items():
            environment = platforms.parse(platform).environment()
            here = {wheel.name: write_purl(wheel.name, wheel.version) for wheel in wheels}
            edges[model.reference] |= list_needed(locked.requirements[runtime], here, environment)
            for wheel in wheels:
                known = edges.setdefault(here[wheel.name], set())
                known |= list_needed(locked.about[wheel.pin].requires, here, environment)
    for part in parts:
        edges.setdefault(part["bom-ref"], set())
    return [{"ref": ref, **({"dependsOn": sorted(to)} if to else {})} for ref, to in sorted(edges.items())]


def _formulation(model: Model, targets: Mapping[str, str], toolchain: Mapping[str, str]) -> JSON:
    """Describe how the graph was made: the steps of the build, and every tool whose version can change a byte."""
    tools = [
        {"type": "application", "bom-ref": f"tool:{name}", "name": name, "version": version}
        for name, version in sorted(toolchain.items())
    ]
    steps = [
        {"name": "fetch", "description": f"the pinned files of {model.origin}"},
        {"name": "export", "description": "source to canonical ONNX graph"},
        *({"name": f"compile {target}"} for target in sorted(targets)),
        *({"name": f"measure {target}", "description": "compare with the source model"} for target in sorted(targets)),
        {"name": "assemble", "description": "files to bundle"},
    ]
    workflow = {"bom-ref": "workflow:build", "uid": "build", "name": "build", "taskTypes": ["build"], "steps": steps}
    return {"bom-ref": "formula:build", "components": tools, "workflows": [workflow]}


def _properties(locked: Dependencies) -> list[JSON]:
    rows = [write_property(f"runtime:{name}", " ".join(sets)) for name, sets in sorted(locked.wheels.items())]
    return rows + [write_property("index", address) for address in locked.indexes]
