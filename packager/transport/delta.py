# SPDX-License-Identifier: Apache-2.0
"""Write and read deltas between two bundles: the blobs that the old one lacks, as patches where those are smaller.

A delta is a canonical tar file (`archive`), suffix `.bundle-delta.tar`:

    delta.json          {"format": 1, "old": digest, "new": digest, "patches": {new blob: [old blob, its size]}}
    index.json          of the new bundle
    blobs/sha256/<hex>  blobs that the old bundle lacks
    patches/<hex>       patches (`patch`) that make the new blob <hex>

With the old bundle, a delta is one more medium: verify and copy do not know about deltas. The result is the new bundle
byte for byte, with its signatures; each blob is checked against its digest while it is written, and the manifest
against the digest in `delta.json`.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from packager import canonical
from packager.bundle import single_file
from packager.bundle.bundle import MAX_RECORD, Bundle, read
from packager.bundle.readers import INDEX_FILE, blob_path, compare_extent
from packager.errors import IntegrityError, UsageError
from packager.events import OnEvent, Progress, ignore
from packager.files import copy, make_staging, storage_errors, sync_directory
from packager.formats import oci
from packager.transport import patch
from packager.types import Blob, Tree, check_digest

FORMAT = 1
RECORD_FILE = "delta.json"


@dataclass(frozen=True, slots=True)
class DeltaSize:
    """The size of a delta, in bytes."""

    size: int
    full: int  # size of the single-file form of the new bundle
    reused: int
    patched: int  # of the new blobs, made from patches


def write_delta(old: Bundle, new: Bundle, target: Path, on_event: OnEvent = ignore) -> DeltaSize:
    """Write the delta from `old` to `new`. All bytes read from both are checked before or while they are copied."""
    patch.load_zstd()
    with make_staging(target) as scratch, storage_errors(target.parent):
        plan = _Plan(old, new, scratch)
        plan.run(on_event)
        file = scratch / target.name
        with file.open("xb") as sink:
            for name, size, source in plan.members():
                _append(sink, name, size, source)
            sink.write(single_file.write_trailer(sink.tell()))
            sink.flush()
            os.fsync(sink.fileno())
        size = file.stat().st_size
        file.chmod(0o644)
        file.replace(target)
        sync_directory(target.parent)
    patched = sum(blob.size for blob in plan.patched)
    return DeltaSize(size, _full_size(new), new.size - sum(blob.size for blob in plan.whole) - patched, patched)


def _full_size(bundle: Bundle) -> int:
    blobs = {*bundle.records.values(), *(blob for _, blob in bundle.tree)}
    return sum(single_file.BLOCK + blob.size + single_file.count_padding(blob.size) for blob in blobs)


def _append(sink: BinaryIO, name: str, size: int, source: BinaryIO | bytes) -> None:
    sink.write(single_file.write_header(name, size))
    if isinstance(source, bytes):
        sink.write(source)
    else:
        with source:
            got = copy(source, sink, limit=size)
        if name.startswith("blobs/") and blob_path(got.digest) != name:
            raise IntegrityError(f"`{name}` is damaged: got {got.digest}", subject=name)
    sink.write(bytes(single_file.count_padding(size)))


class _Plan:
    """Sorts the blobs of the new bundle: reused, patched, whole. The choice depends only on the two bundles."""

    def __init__(self, old: Bundle, new: Bundle, scratch: Path) -> None:
        self._old, self._new, self._scratch = old, new, scratch
        self._known = {*old.records, *(blob.digest for _, blob in old.tree)}
        self.whole: dict[Blob, str] = {}
        self.patched: dict[Blob, tuple[Path, Blob]] = {}

    def run(self, on_event: OnEvent) -> None:
        missing = {blob: path for path, blob in self._new.tree if blob.digest not in self._known}
        total = sum(blob.size for blob in missing)
        done = 0
        for blob, path in sorted(missing.items(), key=lambda item: item[1]):
            base = self._base(path, blob)
            made = self._patch(path, blob, *base) if base else None
            if made is None:
                self.whole[blob] = path
            else:
                self.patched[blob] = made
            done += blob.size
            on_event(Progress(f"comparing {self._old.version} with {self._new.version}", done, total))

    def _base(self, path: str, blob: Blob) -> tuple[str, Blob] | None:
        """Return the old file that is probably similar: the one at the same path, else the first of the same size."""
        same = self._old.tree.get(path)
        if same is not None:
            return path, same
        return next(((p, b) for p, b in self._old.tree if b.size == blob.size), None)

    def _patch(self, path: str, blob: Blob, base_path: str, base: Blob) -> tuple[Path, Blob] | None:
        """Write the patch for one blob; None if it is not smaller than the blob."""
        file = self._scratch / blob.digest.removeprefix("sha256:")
        written = 0
        with (
            _Checked(self._new.medium.open_file(path, blob), blob) as new,
            _Checked(self._old.medium.open_file(base_path, base), base) as old,
            file.open("xb") as sink,
        ):
            for segment in patch.make_patch(cast(BinaryIO, new), cast(BinaryIO, old)):
                sink.write(segment)
                written += len(segment)
                if written >= blob.size:
                    return None
            old.finish()
        return file, base

    def members(self) -> Iterator[tuple[str, int, BinaryIO | bytes]]:
        """Yield (name, size, content) in the order of the file: records, then by size and name."""
        patches = {blob.digest: [base.digest, base.size] for blob, (_, base) in self.patched.items()}
        about = {"format": FORMAT, "old": self._old.digest, "new": self._new.digest, "patches": patches}
        for name, data in ((RECORD_FILE, canonical.dump(about)), (INDEX_FILE, self._new.index())):
            yield name, len(data), data
        rows: list[tuple[int, str, Blob, Path | str | None]] = []
        for digest, blob in self._new.records.items():
            if digest not in self._known:
                rows.append((blob.size, blob_path(digest), blob, None))
        rows += [(blob.size, blob_path(blob.digest), blob, path) for blob, path in self.whole.items()]
        for blob, (file, _) in self.patched.items():
            rows.append((file.stat().st_size, patch_path(blob.digest), blob, file))
        for size, name, blob, source in sorted(rows, key=lambda row: row[:2]):
            yield name, size, self._content(blob, source)

    def _content(self, blob: Blob, source: Path | str | None) -> BinaryIO | bytes:
        if source is None:
            return self._new.record_bytes(blob.digest)
        return source.open("rb") if isinstance(source, Path) else self._new.medium.open_file(source, blob)


class _Checked:
    """A stream that raises if its content is not the expected blob."""

    def __init__(self, file: BinaryIO, blob: Blob) -> None:
        self._file, self._blob, self._state = file, blob, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._state.update(data)
        if not data and f"sha256:{self._state.hexdigest()}" != self._blob.digest:
            raise IntegrityError(f"blob `{self._blob.digest}` is damaged", subject=self._blob.digest)
        return data

    def finish(self) -> None:
        """Read the rest, so that the whole is checked."""
        while self.read(1 << 20):
            pass

    def __enter__(self) -> _Checked:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def patch_path(digest: str) -> str:
    """Return the path of the patch that makes `digest`."""
    return "patches/" + digest.removeprefix("sha256:")


def open_delta(path: Path, old: Bundle) -> Bundle:
    """Return the new bundle, read through a delta and the old bundle. Raises UsageError for another old bundle."""
    patch.load_zstd()
    medium = DeltaMedium(path, old)
    bundle = read(medium)
    if bundle.digest != medium.new:
        raise IntegrityError(f"`{path}` does not hold what it announces: {medium.new}", subject=str(path))
    medium.check_extent(bundle.tree, bundle.held)
    return bundle


class DeltaMedium:
    """The new bundle as a medium: blobs of the delta, results of its patches, and the rest from the old bundle."""

    def __init__(self, path: Path, old: Bundle) -> None:
        self._tar, self._old, self.label = single_file.CanonicalTar(path), old, path.name
        self._files = {blob.digest: (name, blob) for name, blob in old.tree}
        wanted, self.new, self._patches = self._record()
        if wanted != old.digest:
            raise UsageError(
                f"the delta applies to another bundle: expected {wanted}, got {old.digest} ({old.name}:{old.version})"
            )

    def _record(self) -> tuple[str, str, dict[str, Blob]]:
        try:
            value = canonical.load(self._tar.read(RECORD_FILE, limit=MAX_RECORD), limit=MAX_RECORD)
            if set(value) != {"format", "old", "new", "patches"} or value["format"] != FORMAT:
                raise ValueError("unknown fields or format version")
            patches = {
                check_digest(new, subject=RECORD_FILE): Blob(check_digest(base, subject=RECORD_FILE), size)
                for new, (base, size) in value["patches"].items()
            }
            return value["old"], value["new"], patches
        except (ValueError, TypeError, AttributeError) as error:
            raise IntegrityError(f"`{self.label}` is no delta: {error}", subject=self.label) from None

    def index(self) -> bytes:
        return self._tar.read(INDEX_FILE, limit=oci.MAX_MANIFEST)

    def open_record(self, digest: str) -> BinaryIO:
        if blob_path(digest) in self._tar.members:
            return self._tar.open(blob_path(digest))
        return io.BytesIO(self._old.record_bytes(digest))

    def open_file(self, path: str, blob: Blob) -> BinaryIO:
        if base := self._patches.get(blob.digest):
            old = self._open_old(base.digest)
            return cast(BinaryIO, patch.Patched(self._tar.open(patch_path(blob.digest)), old, blob.size, self.label))
        if blob_path(blob.digest) in self._tar.members:
            return self._tar.open(blob_path(blob.digest))
        return self._open_old(blob.digest)

    def _open_old(self, digest: str) -> BinaryIO:
        if digest not in self._files:
            raise IntegrityError(f"`{self.label}` needs blob `{digest}`, which is in neither bundle", subject=digest)
        return self._old.medium.open_file(*self._files[digest])

    def place(self, path: str, blob: Blob) -> str:
        return f"{path or blob.digest} through {self.label}"

    def check_extent(self, tree: Tree, records: Iterable[str]) -> None:
        """Refuse members that are not part of the new bundle."""
        blobs = {*records, *(blob.digest for _, blob in tree)}
        useful = {blob_path(digest) for digest in blobs} & set(self._tar.members)
        useful |= {patch_path(digest) for digest in self._patches if digest in blobs}
        compare_extent(self._tar.members, {RECORD_FILE, INDEX_FILE, *useful}, self.label)
