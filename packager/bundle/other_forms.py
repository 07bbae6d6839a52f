# SPDX-License-Identifier: Apache-2.0
"""Other shapes of a bundle, for tools that read no raw ModelPack layers. They have digests of their own.

    tar     the ModelPack artifact with one uncompressed tar per file, as KitOps before its raw layers reads it
    image   a plain OCI image with the files below /models: Kubernetes image volumes, KServe modelcars

Both hold the files of the bundle unchanged, a `Kitfile`, and the JSON of an ONNX Runtime model package; they refer to
the bundle by an annotation. They are outputs, never inputs: what is signed is the bundle (docs/adr/010).

Sources: modelpack/model-spec d78bf32; KitOps `pkg/artifact/kitfile.go`; ONNX Runtime `model_package/README.md`, schema
1.0, experimental; OCI image-spec v1.1 (config.md, layer.md).
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from packager import canonical
from packager.bundle import description, single_file
from packager.bundle.bundle import Bundle
from packager.bundle.readers import INDEX_FILE, LAYOUT_FILE, blob_path
from packager.canonical import JSON
from packager.errors import IntegrityError, UsageError
from packager.events import OnEvent, Progress, ignore
from packager.files import copy, exchange_directories, make_staging, storage_errors, write_atomically
from packager.formats import modelpack, oci
from packager.types import Blob

Profile = Literal["tar", "image"]
KITFILE = "Kitfile"
_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rtx": "NvTensorRTRTXExecutionProvider",
}
PACKAGE = ("manifest.json", "component.json")
BUNDLE_DIGEST = "packager.bundle.digest"
_IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
_IMAGE_LAYER = "application/vnd.oci.image.layer.v1.tar"


def export(bundle: Bundle, profile: Profile, target: Path, on_event: OnEvent = ignore) -> str:
    """Write `bundle` in another shape to `target`, an OCI layout or a tar of one; return the manifest's digest."""
    with make_staging(target) as scratch, storage_errors(target.parent):
        layout = scratch / "layout"
        (layout / "blobs" / "sha256").mkdir(parents=True)
        digest = _write(bundle, profile, layout, on_event)
        if target.suffix == ".tar":
            _pack(layout, scratch / target.name)
            (scratch / target.name).replace(target)
        else:
            _refuse_others(target)
            exchange_directories(layout, target)
    return digest


def _refuse_others(target: Path) -> None:
    if target.exists() and not (target / LAYOUT_FILE).is_file() and any(target.iterdir()):
        raise UsageError(f"`{target}` exists and is no OCI layout", hint="give a directory that does not exist yet")


def _write(bundle: Bundle, profile: Profile, layout: Path, on_event: OnEvent) -> str:
    prefix = "models/" if profile == "image" else ""
    layers = list(_layers(bundle, layout, prefix, on_event))
    manifest = _image(bundle, layers, layout) if profile == "image" else _modelpack(bundle, layers, layout)
    row = oci.Descriptor(oci.MANIFEST, _keep(layout, manifest), {oci.REF_NAME: bundle.version})
    write_atomically(layout / INDEX_FILE, oci.write_index([row]))
    write_atomically(layout / LAYOUT_FILE, oci.LAYOUT_BYTES)
    return row.blob.digest


def _layers(bundle: Bundle, layout: Path, prefix: str, on_event: OnEvent) -> Iterator[tuple[str, Blob, Blob]]:
    """Write one tar per file and yield (path, file, layer)."""
    done = 0
    for path, blob in bundle.tree:
        yield path, blob, _layer(bundle, path, blob, layout, prefix)
        done += blob.size
        on_event(Progress(f"writing {bundle.name} {bundle.version}", done, bundle.tree.size))
    for path, data in added_files(bundle).items():
        packed = _tar_head(prefix + path, len(data)) + data + _tar_end(prefix + path, len(data))
        yield path, Blob(canonical.sha256(data), len(data)), _keep(layout, packed)


def _layer(bundle: Bundle, path: str, blob: Blob, layout: Path, prefix: str) -> Blob:
    file = layout / "layer"
    with file.open("xb") as plain, bundle.medium.open_file(path, blob) as source:
        sink = _Hashed(plain)
        sink.write(_tar_head(prefix + path, blob.size))
        got = copy(source, sink, limit=blob.size)
        if got != blob:
            place = bundle.medium.place(path, blob)
            raise IntegrityError(f"`{place}` is damaged: expected {blob.digest}, got {got.digest}", subject=place)
        sink.write(_tar_end(prefix + path, blob.size))
    layer = Blob(f"sha256:{sink.state.hexdigest()}", file.stat().st_size)
    file.rename(layout / blob_path(layer.digest))
    return layer


class _Hashed:
    """A sink that knows the digest of what went through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.state = file, hashlib.sha256()

    def write(self, data: bytes | memoryview, /) -> int:
        self.state.update(data)
        return self._file.write(data)


def _tar_head(path: str, size: int) -> bytes:
    """Return the headers before a file: its directories for images, and the file's own. Owner and time are zero."""
    rows = []
    for parent in reversed(PurePosixPath(path).parents[:-1]):
        info = tarfile.TarInfo(str(parent))
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        rows.append(info.tobuf(tarfile.PAX_FORMAT))
    info = tarfile.TarInfo(path)
    info.size, info.mode = size, modelpack.FILE_MODE
    return b"".join([*rows, info.tobuf(tarfile.PAX_FORMAT)])


def _tar_end(path: str, size: int) -> bytes:
    position = len(_tar_head(path, size)) + size + single_file.count_padding(size)
    return bytes(single_file.count_padding(size)) + single_file.write_trailer(position)


def _modelpack(bundle: Bundle, layers: list[tuple[str, Blob, Blob]], layout: Path) -> bytes:
    described = []
    for path, blob, layer in layers:
        raw = modelpack.describe_layer(path, blob)
        described.append(oci.Descriptor(raw.media_type.removesuffix("raw") + "tar", layer, raw.annotations))
    config = modelpack.write_config(describe_bundle(bundle), described)
    annotations = {modelpack.TITLE: bundle.name, modelpack.VERSION: bundle.version, BUNDLE_DIGEST: bundle.digest}
    head = oci.Descriptor(modelpack.CONFIG, _keep(layout, config))
    return oci.Manifest(modelpack.ARTIFACT, head, tuple(described), annotations).to_bytes()


def _image(bundle: Bundle, layers: list[tuple[str, Blob, Blob]], layout: Path) -> bytes:
    """Describe an image for every platform; it has nothing to run, so none is more right than the other."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": {BUNDLE_DIGEST: bundle.digest}},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for _, _, layer in layers]},
        "history": [{"created_by": f"packager {path}"} for path, _, _ in layers],
    }
    value = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": oci.Descriptor(_IMAGE_CONFIG, _keep(layout, canonical.dump(config))).to_json(),
        "layers": [oci.Descriptor(_IMAGE_LAYER, layer).to_json() for _, _, layer in layers],
        "annotations": {modelpack.TITLE: bundle.name, modelpack.VERSION: bundle.version, BUNDLE_DIGEST: bundle.digest},
    }
    return canonical.dump(value)


def _keep(layout: Path, data: bytes) -> Blob:
    blob = Blob(canonical.sha256(data), len(data))
    write_atomically(layout / blob_path(blob.digest), data)
    return blob


def _pack(layout: Path, file: Path) -> None:
    """Write a layout as one tar, members in the order of the single-file form."""
    names = [INDEX_FILE, LAYOUT_FILE]
    names += sorted(
        (f"blobs/sha256/{path.name}" for path in (layout / "blobs" / "sha256").iterdir()),
        key=lambda name: ((layout / name).stat().st_size, name),
    )
    with file.open("xb") as sink:
        for name in names:
            size = (layout / name).stat().st_size
            sink.write(single_file.write_header(name, size))
            with (layout / name).open("rb", buffering=0) as source:
                copy(source, sink, limit=size)
            sink.write(bytes(single_file.count_padding(size)))
        sink.write(single_file.write_trailer(sink.tell()))
        sink.flush()
        os.fsync(sink.fileno())


# files for other tools


def describe_bundle(bundle: Bundle) -> modelpack.ModelDescription:
    """Return what the contract and the SBOM of a bundle say of it."""
    return description.read_files(bundle.name, bundle.version, bundle.load, {path for path, _ in bundle.tree})


def added_files(bundle: Bundle) -> Mapping[str, bytes]:
    """Return the Kitfile and the ONNX Runtime model package's JSON, by path; what the bundle has itself wins."""
    made = {KITFILE: write_kitfile(bundle), **model_package(bundle)}
    taken = {path for path, _ in bundle.tree}
    return {path: data for path, data in sorted(made.items()) if path not in taken}


def write_kitfile(bundle: Bundle) -> bytes:
    """Describe the unpacked files so that `kit pack .` takes all of them. JSON is YAML."""
    kinds: dict[str, list[str]] = {}
    for path, _ in bundle.tree:
        kinds.setdefault(modelpack.media_type(path).split(".")[4], []).append(path)
    first = _graph(bundle)
    parts = [path for path in kinds.get("weight", []) if path != first]
    about = describe_bundle(bundle)
    common = {"version": bundle.version, "description": about.description, "license": " AND ".join(about.licenses)}
    parameters = {
        "architecture": about.architecture,
        "family": about.family,
        "parameters": about.parameters,
        "precision": about.precision,
        "quantization": about.quantization,
    }
    value: dict[str, JSON] = {
        "manifestVersion": "1.0.0",
        "package": _filled({"name": bundle.name, **common, "authors": list(about.authors)}),
        "model": _filled(
            {
                "name": bundle.name,
                "path": first,
                "framework": "onnx",
                "format": about.format,
                **common,
                "parameters": _filled(parameters),
            }
        )
        | {"parts": [{"path": path} for path in parts]},
        "code": [{"path": path} for path, _ in bundle.tree if path not in {first, *parts, *kinds.get("doc", [])}],
        "docs": [{"path": path} for path in kinds.get("doc", [])],
    }
    return canonical.dump(value) + b"\n"


def _filled(value: Mapping[str, JSON]) -> dict[str, JSON]:
    return {name: member for name, member in value.items() if member}


def _graph(bundle: Bundle) -> str:
    return str(min(target["path"] for target in bundle.targets.values()))


def model_package(bundle: Bundle) -> Mapping[str, bytes]:
    """Return `manifest.json` and `component.json`: one component, one variant per target of ONNX Runtime."""
    variants = {}
    for name, target in sorted(bundle.targets.items()):
        if target["runtime"] != "onnxruntime":
            continue
        provider = _PROVIDERS.get(target["device"])
        variants[name] = {
            "variant_directory": str(PurePosixPath(target["path"]).parent),
            "ep": provider or target["device"],
            "device": "cpu" if target["device"] == "cpu" else "gpu",
            "executor_info": {"ort": {"model_file": PurePosixPath(target["path"]).name}},
        }
    manifest = {
        "schema_version": "1.0",
        "package_name": bundle.name,
        "package_version": bundle.version,
        "layout": "portable",
        "components": {bundle.name: PACKAGE[1]},
        "additional_metadata": {"bundle_digest": bundle.digest},
    }
    return (
        {PACKAGE[0]: canonical.dump(manifest), PACKAGE[1]: canonical.dump({"variants": variants})} if variants else {}
    )
