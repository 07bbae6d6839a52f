# SPDX-License-Identifier: Apache-2.0
"""Write a bundle as an OCI layout, a single file, an unpacked tree, or into the local store.

A destination is a function from a bundle to a context: inside it blobs are received, from several threads at once;
leaving it without an error makes the whole bundle visible atomically, leaving it with an error changes nothing. Every
sink hashes its input and refuses anything but the expected blob.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

from packager.bundle import single_file as archive
from packager.bundle.bundle import Bundle
from packager.bundle.readers import INDEX_FILE, LAYOUT_FILE, blob_path
from packager.errors import IntegrityError, UsageError
from packager.files import (
    FileSink,
    Moved,
    Sink,
    copy,
    exchange_directories,
    make_staging,
    storage_errors,
    sync_directory,
    write_all,
    write_atomically,
)
from packager.formats import modelpack, oci
from packager.formats.intoto import METADATA_DIRECTORY
from packager.records import dataclass
from packager.store.entries import VERIFIED, StoreEntry, name_is_taken
from packager.store.store import Store
from packager.types import Blob

_SMALL, _SMALL_TOGETHER = 64 << 10, 4 << 20  # bytes of blobs that are stored together

Source: TypeAlias = Callable[[], BinaryIO]


class Receiver(Protocol):
    """Receives the blobs of one bundle, several at a time."""

    def find_missing(self, blobs: Sequence[Blob]) -> Sequence[Blob]:
        """Return those of `blobs`, in their order, that do not exist yet and have to be written."""

    def write(self, blob: Blob, source: Source, moved: Moved) -> None:
        """Read `source` once and keep it. Raises IntegrityError if it is not `blob`."""


Destination: TypeAlias = Callable[[Bundle], AbstractContextManager[Receiver]]


@dataclass(frozen=True, slots=True)
class _Files:
    """Writes every path of a blob below a directory that is not yet visible."""

    root: Path
    paths: dict[Blob, list[str]]

    def find_missing(self, blobs: Sequence[Blob]) -> Sequence[Blob]:
        return blobs

    def write(self, blob: Blob, source: Source, moved: Moved) -> None:
        for path in self.paths[blob]:
            target = self.root / path
            with storage_errors(target.parent):
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb", buffering=0) as sink:
                    _copy_checked(source, FileSink(sink.fileno()), blob, moved)
                    os.fsync(sink.fileno())
                target.chmod(modelpack.FILE_MODE)


def _copy_checked(source: Source, sink: Sink, blob: Blob, moved: Moved) -> None:
    with source() as reader:
        got = copy(reader, sink, limit=blob.size, moved=moved)
    if got != blob:
        raise IntegrityError(f"expected {blob.digest}, got {got.digest}", subject=blob.digest)


def write_layout(target: Path) -> Destination:
    """Write an OCI layout; an older bundle at `target` is replaced atomically, anything else there is refused."""

    @contextlib.contextmanager
    def receive(bundle: Bundle) -> Iterator[Receiver]:
        if target.exists() and not ((target / LAYOUT_FILE).is_file() or _is_empty(target)):
            raise UsageError(f"`{target}` exists and is no bundle", hint="give a directory that does not exist yet")
        with make_staging(target) as fresh:
            write_metadata(bundle, fresh)
            yield _Files(fresh, {blob: [blob_path(blob.digest)] for _, blob in bundle.tree})
            exchange_directories(fresh, target)

    return receive


def write_unpacked(target: Path) -> Destination:
    """Write the plain files, and below `.packager/` the records to verify them again."""

    @contextlib.contextmanager
    def receive(bundle: Bundle) -> Iterator[Receiver]:
        if target.exists() and not _is_empty(target):
            raise UsageError(f"`{target}` is not empty", hint="give a directory that does not exist yet")
        with make_staging(target) as fresh, write_plain(fresh)(bundle) as receiver:
            yield receiver
            exchange_directories(fresh, target)

    return receive


def write_plain(fresh: Path) -> Destination:
    """Write the unpacked form into the empty directory `fresh`, which the caller then renames."""

    @contextlib.contextmanager
    def receive(bundle: Bundle) -> Iterator[Receiver]:
        write_metadata(bundle, fresh / METADATA_DIRECTORY)
        paths: dict[Blob, list[str]] = {}
        for path, blob in bundle.tree:
            paths.setdefault(blob, []).append(path)
        yield _Files(fresh, paths)

    return receive


def write_metadata(bundle: Bundle, root: Path) -> None:
    """Write the OCI layout around the files: index, marker, manifests, config, signatures."""
    with storage_errors(root):
        (root / "blobs" / "sha256").mkdir(parents=True)
    write_atomically(root / LAYOUT_FILE, oci.LAYOUT_BYTES)
    write_atomically(root / INDEX_FILE, bundle.index())
    for digest in bundle.records:
        write_atomically(root / blob_path(digest), bundle.record_bytes(digest))


def _is_empty(directory: Path) -> bool:
    return directory.is_dir() and not any(directory.iterdir())


@dataclass(frozen=True, slots=True)
class _Members:
    """Writes blobs at their offsets in a tar file; the offsets follow from the sizes."""

    descriptor: int
    offsets: dict[Blob, int]

    def find_missing(self, blobs: Sequence[Blob]) -> Sequence[Blob]:
        return blobs

    def write(self, blob: Blob, source: Source, moved: Moved) -> None:
        _copy_checked(source, FileSink(self.descriptor, self.offsets[blob]), blob, moved)


def single_file(target: Path) -> Destination:
    """Write the single-file form. Its space is allocated first, so that a full disk is detected at once."""

    @contextlib.contextmanager
    def receive(bundle: Bundle) -> Iterator[Receiver]:
        with make_staging(target) as scratch, storage_errors(target.parent):
            file = scratch / target.name
            with file.open("xb", buffering=0) as sink:
                yield _write_frame(bundle, sink.fileno())
                os.fsync(sink.fileno())
            file.chmod(0o644)
            file.replace(target)
            sync_directory(target.parent)

    return receive


def _write_frame(bundle: Bundle, descriptor: int) -> _Members:
    """Write everything but the files of the bundle, and return the offsets of those."""
    files = {blob for _, blob in bundle.tree}
    members: list[tuple[str, Blob | bytes]] = [(INDEX_FILE, bundle.index()), (LAYOUT_FILE, oci.LAYOUT_BYTES)]
    for blob in archive.order_blobs([*files, *bundle.records.values()]):
        members.append((blob_path(blob.digest), blob if blob in files else bundle.record_bytes(blob.digest)))
    offsets: dict[Blob, int] = {}
    position = 0
    for name, content in members:
        size = content.size if isinstance(content, Blob) else len(content)
        head = archive.write_header(name, size)
        if isinstance(content, Blob):
            offsets[content] = position + len(head)
            write_all(descriptor, head, position)
        else:
            write_all(descriptor, head + content, position)
        position += len(head) + size
        write_all(descriptor, bytes(archive.count_padding(size)), position)
        position += archive.count_padding(size)
    end = archive.write_trailer(position)
    os.posix_fallocate(descriptor, 0, position + len(end))
    return _Members(descriptor, offsets)


class _Stored:
    """Receives blobs into a store; small ones are kept in memory and stored together."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        self._small: list[bytes] = []
        self._held = 0  # bytes of the small ones

    def find_missing(self, blobs: Sequence[Blob]) -> Sequence[Blob]:
        absent = self._store.find_missing([blob.digest for blob in blobs])
        return [blob for blob in blobs if blob.digest in absent]

    def write(self, blob: Blob, source: Source, moved: Moved) -> None:
        if blob.size > _SMALL:
            self._store.receive(blob, source, moved)
            return
        sink = io.BytesIO()
        _copy_checked(source, sink, blob, moved)
        with self._lock:
            self._small.append(sink.getvalue())
            self._held += blob.size
            if self._held > _SMALL_TOGETHER:
                self.flush()

    def flush(self) -> None:
        """Store what is in memory."""
        self._store.put_all(self._small)
        self._small, self._held = [], 0


def write_local(store: Store, *, verified: bool, replace: bool = False) -> Destination:
    """Write a bundle into the local store.

    A `verified` one gets its stated name and version; another bundle of that name is replaced only with `replace`. An
    unverified one is put in quarantine, under its digest, unless the store has that bundle already: then only its
    referrers are new.
    """

    @contextlib.contextmanager
    def receive(bundle: Bundle) -> Iterator[Receiver]:
        known = store.named(bundle.name, bundle.version)
        same = known is not None and known.manifest == bundle.digest
        entry = StoreEntry(
            bundle.digest,
            tuple(sorted(referrer.manifest.digest for referrer in bundle.referrers)),
            origin=VERIFIED if verified else None,
        )
        if verified and known is not None and not same and not replace:
            raise name_is_taken(bundle.name, bundle.version, known, entry)
        stored = _Stored(store)
        try:
            yield stored
        finally:  # also what a failed copy brought: the next one begins there
            stored.flush()
        store.put_all(map(bundle.record_bytes, bundle.records))
        if verified or same:
            store.admit(bundle.name, bundle.version, entry, replace=replace)
        else:
            store.quarantine(entry)

    return receive
