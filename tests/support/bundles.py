# SPDX-License-Identifier: Apache-2.0
"""Small real bundles for tests that need no model: the production code assembles them, only the graph is made up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packager import canonical
from packager.bundle.bundle import CONTRACT, FORMAT, RECORD, SBOM, Bundle, read
from packager.bundle.readers import StoredBundle
from packager.formats import modelpack
from packager.store.entries import BUILT, StoreEntry
from packager.store.store import Store
from packager.types import Blob, Tree

INTERFACE = {
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 2]}],
    "dimensions": {"batch": {"min": 1, "max": 8}},
}
TARGET = {"runtime": "onnxruntime", "device": "cpu", "precision": "fp32", "path": "model/model.onnx"}
TERMS = {
    "tolerance": {"y": {"atol": 1e-5, "rtol": 1e-4}},
    "needs": {"cpu": [], "memory": {"weights": 5}},
    "stability": "bitwise",
}
CONTRACT_OF_TINY = {
    "format": 1,
    "interface": INTERFACE,
    "ranges": {},
    "graph": {
        "opset": {"ai.onnx": 18},
        "ir": 8,
        "operators": {"ai.onnx": {"Add": {"14": ["T=float32"]}}},
        "parameters": 1,
        "bytes": 4,
    },
    "runs-on": {"onnxruntime": {"versions": ">=1.17", "loads": ">=1.15.0"}},
    "targets": {"onnxruntime-cpu-fp32": {**TARGET, **TERMS}},
}


def make(
    store: Store, files: Mapping[str, bytes | Path] | None = None, name: str = "tiny", version: str = "1.0.0"
) -> Bundle:
    """Assemble a bundle named `name` from `files`, bytes or where they lie, in `store`, as if it had been built there."""
    return read(StoredBundle(store, assemble_named(store, files, name, version), f"{name}:{version}"))


def assemble_named(store: Store, files: Mapping[str, bytes | Path] | None, name: str, version: str) -> StoreEntry:
    """Give what `assemble` makes its name in the store; it need not be readable."""
    entry = StoreEntry(assemble(store, files, name, version).digest, origin=BUILT)
    store.name_bundle(name, version, entry)
    return entry


def assemble(
    store: Store, files: Mapping[str, bytes | Path] | None = None, name: str = "tiny", version: str = "1.0.0"
) -> Bundle:
    """Put a bundle together that may call itself anything; nothing checks it, and it gets no name in the store."""
    contents: dict[str, bytes | Path] = {
        "model/model.onnx": b"graph",
        "model/weights-0001.bin": bytes(range(256)) * 40,
        "MODEL_CARD.md": b"# t",
    }
    contents[CONTRACT] = canonical.dump(CONTRACT_OF_TINY)
    contents[SBOM] = canonical.dump({"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1})
    contents.update(files or {})
    blobs = {path: _kept(store, data) for path, data in contents.items()}
    listed = {path: [blob.digest, blob.size] for path, blob in blobs.items()}
    record = {"format": FORMAT, "name": name, "version": version, "files": listed, "targets": {"t": TARGET}}
    blobs[RECORD] = store.put(canonical.dump(record))
    manifest, config = modelpack.write_manifest(modelpack.ModelDescription(name, version), Tree.of(blobs))
    store.put(config)
    digest = store.put(manifest).digest
    medium = StoredBundle(store, StoreEntry(digest), f"{name}:{version}")
    size = Blob(canonical.sha256(config), len(config))
    return Bundle(medium, digest, manifest, size, Tree.of(blobs), name, version, {"t": TARGET}, ())


def _kept(store: Store, content: bytes | Path) -> Blob:
    if isinstance(content, bytes):
        return store.put(content)
    with content.open("rb", buffering=0) as file:
        return store.add(file)


def store_in(path: Path) -> Store:
    """Return a store below `path`."""
    return Store(path / "store")
