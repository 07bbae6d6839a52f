# SPDX-License-Identifier: Apache-2.0
"""A bundle, or any ModelPack artifact, as the source of another bundle.

`oci://host/name:tag` or `…@sha256:…` in a registry, `oci:PATH` for an OCI layout directory or a `.bundle.tar`. Pinned
by the digest of the manifest; every blob is hashed while it is copied. Of packager bundles the graph with its weights
and the tokenizer are the source, not the artefacts and records made from them. Others may keep files in tar layers,
which are unpacked here: regular files with safe names, bounded in number and size. Signatures are read where a recipe
demands one (`attached`); who made them is checked when the source is locked.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from packager.bundle import bundle, readers
from packager.bundle.layout_archive import open_archive
from packager.errors import IntegrityError, SourceError
from packager.events import OnEvent
from packager.files import CHUNK, copy, storage_errors
from packager.formats import modelpack, oci
from packager.sources import BUNDLE, Pin, Settings, byte_counter, local_path, redact_address
from packager.transport.attached import read_attached
from packager.transport.registry import reference
from packager.types import Blob, check_path, check_paths

EXTRA: str | None = None

_SCHEME, _REMOTE = "oci:", "oci://"
_GRAPH, _KEPT = "model/", ("tokenizer/",)
_SIZE, _FILES = 1 << 40, 100_000  # bytes and files of one source
_CONNECTIONS = 4
_SLACK, _RATIO = 64 << 20, 100  # bytes a layer may unpack to, besides so many times its size
_TAR = (".tar", ".tar+gzip")


def matches(ref: str) -> bool:
    """True for `oci://…`, `oci:PATH`, and the path of a `.bundle.tar`."""
    return ref.startswith(_SCHEME) or (ref.lower().endswith(BUNDLE) and local_path(ref, Path()) is not None)


def resolve(ref: str, settings: Settings) -> Pin:
    """Pin the manifest that the reference names now."""
    artifact = _open_artifact(ref, settings)
    digest, data = artifact.manifest()
    manifest = oci.parse_manifest(data, subject=digest)
    _layers(manifest, digest)
    keys = {"name": modelpack.TITLE, "version": modelpack.VERSION}
    found = {name: manifest.annotations[key] for name, key in keys.items() if key in manifest.annotations}
    return Pin("oci", f"{artifact.name}@{digest}" if ref.startswith(_REMOTE) else f"{_SCHEME}{digest}", found)


def fetch(pin: Pin, settings: Settings, out: Path, on_event: OnEvent) -> None:
    """Copy the files of the pinned manifest; each must be what the manifest says."""
    remote = pin.uri.startswith(_REMOTE)
    artifact = _open_artifact(pin.uri if remote else settings.ref, settings)
    digest, data = artifact.manifest()
    if not pin.uri.endswith(digest):
        raise SourceError(
            f"`{redact_address(settings.ref)}` is another bundle than the lock pinned: {digest}",
            hint="run `packager lock` if the change is meant",
        )
    layers = _wanted(_layers(oci.parse_manifest(data, subject=digest), digest))
    moved = byte_counter("model", sum(layer.blob.size for _, layer in layers), on_event)
    with storage_errors(out), ThreadPoolExecutor(_CONNECTIONS) as pool:
        raw = [(path, layer) for path, layer in layers if path is not None]
        for done in [pool.submit(_write, artifact, layer.blob, out / path, moved) for path, layer in raw]:
            done.result()
        packed = [layer for path, layer in layers if path is None]
        names = {path for path, _ in raw}
        for layer in packed:
            _unpack(artifact, layer, out, names, moved)


def read_statements(pin: Pin, settings: Settings) -> tuple[dict[str, bytes], list[bytes]]:
    """Return the signed statements attached to the pinned artifact, and certificates beside them, as `read_attached`.

    Raises SourceError.
    """
    medium = _medium(pin.uri if pin.uri.startswith(_REMOTE) else settings.ref, settings)
    rows = oci.parse_index(medium.index(), subject=readers.INDEX_FILE)
    return read_attached(medium, rows, pin.uri[pin.uri.rindex("sha256:") :])


def _medium(ref: str, settings: Settings) -> readers.Medium:
    if not ref.startswith(_REMOTE):
        path = local_path(ref.removeprefix(_SCHEME), settings.base)
        if path is None or not path.exists():
            raise SourceError(
                f"`{redact_address(ref)}` does not exist", hint="write `oci:PATH`, or `oci://host/name:tag`"
            )
        return readers.LayoutDirectory(path) if path.is_dir() else open_archive(path)
    if settings.registries is None:
        raise SourceError(f"`{redact_address(ref)}` is in a registry, which cannot be reached from here")
    from packager.transport.registry.medium import RegistryBundle

    return RegistryBundle(reference.parse(ref), settings.registries())


class _Artifact:
    """Where one artifact lies: its manifest, and how a blob is opened."""

    def __init__(self, name: str, manifest: Callable[[], tuple[str, bytes]], blob: Callable[[Blob], BinaryIO]) -> None:
        self.name, self.manifest, self.open = name, manifest, blob


def _open_artifact(ref: str, settings: Settings) -> _Artifact:
    if not ref.startswith(_REMOTE):
        return _local(ref, settings)
    if settings.registries is None:
        raise SourceError(f"`{redact_address(ref)}` is in a registry, which cannot be reached from here")
    from packager.transport.registry.repository import Repository

    wanted = reference.parse(ref)
    repository = Repository(wanted, settings.registries())
    return _Artifact(f"{_REMOTE}{wanted.host}/{wanted.name}", repository.resolve, repository.open)


def _local(ref: str, settings: Settings) -> _Artifact:
    medium = _medium(ref, settings)

    def manifest() -> tuple[str, bytes]:
        found = oci.parse_index(medium.index(), subject=readers.INDEX_FILE)
        records = {
            item.blob.digest: readers.read_record(medium, item.blob.digest)
            for item in found
            if item.media_type != oci.INDEX
        }
        models = [(digest, data) for digest, data in records.items() if _is_model(data, digest)]
        if not models and records:
            models = list(records.items())[:1]  # its reader says what is wrong
        if len(models) != 1:
            raise SourceError(f"expected one artifact in `{redact_address(ref)}`, got {len(models)}")
        return models[0]

    return _Artifact(_SCHEME, manifest, lambda blob: medium.open_record(blob.digest))


def _is_model(data: bytes, digest: str) -> bool:
    """Tell whether this is the artifact itself; signatures in other forms may lie beside it."""
    try:
        manifest = oci.parse_manifest(data, subject=digest)
    except IntegrityError:
        return False
    return manifest.subject is None


# layers


def _layers(manifest: oci.Manifest, digest: str) -> list[tuple[str | None, oci.Descriptor]]:
    """Return (path, layer), the path None for a tar; refuse what is no ModelPack or holds what cannot be read."""
    if manifest.artifact_type != modelpack.ARTIFACT or manifest.subject:
        raise SourceError(
            f"`{digest}` is no ModelPack artifact: its type is `{manifest.artifact_type:.80}`",
            hint="push a bundle with `packager push`, or a model with modctl or `kit pack --use-model-pack`",
        )
    found = [(_path(layer, digest), layer) for layer in manifest.layers]
    check_paths(path for path, _ in found if path is not None)
    if len(found) > _FILES or sum(layer.blob.size for _, layer in found) > _SIZE:
        raise SourceError(f"`{digest}` holds more than {_FILES} files or {_SIZE >> 40} TiB")
    return found


def _path(layer: oci.Descriptor, digest: str) -> str | None:
    if layer.media_type.endswith(_TAR):
        return None
    path = layer.annotations.get(modelpack.FILEPATH) or layer.annotations.get(modelpack.TITLE)
    if not layer.media_type.endswith(".raw") or path is None:
        raise SourceError(
            f"`{digest}` has a layer that is not read here: `{layer.media_type:.80}`",
            hint="pack the model as raw files, as tar, or as tar with gzip",
        )
    return check_path(path)


def _wanted(layers: list[tuple[str | None, oci.Descriptor]]) -> list[tuple[str | None, oci.Descriptor]]:
    """Return the model's files in an artifact: of a bundle of ours the graph, at the root, and the tokenizer."""
    if bundle.RECORD not in {path for path, _ in layers}:
        return layers
    own = [(path or "", layer) for path, layer in layers]
    return [
        (path.removeprefix(_GRAPH), layer)
        for path, layer in own
        if (path.startswith(_GRAPH) and "/" not in path.removeprefix(_GRAPH)) or path.startswith(_KEPT)
    ]


def _write(artifact: _Artifact, blob: Blob, target: Path, moved: Callable[[int], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with artifact.open(blob) as source, target.open("xb", buffering=0) as sink:
        got = copy(source, sink, limit=blob.size, moved=moved)
    if got != blob:
        raise IntegrityError(
            f"blob of `{target.name}` is damaged: expected {blob.digest}, got {got.digest}", subject=blob.digest
        )


def _unpack(
    artifact: _Artifact, layer: oci.Descriptor, out: Path, names: set[str], moved: Callable[[int], None]
) -> None:
    """Unpack a tar layer, once its bytes are known to be right and all its names to be safe."""
    with _scratch(out) as folder:
        _write(artifact, layer.blob, folder / "layer", moved)
        try:
            with _opened(folder / "layer", layer) as packed:
                names |= _names(packed, layer.blob, names)
            with _opened(folder / "layer", layer) as packed:
                for member in packed:
                    _extract(packed, member, out)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise SourceError(f"layer `{layer.blob.digest}` is not a readable tar: {error}") from error


def _opened(path: Path, layer: oci.Descriptor) -> tarfile.TarFile:
    return tarfile.open(path, "r|gz") if layer.media_type.endswith("gzip") else tarfile.open(path, "r|")


def _names(packed: tarfile.TarFile, blob: Blob, taken: set[str]) -> set[str]:
    """Return the names of all files of a tar; refuse links, devices, collisions, and what unpacks to absurd sizes."""
    found: list[str] = []
    size, most = 0, _SLACK + _RATIO * blob.size
    for member in packed:
        size += member.size
        if len(found) > _FILES or size > most:
            raise IntegrityError(f"layer `{blob.digest}` unpacks to more than {most} bytes", subject=blob.digest)
        if not member.isdir() and (not member.isreg() or member.issparse()):
            raise IntegrityError(f"`{member.name:.200}` in a layer is not a regular file", subject=member.name)
        found += [] if member.isdir() else [_name(member)]
    check_paths([*taken, *found])
    return set(found)


def _name(member: tarfile.TarInfo) -> str:
    return member.name.removeprefix("./")


def _extract(packed: tarfile.TarFile, member: tarfile.TarInfo, out: Path) -> None:
    source = packed.extractfile(member) if member.isreg() else None
    if source is not None:
        target = out / check_path(_name(member))
        target.parent.mkdir(parents=True, exist_ok=True)
        with source, target.open("xb") as sink:
            shutil.copyfileobj(source, sink, CHUNK)


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """Yield a directory on the same file system as `out`, so that a large layer does not fill the system's own."""
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=".layer-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
