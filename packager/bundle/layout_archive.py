# SPDX-License-Identifier: Apache-2.0
"""Read an OCI layout in a tar file that another tool wrote: `oras backup`, `skopeo copy … oci-archive:`, `tar`.

Only what makes a difference is demanded: an uncompressed tar of regular files and directories, each name once. Its
members are checked like the files of a layout directory; our own single file has one valid spelling (`single_file`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from packager.bundle import single_file
from packager.bundle.readers import INDEX_FILE, LAYOUT_FILE, blob_path, compare_extent
from packager.bundle.single_file import Archive, Member
from packager.errors import MalformedError
from packager.files import open_regular
from packager.types import Tree

if TYPE_CHECKING:
    import tarfile

_MAX_MEMBERS = 100_000
_NAME = 100  # bytes of the name in a tar header, the first ones


def open_archive(path: Path) -> Archive:
    """Return the reader for a bundle in a tar file: ours by its first member, else that of any layout."""
    with open_regular(path) as file:
        first = file.read(_NAME)
    ours = first == single_file.write_header(INDEX_FILE, 0)[:_NAME]
    return Archive(path) if ours or first.startswith(b"\x1f\x8b") else LayoutArchive(path)


class LayoutArchive(Archive):
    """A bundle in an OCI layout in a tar file of any spelling."""

    def _scan(self) -> Mapping[str, Member]:
        import tarfile

        members: dict[str, Member] = {}
        with open_regular(self.path) as file:
            try:
                with tarfile.open(fileobj=file, mode="r:", errorlevel=2) as packed:
                    for info in packed:
                        self._add(members, info, file)
            except (tarfile.TarError, EOFError, UnicodeDecodeError, ValueError) as error:
                raise self._broken(f"no readable tar file: {error}") from None
        return members

    def _add(self, members: dict[str, Member], info: tarfile.TarInfo, file: BinaryIO) -> None:
        name = info.name.removeprefix("./")
        if info.isdir():
            return
        if not info.isreg() or info.issparse():
            raise self._broken(f"`{name:.100}` is not a regular file")
        if name in members or len(members) >= _MAX_MEMBERS:
            raise self._broken(f"member `{name:.100}` appears twice, or there are too many")
        members[name] = Member(info.offset_data, info.size)

    def check_extent(self, tree: Tree, records: Iterable[str]) -> None:
        digests = {*records, *(blob.digest for _, blob in tree)}
        compare_extent(self.members, {INDEX_FILE, LAYOUT_FILE, *map(blob_path, digests)}, self.label)

    def _broken(self, why: str) -> MalformedError:
        return MalformedError(
            f"`{self.label}` is no bundle: {why}",
            subject=self.label,
            hint="expected a .bundle.tar, or an uncompressed tar of an OCI layout; fetch the file again",
        )
