# SPDX-License-Identifier: Apache-2.0
"""Copy a bundle from any medium to any destination: every byte hashed, complete or absent.

Push, pull, export, import and unpack are this one function with different ends. Referrers (signatures, attestations)
are copied with the bundle.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol, runtime_checkable

from packager.bundle import single_file
from packager.bundle.bundle import Bundle, read
from packager.bundle.readers import LayoutDirectory, StoredBundle, UnpackedTree, blob_path
from packager.errors import IntegrityError, UsageError, WrongContentError
from packager.events import OnEvent, Progress, ignore
from packager.files import Moved, exchange_directories, make_staging
from packager.formats import oci
from packager.formats.intoto import METADATA_DIRECTORY
from packager.transport import writers
from packager.transport.writers import Destination, Receiver
from packager.types import Blob

_JOBS = 4


@runtime_checkable
class Attachable(Protocol):
    """A medium to which referrers can be added in place."""

    def attach(self, bundle: Bundle) -> None:
        """Write the records that `bundle` has in memory, atomically."""


class _CancelledError(Exception):
    """Ends the other threads of a failed copy; never leaves this module."""


def copy(
    bundle: Bundle, to: Destination, on_event: OnEvent = ignore, *, jobs: int | None = None, label: str = "copying"
) -> int:
    """Copy `bundle` with its referrers, and return the number of bytes of files that were copied.

    `jobs` blobs are copied at a time, the largest first, so that no large one is last. By default that is one per
    core and at least four: one is written to the disk while the next arrives. The first failure ends the copy, and
    nothing of it becomes visible.
    """
    with to(bundle) as receiver:
        files = {blob: path for path, blob in _distinct(bundle)}
        missing = [(files[blob], blob) for blob in receiver.find_missing(list(files))]
        missing.sort(key=lambda item: -item[1].size)
        moved = _progress(sum(blob.size for _, blob in missing), f"{label} {bundle.name} {bundle.version}", on_event)
        _each(bundle, receiver, missing, moved, jobs or max(_JOBS, os.cpu_count() or 1))
    return sum(blob.size for _, blob in missing)


def _each(bundle: Bundle, receiver: Receiver, missing: list[tuple[str, Blob]], moved: Moved, jobs: int) -> None:
    stopped = threading.Event()

    def tick(count: int) -> None:
        if stopped.is_set():  # another blob failed, or Ctrl-C: do not copy gigabytes in vain
            raise _CancelledError
        moved(count)

    def one(item: tuple[str, Blob]) -> None:
        path, blob = item
        try:
            receiver.write(blob, lambda: bundle.medium.open_file(path, blob), tick)
        except IntegrityError as error:
            if error.subject != blob.digest:
                raise
            address = bundle.medium.place(path, blob)
            raise WrongContentError(f"`{address}` is damaged: {error.message}", subject=address) from None

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in as_completed([pool.submit(one, item) for item in missing]):
                future.result()
        except BaseException:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _distinct(bundle: Bundle) -> Iterator[tuple[str, Blob]]:
    """Yield each content once, under the first path that has it."""
    seen: set[str] = set()
    for path, blob in bundle.tree:
        if blob.digest not in seen:
            seen.add(blob.digest)
            yield path, blob


def _progress(total: int, label: str, on_event: OnEvent) -> Moved:
    done, lock = 0, threading.Lock()

    def moved(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            on_event(Progress(label, done, total))

    return moved


# common destinations


def save(bundle: Bundle, target: Path, on_event: OnEvent = ignore, *, jobs: int | None = None) -> None:
    """Write `bundle` to `target`: a single file if the name ends in `.tar`, else an OCI layout directory."""
    to = writers.single_file if target.suffix == ".tar" else writers.write_layout
    copy(bundle, to(target), on_event, jobs=jobs, label="writing")


def unpack(bundle: Bundle, target: Path, on_event: OnEvent = ignore) -> None:
    """Write the plain files, and below `.packager/` the records to verify them again."""
    copy(bundle, writers.write_unpacked(target), on_event, label="unpacking")


def write_unpacked(bundle: Bundle, fresh: Path, on_event: OnEvent = ignore) -> None:
    """Write the unpacked form into the empty directory `fresh`, which the caller then renames."""
    copy(bundle, writers.write_plain(fresh), on_event, label="unpacking")


def attach(bundle: Bundle, output: Path | None = None, on_event: OnEvent = ignore) -> Bundle:
    """Write the statements that were attached in memory; return the bundle, opened again where they are now.

    With `output` they go there, a directory or `.tar` file, with the whole bundle; a bundle that is itself a file or a
    directory then stays as it is, one of a store or a registry gets them as well. Raises what writing there raises.
    """
    if output is not None:
        save(bundle, output, on_event)
    if output is None or not is_in_files(bundle):
        update_referrers(bundle, on_event)
    return _reopened(bundle, output)


def is_in_files(bundle: Bundle) -> bool:
    """Return whether a bundle is a file or directory of its own, neither in a store nor in a registry or bucket."""
    return isinstance(bundle.medium, single_file.Archive | UnpackedTree | LayoutDirectory)


def _reopened(bundle: Bundle, output: Path | None) -> Bundle:
    medium = bundle.medium
    if output is not None:
        return read(single_file.Archive(output) if output.is_file() else LayoutDirectory(output))
    if isinstance(medium, StoredBundle):
        return read(StoredBundle(medium.store, medium.store.find(bundle.digest), medium.label))
    if isinstance(medium, single_file.Archive):
        return read(single_file.Archive(medium.path))
    if isinstance(medium, UnpackedTree | LayoutDirectory):
        return read(type(medium)(medium.root))
    return bundle  # of a registry or bucket: what was sent is what it holds in memory


def update_referrers(bundle: Bundle, on_event: OnEvent = ignore) -> None:
    """Write the referrers that were attached in memory back to the bundle's medium, atomically."""
    medium = bundle.medium
    if isinstance(medium, StoredBundle):
        for data in bundle.pending.values():
            medium.store.put(data)
        manifests = [referrer.manifest.digest for referrer in bundle.referrers]
        medium.store.put(oci.EMPTY_BYTES)
        medium.store.put(bundle.referrers_index())
        medium.store.add_referrers(bundle.name, bundle.version, bundle.digest, manifests)
    elif isinstance(medium, single_file.Archive):
        save(bundle, medium.path, on_event)
    elif isinstance(medium, UnpackedTree):
        _replace_metadata(bundle, medium.root / METADATA_DIRECTORY, {})
    elif isinstance(medium, LayoutDirectory):
        _replace_metadata(bundle, medium.root, {blob.digest: path for path, blob in bundle.tree})
    elif isinstance(medium, Attachable):
        medium.attach(bundle)


def drop_referrers(bundle: Bundle, on_event: OnEvent = ignore) -> None:
    """Remove all referrers from the bundle's medium, except those that `bundle` has.

    Raises UsageError for a registry or a bucket, where referrers are never removed.
    """
    medium = bundle.medium
    if isinstance(medium, StoredBundle):
        left = [referrer.manifest.digest for referrer in bundle.referrers]
        medium.store.put(bundle.referrers_index())
        medium.store.remove_referrers(bundle.name, bundle.version, bundle.digest, left)
    elif isinstance(medium, Attachable):
        raise UsageError(
            f"what is attached in `{medium.label}` stays there",
            hint="pull the bundle, remove it here, and push it under another name",
        )
    else:
        update_referrers(bundle, on_event)


def _replace_metadata(bundle: Bundle, target: Path, linked: dict[str, str]) -> None:
    """Replace a layout by one with more records.

    Blobs are linked into the new directory instead of copied; once the old one is deleted, each has one link again.
    """
    with make_staging(target) as fresh:
        writers.write_metadata(bundle, fresh)
        for digest in linked:
            os.link(target / blob_path(digest), fresh / blob_path(digest))
        exchange_directories(fresh, target)
