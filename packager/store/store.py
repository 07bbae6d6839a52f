# SPDX-License-Identifier: Apache-2.0
"""The local store: immutable blobs, one small record per action, one per bundle.

    <root>/v1/
      blobs/sha256/<hex>        read-only, named by content
      actions/<hex>             first writer wins, so one key never has two results
      bundles/<name>/<version>  {"manifest": digest, "referrers": [digest, …], "drafts": {predicate type: digest},
                                 "origin": "built" or "verified"}
      quarantine/<hex>          the same for a bundle from elsewhere that was not verified; it has no name
      partial/<hex>             the beginning of a blob that is being received; the next attempt resumes there
      tmp/<x>/ and tmp/<x>.lock scratch of a running process; deleted once its lock is free
      locks/<hex>               single flight per action, also between processes
      environments/<x>/         virtual environments of locked toolchains (packager.lock.toolchains)
      served/<x>/               environments of installations, which are hard links to these
      releases/                 journal of releases (packager.release_plan)
      leases/<x>                digests and names of environments that a running process found or put here, so that
                                `cache gc` (`collector`) keeps them; void once its lock is free

Nothing becomes visible before it is complete: data is written to scratch, hashed on the way, synced and renamed.
Killing any process at any point leaves a usable store. The layout is versioned by its first folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from packager import canonical, names, untrusted_files
from packager.canonical import JSON
from packager.errors import IntegrityError, UsageError, WrongContentError, did_you_mean
from packager.files import (
    FileSink,
    Moved,
    clone_hashed,
    copy,
    digest_of,
    hash_into,
    hold_lock,
    ignore_count,
    is_at,
    open_regular,
    read_own,
    storage_errors,
    sync_directory,
    walk_regular,
    write_atomically,
    write_new,
)
from packager.store.entries import StoreEntry, name_is_taken
from packager.store.leases import Lease, read_living
from packager.store.scratch import open_scratch, sweep_scratch
from packager.types import DIGEST, Blob, Result, Tree, check_digest, check_paths
from packager.untrusted_files import Bounds

MAX_STORE_RECORD = 64 << 20  # bytes of a JSON record
MAX_BLOB = 1 << 62
_SYNCS = 8  # small files that are synced at a time
ENVIRONMENT = "environment:"  # prefix of environments in a lease; they have names where blobs have digests


class Store:
    """See the module docstring. Several processes may share one root."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute() / "v1"
        self._blobs = self.root / "blobs" / "sha256"
        with storage_errors(root):
            for part in ("blobs/sha256", "actions", "bundles", "quarantine", "partial", "tmp", "locks", "leases"):
                (self.root / part).mkdir(parents=True, exist_ok=True)
        self._lease = Lease(self.root)

    # blobs

    def path(self, digest: str) -> Path:
        """Return the path of the blob `digest`, whether it exists or not."""
        return self._blobs / check_digest(digest, subject="blob").removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        """Return whether the blob is here; from then on `cache gc` keeps it while this process runs."""
        if self._lease.holds(digest):
            return self.path(digest).is_file()
        with self.collecting(shared=True):
            here = self.path(digest).is_file()
            if here:
                self._lease.hold(digest)
        return here

    def find_missing(self, digests: Sequence[str]) -> set[str]:
        """Return those of `digests` that are not here; `cache gc` keeps the others while this process runs."""
        with self.collecting(shared=True):
            here = [digest for digest in digests if self.path(digest).is_file()]
            if here:
                self._lease.hold(*here)
        return set(digests).difference(here)

    def hold_environment(self, name: str) -> None:
        """Keep the environment `name` while this process runs, whether it exists or is about to be built."""
        with self.collecting(shared=True):
            self._lease.hold(f"{ENVIRONMENT}{name}")

    def release(self) -> None:
        """Release the lease of this process; happens by itself when the store is no longer used."""
        self._lease.release()

    @contextlib.contextmanager
    def collecting(self, *, shared: bool = False) -> Iterator[None]:
        """Lock the collector out (`shared`), or be the collector: then no process can extend its lease."""
        with hold_lock(self.root / "leases.gate", shared=shared):
            yield

    def open(self, digest: str) -> BinaryIO:
        """Open a blob for reading; the reader checks its bytes."""
        try:
            return open_regular(self.path(digest))
        except FileNotFoundError:
            raise IntegrityError(f"the store has no blob `{digest}`", subject=digest) from None

    def get(self, digest: str, *, limit: int = MAX_STORE_RECORD) -> bytes:
        """Read a small blob whole, checked against its digest."""
        with self.open(digest) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise IntegrityError(f"blob `{digest}` is longer than the {limit} bytes expected of it", subject=digest)
        if canonical.sha256(data) != digest:
            raise IntegrityError(
                f"blob `{digest}` in the store is damaged",
                subject=str(self.path(digest)),
                hint="delete that file and repeat",
            )
        return data

    def put(self, data: bytes) -> Blob:
        """Store bytes."""
        (blob,) = self.put_all([data])
        return blob

    def put_all(self, contents: Iterable[bytes]) -> list[Blob]:
        """Store small records together: one scratch directory, and one sync of the directory of blobs."""
        found = {canonical.sha256(data): data for data in contents}
        blobs = {digest: Blob(digest, len(data)) for digest, data in found.items()}
        missing = {digest: str(number) for number, digest in enumerate(self.find_missing(list(found)))}
        if missing:
            with self.scratch() as scratch, storage_errors(self.root):
                _write_together({scratch / name: found[digest] for digest, name in missing.items()})
                with self.collecting(shared=True):
                    self._lease.hold(*missing)
                    for digest, name in missing.items():
                        (scratch / name).replace(self.path(digest))
                sync_directory(self._blobs)
        return list(blobs.values())

    def add(self, source: BinaryIO, *, expect: Blob | None = None, moved: Moved = ignore_count) -> Blob:
        """Store a stream in one pass; with `expect`, anything else than that blob is an IntegrityError."""
        with self.scratch() as scratch, storage_errors(self.root):
            with (scratch / "blob").open("wb", buffering=0) as sink:
                blob = copy(source, sink, limit=expect.size if expect else MAX_BLOB, moved=moved)
            if expect and blob != expect:
                raise IntegrityError(f"expected {expect.digest}, got {blob.digest}", subject=expect.digest)
            self._keep(scratch / "blob", blob)
        return blob

    def _keep(self, file: Path, blob: Blob) -> None:
        """Move a complete, hashed scratch file to its name, for good."""
        with storage_errors(self.root):
            self._move(file, blob)
            sync_directory(self._blobs)

    def _move(self, file: Path, blob: Blob) -> None:
        """Write a complete scratch file to the disk, and rename it; the caller syncs the directory."""
        file.chmod(0o444)
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        with self.collecting(shared=True):
            self._lease.hold(blob.digest)
            file.replace(self.path(blob.digest))

    def receive(self, blob: Blob, source: Callable[[], BinaryIO], moved: Moved = ignore_count) -> None:
        """Store `blob` from a stream that may break: received bytes stay, and the next attempt requests only the rest.

        The digest of the whole is checked before the blob becomes visible. Where a resumed blob turns out wrong, its
        old beginning is deleted and the whole is read once more; a wrong whole is an IntegrityError. Two processes
        that receive the same blob do it one after the other.
        """
        part = self.root / "partial" / blob.digest.removeprefix("sha256:")
        while not self.has(blob.digest):
            with storage_errors(self.root), part.open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if is_at(lock, part):  # else another process finished it while we waited
                    self._fill(part, blob, source, moved)

    def _fill(self, part: Path, blob: Blob, source: Callable[[], BinaryIO], moved: Moved) -> None:
        begun = part.stat().st_size
        try:
            got = _resume(part, blob, source, moved)
        except OSError as error:
            if error.errno is not None and not isinstance(error, ConnectionError):
                part.unlink(missing_ok=True)  # free the space on a full disk
            raise
        if got == blob:
            self._keep(part, blob)
            return
        part.unlink()
        if not begun:
            raise IntegrityError(f"expected {blob.digest}, got {got.digest}", subject=blob.digest)

    # trees

    def ingest(self, directory: Path, known: Mapping[str, Blob] | None = None) -> Tree:
        """Move every regular file that this process wrote below `directory`, in scratch of this store, into the store.

        `known` are blobs that the caller hashed while it wrote them there: no byte is read twice.
        """
        from concurrent.futures import ThreadPoolExecutor

        found, hashed = list(walk_regular(directory)), known or {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            blobs = list(pool.map(lambda item: hashed.get(item[0]) or _blob_at(item[1]), found))
        with storage_errors(self.root):
            for (_, path), blob in zip(found, blobs, strict=True):
                if not self.has(blob.digest):
                    self._move(path, blob)
            sync_directory(self._blobs)
        return self.put_tree(Tree.of({name: blob for (name, _), blob in zip(found, blobs, strict=True)}))

    def take(self, directory: int, bounds: Bounds) -> Tree:
        """Copy every file below an open, untrusted directory into the store.

        Links are not followed, and files are neither moved nor kept open, so later writes to them change no blob.
        Raises IntegrityError for anything but regular files with portable names within `bounds`.
        """
        from concurrent.futures import ThreadPoolExecutor

        found = {name: status.st_size for name, status in untrusted_files.walk(directory, bounds)}
        check_paths(found)
        with self.scratch() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:

            def taken(item: tuple[int, str]) -> Blob:
                number, name = item
                return self._copied(directory, name, found[name], scratch / str(number))

            blobs = list(pool.map(taken, enumerate(found)))
        with storage_errors(self.root):
            sync_directory(self._blobs)
        return self.put_tree(Tree.of(dict(zip(found, blobs, strict=True))))

    def _copied(self, directory: int, name: str, size: int, file: Path) -> Blob:
        with (
            storage_errors(self.root),
            untrusted_files.open_below(directory, name) as source,
            file.open("xb", 0) as sink,
        ):
            blob = clone_hashed(source, sink, limit=size)
        if blob.size != size:
            raise WrongContentError(f"`{name}` changed while it was read", subject=name)
        if not self.has(blob.digest):
            with storage_errors(self.root):
                self._move(file, blob)
        return blob

    def put_tree(self, tree: Tree) -> Tree:
        self.put(canonical.dump(tree.to_json()))
        return tree

    def tree(self, digest: str) -> Tree:
        """Load the tree `digest`."""
        return Tree.from_json(canonical.load(self.get(digest), limit=MAX_STORE_RECORD))

    def has_tree(self, digest: str) -> bool:
        """Return whether the tree and every blob it names are here."""
        return self.has(digest) and all(self.has(blob.digest) for _, blob in self.tree(digest))

    def checkout(self, tree: Tree, directory: Path) -> Path:
        """Write `tree` below a fresh `directory` as world-readable copies, checked while copying.

        Raises IntegrityError for a blob that is not what its name says.
        """
        from concurrent.futures import ThreadPoolExecutor

        with storage_errors(directory):
            directory.mkdir(parents=True)
            for folder in sorted({parent for name, _ in tree for parent in PurePosixPath(name).parents}):
                (directory / folder).mkdir(exist_ok=True)
                (directory / folder).chmod(0o755)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for _ in pool.map(lambda item: self._write_checked(item[1], directory / item[0]), tree):
                    pass
        return directory

    def _write_checked(self, blob: Blob, target: Path) -> None:
        with self.open(blob.digest) as source, target.open("xb", 0) as sink:
            os.fchmod(sink.fileno(), 0o644)
            got = clone_hashed(source, sink, limit=blob.size)
        if got != blob:
            raise IntegrityError(
                f"blob `{blob.digest}` in the store is damaged: its content is {got.digest}",
                subject=str(self.path(blob.digest)),
                hint="delete that file and repeat",
            )

    # actions

    def recall(self, key: str) -> Result | None:
        """Return the cached result of an action, if all of it is still here."""
        try:
            record = json.loads(read_own(self._record(key), MAX_STORE_RECORD))
        except FileNotFoundError:
            return None
        if not self.has_tree(record["tree"]):
            return None
        return Result(record["tree"], record["facts"], cached=True, confinement=record.get("confinement"))

    def remember(
        self, key: str, action: JSON, result: Result, environment: str | None = None, *, instead: bool = False
    ) -> Result:
        """Record a result, and the environment it ran in. The first complete record wins; its result is returned.

        With `instead` this one replaces it.
        """
        ran = {"environment": environment} if environment else {}
        confined = {"confinement": result.confinement} if result.confinement else {}
        record = {"action": action, "tree": result.tree, "facts": result.facts, **ran, **confined}
        with self.scratch() as scratch, storage_errors(self.root):
            file = scratch / "record"
            file.write_bytes(canonical.dump(record))
            if instead:
                file.replace(self._record(key))
                return result
            try:
                os.link(file, self._record(key))
            except FileExistsError:
                if winner := self.recall(key):
                    return winner
                file.replace(self._record(key))  # the old record's blobs are gone: it is no longer a result
        return result

    def _record(self, key: str) -> Path:
        return self.root / "actions" / key.removeprefix("sha256:")

    @contextlib.contextmanager
    def single_flight(self, key: str) -> Iterator[None]:
        """Let one process at a time work on `key`."""
        with hold_lock(self.root / "locks" / key.removeprefix("sha256:")):
            yield

    # bundles

    def entry(self, name: str, version: str) -> StoreEntry:
        """Look up a bundle by name and version."""
        found = self.named(name, version)
        if found is None:
            known = [f"{n}:{v}" for n, v in self.bundles()]
            raise UsageError(
                f"the local store has no bundle `{name:.63}:{version:.128}`",
                hint=did_you_mean(f"{name}:{version}", known) if known else "build one with `packager build`",
            )
        return found

    def named(self, name: str, version: str) -> StoreEntry | None:
        """Return the entry of `name:version`, or None."""
        if not names.is_name(name) or not names.is_version(version):
            return None
        try:
            return StoreEntry.from_json(json.loads(read_own(self.root / "bundles" / name / version, MAX_STORE_RECORD)))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def find(self, digest: str) -> StoreEntry:
        """Look up a bundle by the digest of its manifest, named or in quarantine."""
        for name, version in self.bundles():
            entry = self.entry(name, version)
            if entry.manifest == digest:
                return entry
        aside = self._aside(digest)
        if not aside.is_file():
            raise UsageError(f"the local store has no bundle `{digest}`", hint="`packager pull` or `import` brings one")
        return StoreEntry.from_json(json.loads(read_own(aside, MAX_STORE_RECORD)))

    def bundles(self) -> Sequence[tuple[str, str]]:
        """List (name, version) of every bundle, sorted."""
        found = ((path.parent.name, path.name) for path in (self.root / "bundles").glob("*/*"))
        return sorted((name, version) for name, version in found if names.is_name(name) and names.is_version(version))

    def quarantined(self) -> Sequence[str]:
        """List the digests of the bundles in quarantine, sorted."""
        found = (f"sha256:{path.name}" for path in (self.root / "quarantine").iterdir())
        return sorted(digest for digest in found if DIGEST.fullmatch(digest))

    def forget(self, name: str, version: str) -> StoreEntry:
        """Remove the name `name:version` and return its entry; the blobs stay until they are collected."""
        with self.single_flight(f"bundle-{name}-{version}"):
            entry = self.entry(name, version)
            (self.root / "bundles" / name / version).unlink()
        return entry

    def forget_quarantined(self, digest: str) -> None:
        """Remove a bundle from quarantine. Raises UsageError if there is none of that digest."""
        try:
            self._aside(digest).unlink()
        except FileNotFoundError:
            raise UsageError(f"no bundle `{digest}` lies in quarantine", hint="see `packager list`") from None

    def name_bundle(self, name: str, version: str, entry: StoreEntry) -> None:
        """Set the entry of `name:version` atomically. Raises MalformedError for what cannot be a name."""
        names.check(name, version, subject=entry.manifest)
        path = self.root / "bundles" / name / version
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, canonical.dump(entry.to_json()))

    def quarantine(self, entry: StoreEntry) -> None:
        """Keep an unverified bundle in quarantine, under its digest alone."""
        with self.single_flight(f"bundle-{entry.manifest}"):
            aside = self._aside(entry.manifest)
            known = (
                StoreEntry.from_json(json.loads(read_own(aside, MAX_STORE_RECORD)))
                if aside.is_file()
                else StoreEntry(entry.manifest)
            )
            write_atomically(aside, canonical.dump(known.joined(entry).to_json()))

    def empty_quarantine(self) -> None:
        """Remove every bundle from quarantine; their blobs stay until they are collected."""
        for path in (self.root / "quarantine").iterdir():
            path.unlink(missing_ok=True)

    def _aside(self, digest: str) -> Path:
        return self.root / "quarantine" / check_digest(digest, subject="bundle").removeprefix("sha256:")

    def admit(self, name: str, version: str, entry: StoreEntry, *, replace: bool = False) -> None:
        """Give a verified bundle from elsewhere its name.

        The same bundle under that name keeps its referrers and drafts. Another one is replaced only with `replace`,
        else UsageError.
        """
        with self.single_flight(f"bundle-{name}-{version}"):
            known = self.named(name, version)
            if known is not None and known.manifest == entry.manifest:
                entry = known.joined(entry)
            elif known is not None and not replace:
                raise name_is_taken(name, version, known, entry)
            self.name_bundle(name, version, entry)
            self._aside(entry.manifest).unlink(missing_ok=True)

    def add_referrers(self, name: str, version: str, manifest: str, digests: Sequence[str]) -> None:
        """Add referrers to the bundle `manifest`, named or in quarantine; two writers at once both succeed."""
        added = StoreEntry(manifest, tuple(digests))
        with self.single_flight(f"bundle-{name}-{version}"):
            known = self.named(name, version)
            if known is not None and known.manifest == manifest:
                self.name_bundle(name, version, known.joined(added))
                return
        self.quarantine(added)

    def remove_referrers(self, name: str, version: str, manifest: str, left: Sequence[str]) -> None:
        """Remove the referrers of the bundle `manifest`, named or in quarantine, except `left`."""
        with self.single_flight(f"bundle-{name}-{version}"):
            known = self.named(name, version)
            if known is not None and known.manifest == manifest:
                self.name_bundle(name, version, replace(known, referrers=tuple(sorted(left))))
                return
        with self.single_flight(f"bundle-{manifest}"):
            write_atomically(self._aside(manifest), canonical.dump(StoreEntry(manifest, tuple(sorted(left))).to_json()))

    def draft(self, name: str, version: str, drafts: Mapping[str, str]) -> StoreEntry:
        """Store the unsigned predicates of a bundle in place of the former ones."""
        with self.single_flight(f"bundle-{name}-{version}"):
            entry = replace(self.entry(name, version), drafts=drafts)
            self.name_bundle(name, version, entry)
        return entry

    # scratch

    def scratch(self) -> contextlib.AbstractContextManager[Path]:
        """Yield a private directory on the store's file system; it is deleted with the process that made it."""
        return open_scratch(self.root)

    def sweep(self) -> int:
        """Delete scratch of killed processes; return the number of directories."""
        return sweep_scratch(self.root)

    def living_leases(self) -> set[str]:
        """Return what running processes use, and delete the leases of dead ones; for the collector only."""
        return read_living(self.root)


def _write_together(files: Mapping[Path, bytes]) -> None:
    """Write new, read-only files to the disk; a file system syncs several of them in the time of one."""
    if len(files) == 1:  # what most callers have: no thread, and no import of pools
        ((path, data),) = files.items()
        write_new(path, data, mode=0o444)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_SYNCS) as pool:
        for _ in pool.map(lambda item: write_new(*item, mode=0o444), files.items()):
            pass


def _blob_at(path: Path) -> Blob:
    with open_regular(path) as source:
        return digest_of(source, limit=MAX_BLOB)


def _resume(part: Path, blob: Blob, source: Callable[[], BinaryIO], moved: Moved) -> Blob:
    """Append to `part` up to the size of `blob`, and return the blob that it then is."""
    with part.open("r+b", buffering=0) as file, source() as reader:
        begun = os.fstat(file.fileno()).st_size
        if begun > blob.size or not reader.seekable():
            file.truncate(0)
            begun = 0
        state = hashlib.sha256()
        hash_into(state, file, limit=begun, moved=moved)
        if begun:
            reader.seek(begun)
        rest = copy(reader, FileSink(file.fileno(), begun), limit=blob.size - begun, moved=moved, state=state)
    return Blob(rest.digest, begun + rest.size)
