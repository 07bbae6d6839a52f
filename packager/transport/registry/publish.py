# SPDX-License-Identifier: Apache-2.0
"""Push a bundle to a registry. The tag is written last, when everything it refers to is there, with signatures."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from packager import canonical, names
from packager.bundle.bundle import Bundle, Referrer
from packager.errors import IntegrityError, SourceError, UsageError
from packager.files import Moved, ignore_count
from packager.formats import oci
from packager.records import dataclass
from packager.transport.registry.reference import Reference
from packager.transport.registry.repository import Repository
from packager.transport.registry.upload import upload
from packager.transport.registry.wire import Settings
from packager.transport.writers import Destination, Receiver, Source
from packager.types import Blob

_RACES = 5  # retries of the shared list of referrers


def open_registry(
    reference: Reference, settings: Settings, *, mount: str | None = None, force: bool = False
) -> Destination:
    """Push to `reference`; without a tag its version becomes the tag.

    `mount` names another repository of the same registry that may have the blobs. A tag of another bundle is moved only
    with `force`. Raises UsageError, SourceError.
    """

    @contextlib.contextmanager
    def receive(bundle: Bundle) -> Iterator[Receiver]:
        repository = Repository(reference, settings)
        tag = reference.tag or names.tag_of(bundle.version)
        _check_target(repository, bundle, tag, force=force)
        yield _Pushed(repository, mount)
        _push_records(repository, bundle)
        push_referrers(repository, bundle)
        repository.put_manifest(tag, bundle.manifest, oci.MANIFEST)

    return receive


def _check_target(repository: Repository, bundle: Bundle, tag: str, *, force: bool) -> None:
    wanted = repository.reference.digest
    if wanted and wanted != bundle.digest:
        raise UsageError(f"the bundle is not what `{repository.reference}` names: it has digest {bundle.digest}")
    there = None if force else repository.manifest(tag)
    if there is not None and canonical.sha256(there) != bundle.digest:
        raise UsageError(
            f"tag `{tag}` of `{repository.reference.name}` already names another bundle: {canonical.sha256(there)}",
            hint="release under a new version, or move the tag with --force",
        )


@dataclass(frozen=True, slots=True)
class _Pushed:
    repository: Repository
    mount: str | None

    def find_missing(self, blobs: Sequence[Blob]) -> Sequence[Blob]:
        with ThreadPoolExecutor(self.repository.settings.jobs) as pool:
            here = pool.map(lambda blob: self.repository.has(blob, push=True), blobs)
            return [blob for blob, is_here in zip(blobs, here, strict=True) if not is_here]

    def write(self, blob: Blob, source: Source, moved: Moved) -> None:
        upload(self.repository, blob, source, moved, self.mount)


def _push_records(repository: Repository, bundle: Bundle) -> None:
    _push_blob(repository, bundle.config, bundle.record_bytes(bundle.config.digest))
    repository.put_manifest(bundle.digest, bundle.manifest, oci.MANIFEST)


def _push_blob(repository: Repository, blob: Blob, data: bytes) -> None:
    if not repository.has(blob, push=True):
        upload(repository, blob, lambda: io.BytesIO(data), ignore_count)


class Attached(Protocol):
    """A manifest in a registry with what is attached to it: a bundle, or the statements about an image."""

    @property
    def digest(self) -> str:
        """Return the digest of the manifest."""

    @property
    def referrers(self) -> tuple[Referrer, ...]:
        """Return what is attached."""

    def record_bytes(self, digest: str) -> bytes:
        """Return the bytes of a manifest or blob of a referrer."""

    def referrers_index(self) -> bytes:
        """Return the list of the tag schema."""


def push_referrers(repository: Repository, bundle: Attached) -> None:
    """Push everything attached to `bundle`, and list it under the tag schema, also where there is a referrers API.

    The list is always written: clients and later registries without that API find nothing otherwise.
    """
    if not bundle.referrers:
        return
    empty = Blob(canonical.sha256(oci.EMPTY_BYTES), len(oci.EMPTY_BYTES))
    _push_blob(repository, empty, oci.EMPTY_BYTES)

    def push(referrer: Referrer) -> None:
        for blob in (referrer.content, *referrer.others):
            _push_blob(repository, blob, bundle.record_bytes(blob.digest))
        repository.put_manifest(referrer.manifest.digest, bundle.record_bytes(referrer.manifest.digest), oci.MANIFEST)

    with ThreadPoolExecutor(repository.settings.jobs) as pool:
        list(pool.map(push, bundle.referrers))
    _list(repository, bundle)


def _list(repository: Repository, bundle: Attached) -> None:
    """Merge our referrers into the list at the tag; there is no compare-and-swap, so it is read again afterwards."""
    tag = oci.referrers_tag(bundle.digest)
    ours = {item.blob.digest: item for item in oci.parse_index(bundle.referrers_index(), subject=tag)}
    for _ in range(_RACES):
        try:
            listed = {item.blob.digest: item for item in repository.tagged(bundle.digest)}
        except IntegrityError:
            listed = {}  # the tag has no list: it is replaced
        if ours.keys() <= listed.keys():
            return
        merged = listed | ours
        repository.put_manifest(tag, oci.write_index([merged[digest] for digest in sorted(merged)]), oci.INDEX)
    raise SourceError(f"others keep changing the referrers of `{bundle.digest}`", hint="repeat the command")
