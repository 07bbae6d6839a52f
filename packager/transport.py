# SPDX-License-Identifier: Apache-2.0
"""Write an opened bundle to another medium. Every byte is hashed on its way; the result is complete or absent."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from packager import archive
from packager.bundle import Bundle
from packager.errors import IntegrityError, UsageError
from packager.events import OnEvent, Progress, ignore
from packager.files import copy, exchange_directories, staging, storage_errors, sync_directory, write_atomically
from packager.formats import modelpack, oci
from packager.formats.intoto import METADATA_DIRECTORY
from packager.media import INDEX_FILE, LAYOUT_FILE, LayoutDirectory, StoredBundle, UnpackedTree, blob_path
from packager.store import Entry, Store
from packager.types import Blob

Moved = Callable[[int], None]


def save(bundle: Bundle, target: Path, on_event: OnEvent = ignore) -> None:
    """Write `bundle` to `target`: a single file if the name ends in `.tar`, else an OCI layout directory."""
    if target.suffix == ".tar":
        save_archive(bundle, target, on_event)
    else:
        save_layout(bundle, target, on_event)


def save_layout(bundle: Bundle, target: Path, on_event: OnEvent = ignore) -> None:
    """Write an OCI layout; an older bundle at `target` is replaced as one step, anything else there is refused."""
    if target.exists() and not ((target / LAYOUT_FILE).is_file() or _is_empty(target)):
        raise UsageError(f"`{target}` exists and is no bundle", hint="give a directory that does not exist yet")
    with staging(target) as fresh:
        _write_metadata(bundle, fresh)
        moved = _progress(bundle, f"writing {target.name}", on_event)
        for path, blob in _distinct(bundle):
            _write_file(bundle, path, blob, fresh / blob_path(blob.digest), moved)
        exchange_directories(fresh, target)


def unpack(bundle: Bundle, target: Path, on_event: OnEvent = ignore) -> None:
    """Write the plain files, and below `.packager/` what is needed to verify them again."""
    if target.exists() and not _is_empty(target):
        raise UsageError(f"`{target}` is not empty", hint="give a directory that does not exist yet")
    with staging(target) as fresh:
        write_unpacked(bundle, fresh, on_event)
        exchange_directories(fresh, target)


def write_unpacked(bundle: Bundle, fresh: Path, on_event: OnEvent = ignore) -> None:
    """Write the unpacked form into the empty directory `fresh`, which the caller will rename into place."""
    _write_metadata(bundle, fresh / METADATA_DIRECTORY)
    moved = _progress(bundle, f"unpacking {bundle.name} {bundle.version}", on_event)
    for path, blob in bundle.tree:
        _write_file(bundle, path, blob, fresh / path, moved)


def save_archive(bundle: Bundle, target: Path, on_event: OnEvent = ignore) -> None:
    """Write the single-file form."""
    with storage_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                for data in _archive_parts(
                    bundle, _progress(bundle, f"writing {target.name}", on_event), file.fileno()
                ):
                    _write_all(file.fileno(), data)
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(target)
            sync_directory(target.parent)
        finally:
            Path(name).unlink(missing_ok=True)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _archive_parts(bundle: Bundle, moved: Moved, descriptor: int) -> Iterator[bytes]:
    """Yield headers and small members; large ones are copied straight to `descriptor` on the way."""
    for name, data in ((INDEX_FILE, bundle.index()), (LAYOUT_FILE, oci.LAYOUT_BYTES)):
        yield archive.header(name, len(data)) + data + bytes(archive.padding(len(data)))
    files = {blob: path for path, blob in bundle.tree}
    for blob in archive.order([*files, *bundle.records.values()]):
        yield archive.header(blob_path(blob.digest), blob.size)
        if blob in files:
            with open(descriptor, "wb", buffering=0, closefd=False) as sink:
                _copy_file(bundle, files[blob], blob, sink, moved)
        else:
            yield bundle.record_bytes(blob.digest)
        yield bytes(archive.padding(blob.size))
    yield archive.trailer(os.lseek(descriptor, 0, os.SEEK_CUR))


def save_to_store(bundle: Bundle, store: Store, on_event: OnEvent = ignore) -> None:
    """Copy a bundle into the local store, under the name and version it states itself."""
    moved = _progress(bundle, f"storing {bundle.name} {bundle.version}", on_event)
    for path, blob in _distinct(bundle):
        if not store.has(blob.digest):
            with bundle.medium.open_file(path, blob) as source:
                store.add(source, expect=blob, moved=moved)
    for digest in bundle.records:
        store.put(bundle.record_bytes(digest))
    referrers = tuple(sorted(referrer.manifest.digest for referrer in bundle.referrers))
    store.name_bundle(bundle.name, bundle.version, Entry(bundle.digest, referrers))


def update_referrers(bundle: Bundle, on_event: OnEvent = ignore) -> None:
    """Write the referrers that were attached in memory back to where the bundle lives, as one step."""
    medium = bundle.medium
    if isinstance(medium, StoredBundle):
        for data in bundle.pending.values():
            medium.store.put(data)
        manifests = [referrer.manifest.digest for referrer in bundle.referrers]
        medium.store.put(oci.EMPTY_BYTES)
        medium.store.put(bundle.referrers_index())
        medium.store.refer(bundle.name, bundle.version, manifests)
    elif isinstance(medium, archive.Archive):
        save_archive(bundle, medium.path, on_event)
    elif isinstance(medium, UnpackedTree):
        _replace_metadata(bundle, medium.root / METADATA_DIRECTORY, {})
    elif isinstance(medium, LayoutDirectory):
        _replace_metadata(bundle, medium.root, {blob.digest: path for path, blob in bundle.tree})


def _replace_metadata(bundle: Bundle, target: Path, linked: dict[str, str]) -> None:
    """Exchange a layout for one with more records.

    Blobs are linked into the new directory instead of copied; when the old directory is gone, each has one link again.
    """
    with staging(target) as fresh:
        _write_metadata(bundle, fresh)
        for digest in linked:
            os.link(target / blob_path(digest), fresh / blob_path(digest))
        exchange_directories(fresh, target)


def _write_metadata(bundle: Bundle, root: Path) -> None:
    """Write the OCI layout around the files: index, marker, manifests, config, signatures."""
    with storage_errors(root):
        (root / "blobs" / "sha256").mkdir(parents=True)
    write_atomically(root / LAYOUT_FILE, oci.LAYOUT_BYTES)
    write_atomically(root / INDEX_FILE, bundle.index())
    for digest in bundle.records:
        write_atomically(root / blob_path(digest), bundle.record_bytes(digest))


def _write_file(bundle: Bundle, path: str, blob: Blob, target: Path, moved: Moved) -> None:
    with storage_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb", buffering=0) as sink:
            _copy_file(bundle, path, blob, sink, moved)
            os.fsync(sink.fileno())
        target.chmod(modelpack.FILE_MODE)


def _copy_file(bundle: Bundle, path: str, blob: Blob, sink: object, moved: Moved) -> None:
    with bundle.medium.open_file(path, blob) as source:
        got = copy(source, sink, limit=blob.size, moved=moved)  # type: ignore[arg-type]
    if got != blob:
        place = bundle.medium.place(path, blob)
        raise IntegrityError(f"`{place}` is damaged: expected {blob.digest}, got {got.digest}", subject=place)


def _distinct(bundle: Bundle) -> Iterator[tuple[str, Blob]]:
    """Yield each content once, under the first path that has it."""
    seen: set[str] = set()
    for path, blob in bundle.tree:
        if blob.digest not in seen:
            seen.add(blob.digest)
            yield path, blob


def _progress(bundle: Bundle, label: str, on_event: OnEvent) -> Moved:
    done, total = 0, bundle.size

    def moved(count: int) -> None:
        nonlocal done
        done += count
        on_event(Progress(label, done, total))

    return moved


def _is_empty(directory: Path) -> bool:
    return directory.is_dir() and not any(directory.iterdir())
