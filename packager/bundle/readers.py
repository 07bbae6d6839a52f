# SPDX-License-Identifier: Apache-2.0
"""The places a bundle can be: an OCI layout directory, a single file, an unpacked tree, the local store.

All four answer the same questions, so verifying, inspecting and copying are written once. A medium hands out bytes
that are not checked yet, except in `record`; and it accounts for every file it has (`check_extent`), because
a file that no signature covers must not be there at all.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Protocol

from packager import canonical
from packager.errors import MalformedError, TooLargeError, WrongContentError
from packager.files import open_regular, walk_regular
from packager.formats import modelpack, oci
from packager.formats.intoto import METADATA_DIRECTORY
from packager.store.entries import StoreEntry
from packager.store.store import Store
from packager.types import Blob, Tree

INDEX_FILE, LAYOUT_FILE = "index.json", "oci-layout"


class Medium(Protocol):
    """One place that holds one bundle. `label` names it in messages."""

    label: str

    def index(self) -> bytes:
        """Return the OCI index: a hint where to start, covered by nothing."""

    def open_record(self, digest: str) -> BinaryIO:
        """Open a blob that is no file of the bundle: a manifest, config or signature."""

    def open_file(self, path: str, blob: Blob) -> BinaryIO:
        """Open one file of the bundle."""

    def place(self, path: str, blob: Blob) -> str:
        """Return the name under which a person finds that file on this medium."""

    def check_extent(self, tree: Tree, records: Iterable[str]) -> None:
        """Raise IntegrityError unless exactly the files of `tree` and the blobs `records` are here."""


def read_record(medium: Medium, digest: str, *, limit: int = oci.MAX_MANIFEST) -> bytes:
    """Read a small blob, checked against its digest."""
    with medium.open_record(digest) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise TooLargeError(f"record `{digest}` is larger than {limit} bytes", subject=digest)
    if canonical.sha256(data) != digest:
        place = medium.place("", Blob(digest, len(data)))
        raise WrongContentError(f"`{place}` is damaged: expected {digest}, got {canonical.sha256(data)}", subject=place)
    return data


def blob_path(digest: str) -> str:
    """Return the path of a blob inside an OCI layout."""
    return "blobs/sha256/" + digest.removeprefix("sha256:")


def check_layout_file(data: bytes, *, subject: str) -> None:
    """Refuse a layout of another major version; the file says nothing else."""
    try:
        version = canonical.load(data, limit=4096)["imageLayoutVersion"]
    except (ValueError, KeyError, TypeError):
        version = None
    if not isinstance(version, str) or version != "1.0.0":
        raise MalformedError(f"`{subject}` does not announce OCI layout 1.0.0", subject=subject)


def compare_extent(present: Iterable[str], expected: Iterable[str], label: str) -> None:
    """Name the first file that is missing, else the first that should not be there."""
    have, want = set(present), set(expected)
    if missing := sorted(want - have):
        raise WrongContentError(f"`{missing[0]}` is missing from `{label}`", subject=missing[0])
    if extra := sorted(have - want):
        raise WrongContentError(
            f"`{extra[0]}` in `{label}` belongs to no part of the bundle",
            subject=extra[0],
            hint="remove it, or fetch the bundle again",
        )


def check_directories(root: Path, expected: Iterable[str]) -> None:
    """Name the first directory below `root` that holds none of the `expected` files."""
    known = {str(parent) for name in expected for parent in Path(name).parents}
    for parent, names, _ in os.walk(root):
        for name in names:
            relative = str((Path(parent) / name).relative_to(root))
            if relative not in known:
                raise WrongContentError(f"directory `{relative}` belongs to no part of the bundle", subject=relative)


class LayoutDirectory:
    """An OCI image layout on disk."""

    def __init__(self, root: Path) -> None:
        self.root, self.label = root, str(root)

    def index(self) -> bytes:
        check_layout_file(self._read(LAYOUT_FILE), subject=LAYOUT_FILE)
        return self._read(INDEX_FILE)

    def _read(self, name: str) -> bytes:
        with self._open(name) as file:
            return file.read(oci.MAX_MANIFEST + 1)

    def _open(self, name: str) -> BinaryIO:
        try:
            return open_regular(self.root / name)
        except (FileNotFoundError, NotADirectoryError):
            raise WrongContentError(f"`{name}` is missing from `{self.label}`", subject=name) from None

    def open_record(self, digest: str) -> BinaryIO:
        return self._open(blob_path(digest))

    def open_file(self, path: str, blob: Blob) -> BinaryIO:
        return self._open(blob_path(blob.digest))

    def place(self, path: str, blob: Blob) -> str:
        return blob_path(blob.digest)

    def check_extent(self, tree: Tree, records: Iterable[str]) -> None:
        digests = {*records, *(blob.digest for _, blob in tree)}
        compare_extent(
            (name for name, _ in walk_regular(self.root)),
            {INDEX_FILE, LAYOUT_FILE, *map(blob_path, digests)},
            self.label,
        )


class UnpackedTree:
    """The plain files, with the manifest and the signatures below `.packager/`.

    That folder is the OCI layout of the bundle without the blobs that lie beside it as plain files.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.label = root, str(root)
        self._metadata = LayoutDirectory(root / METADATA_DIRECTORY)

    def index(self) -> bytes:
        return self._metadata.index()

    def open_record(self, digest: str) -> BinaryIO:
        return self._metadata.open_record(digest)

    def open_file(self, path: str, blob: Blob) -> BinaryIO:
        try:
            return open_regular(self.root / path)
        except (FileNotFoundError, NotADirectoryError):
            raise WrongContentError(f"`{path}` is missing from `{self.label}`", subject=path) from None

    def place(self, path: str, blob: Blob) -> str:
        return path or f"{METADATA_DIRECTORY}/{blob_path(blob.digest)}"

    def check_extent(self, tree: Tree, records: Iterable[str]) -> None:
        metadata = {INDEX_FILE, LAYOUT_FILE, *map(blob_path, records)}
        expected = {*(path for path, _ in tree), *(f"{METADATA_DIRECTORY}/{name}" for name in metadata)}
        present = dict(walk_regular(self.root))
        compare_extent(present, expected, self.label)
        check_directories(self.root, expected)
        for name, path in present.items():
            mode = stat.S_IMODE(path.lstat().st_mode)
            if mode != modelpack.FILE_MODE:
                raise WrongContentError(
                    f"mode of `{name}` changed: expected {modelpack.FILE_MODE:04o}, got {mode:04o}",
                    subject=name,
                    hint=f"if a copy did this: chmod {modelpack.FILE_MODE:04o} on that file",
                )


class StoredBundle:
    """A bundle of the local store; other bundles share its blobs, so there is no extent to check."""

    def __init__(self, store: Store, entry: StoreEntry, label: str) -> None:
        self.store, self.entry, self.label = store, entry, label

    def index(self) -> bytes:
        known = (self.entry.manifest, *self.entry.referrers)
        blobs = (Blob(digest, self.store.path(digest).stat().st_size) for digest in known if self._check(digest))
        return oci.write_index([oci.Descriptor(oci.MANIFEST, blob) for blob in blobs])

    def _check(self, digest: str) -> bool:
        if not self.store.has(digest):
            raise WrongContentError(f"the store lost blob `{digest}` of `{self.label}`", subject=digest)
        return True

    def open_record(self, digest: str) -> BinaryIO:
        return self.store.open(digest)

    def open_file(self, path: str, blob: Blob) -> BinaryIO:
        return self.store.open(blob.digest)

    def place(self, path: str, blob: Blob) -> str:
        return f"{path} ({self.store.path(blob.digest)})" if path else str(self.store.path(blob.digest))

    def check_extent(self, tree: Tree, records: Iterable[str]) -> None:
        for digest in {*records, *(blob.digest for _, blob in tree)}:
            self._check(digest)
