# SPDX-License-Identifier: Apache-2.0
"""List and remove bundles in the local store and in a repository.

Listing reads manifests and no files, and verifies no signature: `signed` means that statements are attached. Removing
deletes a name; the local store keeps the bytes until `cache gc`, a registry until its garbage collection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packager import canonical
from packager.canonical import JSON
from packager.errors import IntegrityError, NegativeAnswerError, PackagerError, SourceError, UsageError
from packager.formats import dsse, modelpack, oci
from packager.store.entries import StoreEntry
from packager.store.store import Store

if TYPE_CHECKING:
    from packager.transport.registry.repository import Repository

Fetch = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class Item:
    """One bundle. `version` is a tag in a registry; `size` is the bytes of distinct files, None if unknown.

    `origin` is why the bundle has its name (`built`, `verified`; `quarantine`: it has none); `problem` is the first
    fault, if any.
    """

    name: str | None
    version: str | None
    digest: str
    size: int | None
    statements: int
    origin: str | None = None
    problem: str | None = None

    @property
    def signed(self) -> bool:
        """Whether statements are attached; no signature was checked."""
        return self.statements > 0

    def to_json(self) -> JSON:
        return {
            "name": self.name,
            "version": self.version,
            "digest": self.digest,
            "size": self.size,
            "signed": self.signed,
            "origin": self.origin,
            "problem": self.problem,
        }


def list_store(store: Store, name: str | None = None) -> list[Item]:
    """List the local store, named bundles first; with `name` only those of that name, and none in quarantine."""
    found = [_item(store, store.entry(*pair), *pair) for pair in store.bundles() if name in (None, pair[0])]
    aside = store.quarantined() if name is None else ()
    return [*found, *(_item(store, store.find(digest)) for digest in aside)]


def _item(store: Store, entry: StoreEntry, name: str | None = None, version: str | None = None) -> Item:
    origin = entry.origin if name else "quarantine"
    statements = sum(_is_statement(store.get, digest) for digest in entry.referrers)
    try:
        size = _size(store.get(entry.manifest), entry.manifest)
    except (PackagerError, FileNotFoundError):
        return Item(name, version, entry.manifest, None, statements, origin, "its manifest is missing or damaged")
    return Item(name, version, entry.manifest, size, statements, origin)


def _size(manifest: bytes, subject: str) -> int:
    parsed = oci.parse_manifest(manifest, subject=subject)
    if parsed.artifact_type != modelpack.ARTIFACT:
        raise IntegrityError(f"`{subject}` is no bundle", subject=subject)
    return sum(blob.size for blob in {layer.blob for layer in parsed.layers})


def _is_statement(get: Fetch, digest: str) -> bool:
    with suppress(PackagerError, FileNotFoundError):
        return oci.parse_manifest(get(digest), subject=digest).artifact_type == dsse.BUNDLE
    return False


def list_tags(repository: Repository, jobs: int) -> list[Item]:
    """List every tag of a repository, `jobs` at a time; one that names no bundle has a `problem`."""
    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(lambda tag: _tag(repository, tag), repository.tags()))
    return [item for item in found if item is not None]


def _tag(repository: Repository, tag: str) -> Item | None:
    data = repository.manifest(tag)
    if data is None:
        return None  # removed meanwhile
    name, digest = repository.reference.name.rpartition("/")[2], canonical.sha256(data)
    try:
        size = _size(data, tag)
    except IntegrityError:
        return Item(name, tag, digest, None, 0, problem="no bundle")
    statements = sum(item.artifact_type == dsse.BUNDLE for item in repository.referrers(digest))
    return Item(name, tag, digest, size, statements)


@dataclass(frozen=True, slots=True)
class Removed:
    """A removed name and its bundle; `left` are referrers that the registry did not delete."""

    digest: str
    left: tuple[str, ...] = ()


def remove_from_store(store: Store, what: tuple[str, str] | str) -> Removed:
    """Remove a name and version from the local store, or a digest from its quarantine. Raises UsageError."""
    if isinstance(what, tuple):
        return Removed(store.forget(*what).manifest)
    for name, version in store.bundles():
        if store.entry(name, version).manifest == what:
            raise UsageError(f"`{what}` has a name", hint=f"remove it by that: `packager rm {name}:{version}`")
    store.forget_quarantined(what)
    return Removed(what)


def remove_tag(repository: Repository, *, force: bool = False) -> Removed:
    """Remove a tag from a repository, or, by digest, a bundle with all its tags; the last tag takes the signatures.

    Some registries delete only by digest, which removes every tag of it: that needs `force` if there are others.
    Raises UsageError, SourceError, NegativeAnswerError.
    """
    reference = repository.reference
    digest, _ = repository.resolve_any()
    others = [tag for tag in repository.tags() if tag != reference.tag and _names(repository, tag, digest)]
    by_tag = reference.digest is None and reference.tag is not None and repository.delete(reference.tag)
    gone = by_tag and not _names(repository, str(reference.tag), digest)
    if gone and others:
        return Removed(digest)
    if not gone and others and not force:
        listed = ", ".join(f"`{tag}`" for tag in others[:5])
        raise NegativeAnswerError(
            f"`{reference}` cannot go by itself: {listed} would go too",
            hint="registry and digest allow no less; repeat with --force to remove them all",
        )
    referrers = [*repository.referrers(digest)]
    if not repository.delete(digest) and not gone:
        raise SourceError(
            f"registry `{reference.host}` deletes nothing",
            hint="deleting is switched off there (Docker's registry: REGISTRY_STORAGE_DELETE_ENABLED=true)",
        )
    return Removed(digest, tuple(_left(repository, digest, [item.blob.digest for item in referrers])))


def _names(repository: Repository, tag: str, digest: str) -> bool:
    data = repository.manifest(tag)
    return data is not None and canonical.sha256(data) == digest


def _left(repository: Repository, digest: str, referrers: list[str]) -> Iterator[str]:
    """Delete the referrers of a deleted bundle; yield those that stay."""
    listing = repository.manifest(oci.referrers_tag(digest))
    for what in (*referrers, *([canonical.sha256(listing)] if listing else [])):
        with suppress(SourceError):
            if repository.delete(what):
                continue
        yield what
