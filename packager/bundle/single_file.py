# SPDX-License-Identifier: Apache-2.0
"""The single-file form: an uncompressed tar of the OCI layout that has exactly one valid spelling.

Members: `index.json`, `oci-layout`, then blobs by (size, digest), so that what a bundle is can be read without
passing its weights. Headers are POSIX pax with mode 0644 and every other field zero; a pax record appears only for
sizes of 8 GiB and more. Because a reader recomputes every header and checks every padding byte, no bit of the file
can change unnoticed. `skopeo` reads it as `oci-archive:`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from packager.bundle.readers import INDEX_FILE, LAYOUT_FILE, blob_path, check_layout_file, compare_extent
from packager.errors import MalformedError, WrongContentError
from packager.files import open_regular
from packager.formats import oci
from packager.records import dataclass
from packager.types import Blob, Tree

if TYPE_CHECKING:
    import tarfile  # where archives are read or written: most bundles lie in a store or registry

BLOCK, RECORD = 512, 10240  # bytes: tar's unit, and what the end of file is padded to
SUFFIX = ".bundle.tar"
_MAX_MEMBERS = 100_000


def write_header(name: str, size: int) -> bytes:
    """Return the only header this format allows for a member."""
    import tarfile

    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    return info.tobuf(tarfile.PAX_FORMAT)


def count_padding(size: int) -> int:
    """Return how many zero bytes follow a member of `size` bytes."""
    return -size % BLOCK


def write_trailer(position: int) -> bytes:
    """Return the end of an archive whose last member ends at `position`."""
    return bytes(2 * BLOCK + -(position + 2 * BLOCK) % RECORD)


def order_blobs(blobs: Iterable[Blob]) -> list[Blob]:
    """Return blobs as they lie in the file: small first."""
    return sorted(set(blobs), key=lambda blob: (blob.size, blob.digest))


@dataclass(frozen=True, slots=True)
class Member:
    """Where the bytes of one member lie in the file."""

    offset: int
    size: int


class CanonicalTar:
    """A tar file in its one valid spelling; its members can be opened by name."""

    def __init__(self, path: Path) -> None:
        self.path, self.label = path, path.name
        self.members = self._scan()

    def _scan(self) -> Mapping[str, Member]:
        """Read every header; the data between them is checked when it is read."""
        members: dict[str, Member] = {}
        with open_regular(self.path) as file:
            position = 0
            while info := self._next(file, position):
                head = write_header(info.name, info.size)
                self._expect(file, position, head, f"header of `{info.name:.100}`")
                if info.name in members or len(members) > _MAX_MEMBERS:
                    raise self._broken(f"member `{info.name:.100}` appears twice")
                members[info.name] = Member(position + len(head), info.size)
                position += len(head) + info.size
                self._expect(file, position, bytes(count_padding(info.size)), f"padding of `{info.name:.100}`")
                position += count_padding(info.size)
            self._expect(file, position, write_trailer(position), "end of file")
            if file.read(1):
                raise self._broken("bytes follow the end of the archive")
        return members

    def _next(self, file: BinaryIO, position: int) -> tarfile.TarInfo | None:
        import tarfile

        file.seek(position)
        block = file.read(BLOCK)
        if block == bytes(BLOCK):
            return None
        try:
            if block[156:157] == b"x":  # a pax header: sizes from 8 GiB on
                file.seek(position)
                with tarfile.open(fileobj=file, mode="r:", errorlevel=2) as inner:
                    return inner.next()
            return tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.TarError, UnicodeDecodeError, ValueError) as error:
            raise self._broken(f"no valid header at byte {position}: {error}") from None

    def _expect(self, file: BinaryIO, position: int, data: bytes, what: str) -> None:
        file.seek(position)
        if file.read(len(data)) != data:
            raise self._broken(f"{what} is not canonical or is cut off")

    def _broken(self, why: str) -> MalformedError:
        return MalformedError(
            f"`{self.label}` is not a canonical bundle file: {why}", subject=self.label, hint="fetch the file again"
        )

    def open(self, name: str) -> BinaryIO:
        """Open one member for reading."""
        member = self.members.get(name)
        if member is None:
            raise WrongContentError(f"`{name}` is missing from `{self.label}`", subject=name)
        return cast(BinaryIO, _Window(open_regular(self.path), member))

    def read(self, name: str, *, limit: int) -> bytes:
        """Read one small member; at most `limit` + 1 bytes of it."""
        with self.open(name) as file:
            return file.read(limit + 1)


class Archive(CanonicalTar):
    """A bundle in a single file."""

    def index(self) -> bytes:
        check_layout_file(self.read(LAYOUT_FILE, limit=4096), subject=LAYOUT_FILE)
        return self.read(INDEX_FILE, limit=oci.MAX_MANIFEST)

    def open_record(self, digest: str) -> BinaryIO:
        return self.open(blob_path(digest))

    def open_file(self, path: str, blob: Blob) -> BinaryIO:
        return self.open(blob_path(blob.digest))

    def place(self, path: str, blob: Blob) -> str:
        return blob_path(blob.digest)

    def check_extent(self, tree: Tree, records: Iterable[str]) -> None:
        digests = {*records, *(blob.digest for _, blob in tree)}
        compare_extent(self.members, {INDEX_FILE, LAYOUT_FILE, *map(blob_path, digests)}, self.label)
        self._check_order(digests)

    def _check_order(self, digests: Iterable[str]) -> None:
        """Refuse members that are not where `order` puts them."""
        blobs = order_blobs(Blob(digest, self.members[blob_path(digest)].size) for digest in digests)
        if list(self.members) != [INDEX_FILE, LAYOUT_FILE, *(blob_path(blob.digest) for blob in blobs)]:
            raise self._broken("members are out of order")


class _Window(io.RawIOBase):
    """A read-only view of one member; owns the file it reads from."""

    def __init__(self, file: BinaryIO, member: Member) -> None:
        self._file, self._left = file, member.size
        file.seek(member.offset)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)[: self._left]
        count: int = self._file.readinto(view)  # type: ignore[attr-defined]
        self._left -= count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
