# SPDX-License-Identifier: Apache-2.0
"""Trees in a repository of a registry, or in a folder of a bucket, for machines that work on the same builds.

    oci://host/name      blobs by digest; a manifest `tree-HEX` for each tree, so that no garbage collection takes them
    s3://bucket/folder   `blobs/sha256/HEX`; `file:///folder` is the same on a file system that all machines see

A blob is sent once for all readers, and every reader hashes what it gets: what lies there needs no trust. Records of
trees are blobs too. Nothing is deleted here.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Protocol

from packager import canonical
from packager.canonical import JSON
from packager.errors import TooLargeError, UsageError
from packager.files import ignore_count
from packager.formats import oci
from packager.store.store import MAX_STORE_RECORD, Store
from packager.types import Blob, Tree
from packager.untrusted_files import Bounds

if TYPE_CHECKING:
    from packager.transport.bucket.folder import Folder
    from packager.transport.registry.repository import Repository
    from packager.transport.registry.wire import Settings
    from packager.transport.writers import Source

_KIND = "application/vnd.packager.tree.v1+json"
_OCTETS = "application/octet-stream"
_AT_ONCE = 4  # blobs that move at a time


class _Place(Protocol):
    """Where blobs lie."""

    def has(self, blob: Blob) -> bool:
        """Return whether the blob is there."""

    def send(self, blob: Blob, source: Source) -> None:
        """Write a blob from a stream, which is hashed on the way."""

    def open(self, blob: Blob) -> BinaryIO:
        """Open a blob; its bytes are not checked."""

    def keep(self, record: Blob, blobs: Iterable[Blob]) -> None:
        """Keep what belongs to one tree as long as the place itself."""


@dataclass(frozen=True, slots=True)
class _InRegistry:
    repository: Repository

    def has(self, blob: Blob) -> bool:
        return self.repository.has(blob, push=True)

    def send(self, blob: Blob, source: Source) -> None:
        from packager.transport.registry.upload import upload

        upload(self.repository, blob, source, ignore_count)

    def open(self, blob: Blob) -> BinaryIO:
        return self.repository.open(blob)

    def keep(self, record: Blob, blobs: Iterable[Blob]) -> None:
        layers = [_descriptor(_OCTETS, blob) for blob in sorted({*blobs}, key=lambda blob: blob.digest)]
        manifest: JSON = {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST,
            "artifactType": _KIND,
            "config": _descriptor(_KIND, record),
            "layers": layers or [_descriptor(_KIND, record)],  # registries refuse none
        }
        data = canonical.dump(manifest)
        if len(data) <= oci.MAX_MANIFEST:
            self.repository.put_manifest(f"tree-{record.digest.removeprefix('sha256:')}", data, oci.MANIFEST)


@dataclass(frozen=True, slots=True)
class _InBucket:
    folder: Folder

    def has(self, blob: Blob) -> bool:
        return self.folder.size(_name(blob)) == blob.size

    def send(self, blob: Blob, source: Source) -> None:
        self.folder.send(_name(blob), blob, source, ignore_count)

    def open(self, blob: Blob) -> BinaryIO:
        return self.folder.open(_name(blob), blob.size)

    def keep(self, record: Blob, blobs: Iterable[Blob]) -> None:
        """Do nothing: buckets delete only what their owner says."""


def _descriptor(kind: str, blob: Blob) -> Mapping[str, JSON]:
    return {"mediaType": kind, "digest": blob.digest, "size": blob.size}


def _name(blob: Blob) -> str:
    return f"blobs/sha256/{blob.digest.removeprefix('sha256:')}"


@dataclass(frozen=True)
class SharedStore:
    """The shared store at an address; several machines and threads may use it at once."""

    place: _Place
    _there: set[str] = field(default_factory=set)  # trees that were sent or read by this process

    def send_tree(self, store: Store, digest: str) -> Blob:
        """Send what is missing of a tree of `store`; return its record. Raises SourceError, IntegrityError."""
        record = store.get(digest)
        named = Blob(digest, len(record))
        if digest not in self._there:
            blobs = {blob for _, blob in store.tree(digest)}
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda blob: self._send(blob, _opener(store, blob)), blobs))
            self._send(named, lambda: io.BytesIO(record))
            self.place.keep(named, blobs)
            self._there.add(digest)
        return named

    def _send(self, blob: Blob, source: Callable[[], BinaryIO]) -> None:
        if not self.place.has(blob):
            self.place.send(blob, source)

    def receive_tree(self, store: Store, record: Blob, bounds: Bounds) -> Tree:
        """Fetch what `store` lacks of a tree, every byte hashed. Raises SourceError, IntegrityError.

        Within `bounds`, since a record may state any number of files of any size.
        """
        if record.size > MAX_STORE_RECORD:
            raise TooLargeError(f"the record of a tree has {record.size} bytes", subject=record.digest)
        store.receive(record, lambda: self.place.open(record))
        tree = store.tree(record.digest)
        if len(tree.files) > bounds.entries or tree.size > bounds.total:
            raise TooLargeError(f"a tree has {len(tree.files)} files of {tree.size} bytes", subject=record.digest)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda blob: store.receive(blob, lambda: self.place.open(blob)), {blob for _, blob in tree}))
        self._there.add(record.digest)
        return tree


def _opener(store: Store, blob: Blob) -> Callable[[], BinaryIO]:
    return lambda: store.open(blob.digest)


def check_address(address: str) -> str:
    """Return the address of a shared store, checked: no tag, no digest, no password. Raises UsageError."""
    if address.startswith("oci://"):
        from packager.transport.registry import reference

        there = reference.parse(address)
        if there.tag or there.digest:
            raise UsageError(f"`{there}` names one artifact, not a repository", hint="write oci://host/name")
        return address
    from packager.transport.bucket.reference import folder_address, hide_credentials, parse

    is_s3 = address.startswith(("s3://", "s3a://"))
    checked = folder_address(address) if is_s3 else parse(f"{address.rstrip('/')}/trees").name.removesuffix("/trees")
    if hide_credentials(checked) != checked:
        raise UsageError(
            f"`{hide_credentials(checked)}` holds a password, which would travel to every node",
            hint="give each node its own credentials in its driver's environment",
        )
    return checked


def open_shared(address: str, settings: Callable[[], Settings]) -> SharedStore:
    """Open the shared store at `oci://host/name` or `s3://bucket/folder`. Raises UsageError, MissingToolError."""
    checked = check_address(address)
    if checked.startswith("oci://"):
        from packager.transport.registry import reference
        from packager.transport.registry.repository import Repository

        return SharedStore(_InRegistry(Repository(reference.parse(checked), settings())))
    from packager.transport.bucket.folder import Folder

    return SharedStore(_InBucket(Folder(checked)))
