# SPDX-License-Identifier: Apache-2.0
"""Maintain the local store: check blobs against their digests, measure space, delete what is unused.

In use are the blobs of named bundles, of cached steps, and of every running process: the lease of a process (`store`)
lists what it found in the store or put there, and no process can extend its lease while the collector runs.
Environments of locked toolchains are in use by the cached steps that ran in them and by running processes. A kill at
any point leaves a store in which only unused things are missing.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

from packager import canonical
from packager.canonical import JSON
from packager.errors import IntegrityError
from packager.events import OnEvent, Progress, ignore
from packager.files import digest_of, is_at, open_regular, remove_tree, storage_errors
from packager.formats import oci
from packager.store import environments
from packager.store.store import ENVIRONMENT, MAX_STORE_RECORD, Store
from packager.types import Blob

_RECORDS = ("actions", "bundles", "quarantine", "memo", "locks", "leases", "releases")  # folders of small files


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes on disk, each blob counted once, under the first reason to keep it."""

    bundles: int
    steps: int
    in_use: int
    unneeded: int
    environments: int
    partial: int
    scratch: int
    other: int

    @property
    def total(self) -> int:
        """All bytes of the store."""
        return sum(getattr(self, item.name) for item in fields(self))


@dataclass(frozen=True, slots=True)
class Freed:
    """What a collection removed."""

    blobs: int
    size: int
    steps: int
    environments: int = 0


@dataclass(frozen=True, slots=True)
class Condition:
    """The result of reading every blob: their number, the damaged ones, and the named bundles that are incomplete."""

    blobs: int
    size: int
    damaged: tuple[str, ...]
    incomplete: tuple[str, ...]


def measure_store(store: Store) -> Size:
    """Measure the store. Only records are read."""
    with store.collecting():
        sizes = {f"sha256:{path.name}": path.stat().st_size for path in _blobs(store)}
        leased = store.living_leases()
    of_bundles = bundle_digests(store)
    of_steps = step_digests(store) - of_bundles
    leased -= of_bundles | of_steps
    rest = sizes.keys() - of_bundles - of_steps - leased

    def total(digests: set[str]) -> int:
        return sum(sizes.get(digest, 0) for digest in digests)

    return Size(
        bundles=total(of_bundles),
        steps=total(of_steps),
        in_use=total(leased),
        unneeded=total(rest),
        environments=sum(_tree_size(store.root / part) for part in (environments.TOOLCHAINS, environments.SERVED)),
        partial=_tree_size(store.root / "partial"),
        scratch=_tree_size(store.root / "tmp"),
        other=sum(_tree_size(store.root / part) for part in _RECORDS),
    )


def collect_store(store: Store, *, steps: bool = False) -> Freed:
    """Delete what is unused; with `steps` also every cached step, which then has to run again.

    Bundles in quarantine are unused. Does not wait for running processes: what they use stays, and so do partial blobs
    that are being received.
    """
    store.sweep()
    with store.collecting(), storage_errors(store.root):
        leased = store.living_leases()
        store.empty_quarantine()
        needed = bundle_digests(store) | leased
        forgotten = _forget_steps(store, needed, everything=steps)
        needed |= step_digests(store)
        count = freed = 0
        for path in list(_blobs(store)):
            if f"sha256:{path.name}" not in needed:
                freed += path.stat().st_size
                path.unlink()
                count += 1
        freed += _drop_partial(store)
        lost = [
            *_move_unused_environments(store, leased),
            *environments.move_unused(store.root / environments.SERVED, store.root / "tmp"),
        ]
    for directory in lost:  # many files: outside the lock, and what a kill leaves of it is scratch
        freed += _tree_size(directory)
        remove_tree(directory)
    return Freed(count, freed, forgotten, len(lost))


def check(store: Store, on_event: OnEvent = ignore, *, remove: bool = False) -> Condition:
    """Hash every blob, on all cores. With `remove` damaged ones are deleted, so that they are made or fetched again."""
    with store.collecting(shared=True):
        paths = list(_blobs(store))
        total, done = sum(path.stat().st_size for path in paths), 0

    def moved(count: int) -> None:
        nonlocal done
        done += count
        on_event(Progress("checking the store", min(done, total), total))

    def damaged(path: Path) -> str | None:
        with suppress(FileNotFoundError), open_regular(path) as file:
            blob = digest_of(file, limit=1 << 62, moved=moved)
            if blob.digest != f"sha256:{path.name}":
                return f"sha256:{path.name}"
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bad = tuple(sorted(digest for digest in pool.map(damaged, paths) if digest))
    if remove:
        for digest in bad:
            store.path(digest).unlink(missing_ok=True)
    return Condition(len(paths), total, bad, tuple(_incomplete(store)))


def bundle_digests(store: Store) -> set[str]:
    """Return every blob that a named bundle needs."""
    return {digest for name, version in store.bundles() for digest in _bundle(store, name, version)}


def _bundle(store: Store, name: str, version: str) -> Iterator[str]:
    entry = store.entry(name, version)
    yield from _named_by(store, entry.manifest)
    yield from entry.drafts.values()
    rows: list[oci.Descriptor] = []
    for digest in entry.referrers:
        yield from _named_by(store, digest)
        with suppress(IntegrityError):
            data = store.get(digest)
            kind = oci.parse_manifest(data, subject=digest).artifact_type
            rows.append(oci.Descriptor(oci.MANIFEST, Blob(digest, len(data)), {}, kind))
    if rows:  # the list of the tag schema, as `Bundle.referrers_index` states it
        yield canonical.sha256(oci.write_index(sorted(rows, key=lambda row: row.blob.digest)))


def _named_by(store: Store, digest: str) -> Iterator[str]:
    """Yield a manifest and what it names; a damaged manifest names nothing, and its bundle is lost."""
    yield digest
    with suppress(IntegrityError):
        manifest = oci.parse_manifest(store.get(digest), subject=digest)
        yield from (item.blob.digest for item in (manifest.config, *manifest.layers))


def step_digests(store: Store) -> set[str]:
    """Return every blob that a cached step needs."""
    found: set[str] = set()
    for record in (store.root / "actions").iterdir():
        tree = _tree_of(record)
        found |= {tree, *_files(store, tree)} if tree else set()
    return found


def _tree_of(record: Path) -> str | None:
    try:
        return str(json.loads(record.read_bytes())["tree"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _files(store: Store, tree: str) -> set[str]:
    try:
        value: JSON = canonical.load(store.path(tree).read_bytes(), limit=MAX_STORE_RECORD)
        return {digest for digest, _ in value.values()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return set()


def _forget_steps(store: Store, needed: set[str], *, everything: bool) -> int:
    """Delete the records of steps: all, or those whose result is gone. Those of running processes stay."""
    count = 0
    for record in list((store.root / "actions").iterdir()):
        tree = _tree_of(record)
        lost = tree is None or not all(store.path(digest).is_file() for digest in (tree, *_files(store, tree)))
        if lost or (everything and tree not in needed):
            record.unlink(missing_ok=True)
            count += 1
    return count


def _move_unused_environments(store: Store, leased: set[str]) -> list[Path]:
    """Move unused environments, also incomplete ones, to scratch; return their new paths.

    A process that uses or builds one holds it beforehand (`Store.hold_environment`).
    """
    root = store.root / environments.TOOLCHAINS
    if root.is_symlink() or not root.is_dir():  # a link: it is another store's, whose leases are unknown here
        return []
    needed = {word.removeprefix(ENVIRONMENT) for word in leased} | _used_environments(store)
    found = []
    for path in list(root.iterdir()):
        if path.name.lstrip(".").partition(".")[0] in needed:
            continue
        if not path.is_dir():
            path.unlink(missing_ok=True)
            continue
        found.append(path.replace(store.root / "tmp" / f"environment-{path.name.lstrip('.')}"))
    return found


def _used_environments(store: Store) -> set[str]:
    """Return the environments that cached steps ran in."""
    found = set()
    for record in (store.root / "actions").iterdir():
        with suppress(FileNotFoundError, ValueError, AttributeError):
            found.add(str(json.loads(record.read_bytes()).get("environment")))
    return found


def _incomplete(store: Store) -> Iterator[str]:
    for name, version in store.bundles():
        if not all(store.path(digest).is_file() for digest in _bundle(store, name, version)):
            yield f"{name}:{version}"


def _drop_partial(store: Store) -> int:
    """Delete partial blobs that no process is receiving."""
    freed = 0
    for path in (store.root / "partial").iterdir():
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if is_at(file, path):
                freed += path.stat().st_size
                path.unlink()
    return freed


def _blobs(store: Store) -> Iterator[Path]:
    return (store.root / "blobs" / "sha256").iterdir()


def _tree_size(directory: Path) -> int:
    """Return the total size of files; a file that disappears meanwhile counts as zero."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_size
    return total
