# SPDX-License-Identifier: Apache-2.0
"""Read and write a bundle in a bucket: a medium and a destination. The index is written last."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from packager.bundle.bundle import Bundle, read
from packager.bundle.readers import INDEX_FILE, LAYOUT_FILE, blob_path, check_layout_file, read_record
from packager.errors import IntegrityError, SourceError, UsageError
from packager.files import Moved
from packager.formats import oci
from packager.transport.bucket.folder import Folder
from packager.transport.bucket.reference import Reference
from packager.transport.writers import Destination, Receiver, Source
from packager.types import Blob, Tree

_UPLOADS = 3  # at a time: a driver holds several copies of a part, and memory must stay below 150 MB
_RACES = 8  # retries of the index because another writer changed it meanwhile


class BucketBundle:
    """The medium of one bundle in a bucket."""

    def __init__(self, folder: Folder, digest: str | None = None) -> None:
        self.folder, self.label, self._wanted = folder, folder.label, digest

    def index(self) -> bytes:
        data = self.folder.small(INDEX_FILE, oci.MAX_MANIFEST)
        if data is None:
            raise SourceError(f"there is no bundle `{self.label}`", hint="check the name, the version and the rights")
        check_layout_file(self.folder.small(LAYOUT_FILE, 4096) or b"", subject=LAYOUT_FILE)
        if self._wanted and self._wanted not in _models(self, data):
            raise IntegrityError(f"`{self.label}` holds another bundle than {self._wanted}", subject=self.label)
        return data

    def open_record(self, digest: str) -> BinaryIO:
        return self._open(digest, None)

    def open_file(self, path: str, blob: Blob) -> BinaryIO:
        return self._open(blob.digest, blob.size)

    def _open(self, digest: str, size: int | None) -> BinaryIO:
        name = blob_path(digest)
        found = self.folder.size(name)
        if found is None:
            raise IntegrityError(f"`{name}` is missing from `{self.label}`", subject=name)
        if size is not None and found != size:
            raise IntegrityError(f"`{name}` in `{self.label}`: expected {size} bytes, got {found}", subject=name)
        return self.folder.open(name, found)

    def place(self, path: str, blob: Blob) -> str:
        return f"{path or blob_path(blob.digest)} in {self.label}"

    def check_extent(self, tree: Tree, records: Iterable[str]) -> None:
        """Do nothing: a push may be in progress, and a missing blob is detected when it is read."""

    def attach(self, bundle: Bundle) -> None:
        """Write the missing records of `bundle`, then the index that names them."""
        publish(self.folder, bundle, force=False)


def _models(medium: BucketBundle, index: bytes) -> set[str]:
    """Return the digests of the manifests of an index that are no referrers."""
    rows = [item.blob.digest for item in oci.parse_index(index, subject=INDEX_FILE) if item.media_type == oci.MANIFEST]
    return {
        digest for digest in rows if oci.parse_manifest(read_record(medium, digest), subject=digest).subject is None
    }


def open_reference(reference: Reference) -> BucketBundle:
    """Return the medium that `reference` names. Raises UsageError if it names no version."""
    return BucketBundle(_folder(reference), reference.digest)


def _folder(reference: Reference) -> Folder:
    if reference.tag is None:
        raise UsageError(f"`{reference}` names no version", hint=f"write {reference}:VERSION")
    return Folder(f"{reference.name}/{reference.tag}", str(reference))


def open_bucket(reference: Reference, *, mount: Reference | None = None, force: bool = False) -> Destination:
    """Push to `reference`; without a tag the bundle's version becomes the tag.

    `mount` names a bundle on the same file system that may have the blobs; the store copies them itself. A version that
    is another bundle already is replaced only with `force`. Raises UsageError, SourceError.
    """

    @contextlib.contextmanager
    def receive(bundle: Bundle) -> Iterator[Receiver]:
        if reference.digest and reference.digest != bundle.digest:
            raise UsageError(f"the bundle is not what `{reference}` names: it has digest {bundle.digest}")
        folder = _folder(reference.pinned(bundle))
        if not force:
            _check_target(folder, folder.small(INDEX_FILE, oci.MAX_MANIFEST), bundle)
        yield _Pushed(folder, folder.sizes(), _folder(mount) if mount else None)
        publish(folder, bundle, force=force)

    return receive


@dataclass(frozen=True, slots=True)
class _Pushed:
    folder: Folder
    present: dict[str, int]
    mount: Folder | None
    turns: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_UPLOADS))

    def find_missing(self, blobs: Sequence[Blob]) -> Sequence[Blob]:
        return [blob for blob in blobs if self.present.get(blob_path(blob.digest)) != blob.size]

    def write(self, blob: Blob, source: Source, moved: Moved) -> None:
        name = blob_path(blob.digest)
        with self.turns:
            if self.mount is None or not self.folder.adopt(name, self.mount, blob.size):
                self.folder.send(name, blob, source, moved)


def _check_target(folder: Folder, index: bytes | None, bundle: Bundle) -> None:
    if index is not None and bundle.digest not in _models(BucketBundle(folder), index):
        raise UsageError(
            f"`{folder.label}` already names another bundle",
            hint="release under a new version, or replace it with --force",
        )


def publish(folder: Folder, bundle: Bundle, *, force: bool) -> None:
    """Make the bundle visible, with every referrer that others attached meanwhile.

    With conditional writes (S3) no writer's index is lost; elsewhere each writer checks again after writing.
    """
    for _ in range(_RACES):
        index, state = folder.current(INDEX_FILE, oci.MAX_MANIFEST)
        if not force:
            _check_target(folder, index, bundle)
        merged = _merged(folder, bundle, index)
        wanted = merged.index()
        if index == wanted:
            return
        _write_records(folder, merged)
        folder.swap(INDEX_FILE, wanted, state)
    raise SourceError(f"others keep changing `{folder.label}`", hint="repeat the command")


def _merged(folder: Folder, bundle: Bundle, index: bytes | None) -> Bundle:
    """Return `bundle` with the target's additional referrers; those of another bundle are ignored."""
    if index is None:
        return bundle
    with contextlib.suppress(IntegrityError):  # what cannot be read is replaced
        there = read(BucketBundle(folder))
        if there.digest == bundle.digest:
            return replace(bundle, referrers=tuple({*bundle.referrers, *there.referrers}))
    return bundle


def _write_records(folder: Folder, bundle: Bundle) -> None:
    present = folder.sizes()
    for digest, blob in bundle.records.items():
        if present.get(blob_path(digest)) != blob.size:
            folder.put(blob_path(digest), bundle.record_bytes(digest))
    if folder.small(LAYOUT_FILE, 4096) != oci.LAYOUT_BYTES:
        folder.put(LAYOUT_FILE, oci.LAYOUT_BYTES)
