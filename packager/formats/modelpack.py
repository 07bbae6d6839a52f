# SPDX-License-Identifier: Apache-2.0
"""Read and write CNCF ModelPack manifests: one bundle = one manifest, one file = one uncompressed `.raw` layer.

Source: modelpack/model-spec d78bf32 (docs/spec.md, docs/config.md, schema/config-schema.json). The config schema
allows no further fields, so our records are ordinary files of the bundle; `createdAt` is omitted, because no record of
a bundle holds a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from packager import canonical
from packager.canonical import JSON
from packager.errors import MalformedError
from packager.formats import oci
from packager.records import dataclass
from packager.types import Blob, Tree

ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
FILEPATH = "org.cncf.model.filepath"
METADATA = "org.cncf.model.file.metadata+json"
TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"
FILE_MODE = 0o644
_KINDS = ("weight", "weight.config", "doc", "code", "dataset")
_WEIGHTS = {".onnx", ".bin", ".safetensors", ".engine"}
_DOCS = {".md", ".html"}


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """The description of a model in the ModelPack config; every field is optional there.

    `parameters` is a number with a scale (`6.7B`), `precision` and `quantization` words of the specification joined by
    commas, `inputs` and `outputs` modalities, `languages` ISO 639 codes, the links addresses.
    """

    name: str
    version: str
    description: str | None = None
    licenses: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    format: str = "onnx"
    family: str | None = None
    architecture: str | None = None
    parameters: str | None = None
    precision: str | None = None
    quantization: str | None = None
    documentation: str | None = None
    source: str | None = None
    revision: str | None = None
    datasets: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


def media_type(path: str) -> str:
    """Return the layer type for a file, by its name alone."""
    suffix = PurePosixPath(path).suffix
    if suffix in _WEIGHTS:
        kind = "weight"
    elif suffix in _DOCS or path.startswith("LICENSE"):
        kind = "doc"
    else:
        kind = "code" if path.startswith("deps/") else "weight.config"
    return f"application/vnd.cncf.model.{kind}.v1.raw"


def describe_layer(path: str, blob: Blob) -> oci.Descriptor:
    """Describe one file. Owner, mode and time are constants, so that they do not depend on the host."""
    metadata = {
        "name": PurePosixPath(path).name,
        "mode": FILE_MODE,
        "uid": 0,
        "gid": 0,
        "size": blob.size,
        "mtime": "1980-01-01T00:00:00Z",
        "typeflag": ord("0"),
    }
    annotations = {FILEPATH: path, METADATA: canonical.dump(metadata).decode(), TITLE: path}
    return oci.Descriptor(media_type(path), blob, annotations)


def write_config(about: ModelDescription, layers: Sequence[oci.Descriptor]) -> bytes:
    """Serialise the model config; for raw layers the diffID is the digest."""
    descriptor: dict[str, JSON] = {
        "name": about.name,
        "version": about.version,
        "description": about.description,
        "licenses": list(about.licenses),
        "authors": list(about.authors),
        "family": about.family,
        "docURL": about.documentation,
        "sourceURL": about.source,
        "revision": about.revision,
        "datasetsURL": list(about.datasets),
    }
    capabilities: dict[str, JSON] = {
        "inputTypes": list(about.inputs),
        "outputTypes": list(about.outputs),
        "languages": list(about.languages),
    }
    technical: dict[str, JSON] = {
        "format": about.format,
        "architecture": about.architecture,
        "paramSize": about.parameters,
        "precision": about.precision,
        "quantization": about.quantization,
        "capabilities": _filled(capabilities),
    }
    diff_ids = [item.blob.digest for item in layers]
    value = {
        "descriptor": _filled(descriptor),
        "config": _filled(technical),
        "modelfs": {"type": "layers", "diffIds": diff_ids},
    }
    return canonical.dump(value)


def _filled(value: Mapping[str, JSON]) -> dict[str, JSON]:
    return {name: member for name, member in value.items() if member}


def write_manifest(about: ModelDescription, tree: Tree) -> tuple[bytes, bytes]:
    """Return (manifest bytes, config bytes) of the bundle with the files of `tree`."""
    layers = tuple(describe_layer(path, blob) for path, blob in tree)
    config_bytes = write_config(about, layers)
    described = oci.Descriptor(CONFIG, Blob(canonical.sha256(config_bytes), len(config_bytes)))
    annotations = {TITLE: about.name, VERSION: about.version}
    return oci.Manifest(ARTIFACT, described, layers, annotations).to_bytes(), config_bytes


def list_files(manifest: oci.Manifest, *, subject: str) -> Tree:
    """Return the files of a ModelPack manifest.

    Raises IntegrityError for another artifact type, a layer that is not one raw file, metadata that contradicts
    the layer, and for unsafe, duplicate or colliding paths.
    """
    check_type(manifest, subject=subject)
    found: dict[str, Blob] = {}
    for item in manifest.layers:
        path = item.annotations.get(FILEPATH)
        if path is None or item.media_type not in {f"application/vnd.cncf.model.{kind}.v1.raw" for kind in _KINDS}:
            raise MalformedError(
                f"`{subject}` has a layer that is not one raw file: `{item.media_type}`",
                subject=subject,
                hint="bundles hold uncompressed files, one per layer",
            )
        if path in found:
            raise MalformedError(f"`{subject}` names `{path}` twice", subject=path)
        _check_metadata(item.annotations, path, item.blob)
        found[path] = item.blob
    return Tree.of(found)


def check_type(manifest: oci.Manifest, *, subject: str) -> None:
    """Raise MalformedError unless this is the manifest of a ModelPack artifact."""
    if manifest.artifact_type != ARTIFACT or manifest.config.media_type != CONFIG or manifest.subject:
        raise MalformedError(f"`{subject}` is not a ModelPack artifact", subject=subject)


def _check_metadata(annotations: Mapping[str, str], path: str, blob: Blob) -> None:
    if annotations != describe_layer(path, blob).annotations:
        raise MalformedError(f"the metadata of `{path}` contradicts its layer", subject=path)
