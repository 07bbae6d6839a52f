# SPDX-License-Identifier: Apache-2.0
"""Read container images: manifest, config, and the files that the layers together give. Foreign bytes throughout.

Sources: OCI image-spec v1.1 (manifest.md, config.md, layer.md: changesets and whiteouts), Docker's image manifest
version 2, schema 2, which has the same members.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO, Protocol, TypeAlias

from packager import canonical
from packager.errors import IntegrityError, MalformedError, UsageError
from packager.formats import oci
from packager.records import dataclass
from packager.types import Blob

CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
DOCKER, DOCKER_LIST = (f"application/vnd.docker.distribution.manifest.{form}+json" for form in ("v2", "list.v2"))
MAX_CONFIG = 8 << 20  # bytes
MAX_LAYERS, MAX_ENTRIES = 200, 500_000
MAX_UNPACKED = 1 << 40  # bytes of one layer
_MAX_HEADER = 1 << 20  # bytes of names that are beside an entry
_GZIP = (".tar.gzip", ".tar+gzip")
_PLAIN = ".tar"
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """The manifest of one image of one platform."""

    media_type: str
    config: oci.Descriptor
    layers: tuple[oci.Descriptor, ...]


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What a config says of how the image runs, and its labels."""

    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    user: str
    labels: Mapping[str, str]


def parse_manifest(data: bytes, *, subject: str) -> ImageManifest:
    """Read an image manifest. Raises UsageError for an index, with the images in it, and MalformedError."""
    try:
        value = canonical.load(data, limit=oci.MAX_MANIFEST)
        listed, layers = value.get("manifests"), value.get("layers")
    except (ValueError, AttributeError) as error:
        raise MalformedError(f"`{subject}` is no image manifest: {error}", subject=subject) from None
    kind = str(value.get("mediaType", oci.MANIFEST))
    if listed is not None or kind in (oci.INDEX, DOCKER_LIST):
        found = ", ".join(item.blob.digest for item in oci.parse_listing(data, subject=subject)[:3])
        raise UsageError(
            f"`{subject}` is an index of images, expected one image",
            hint=f"name one by its digest: {found}" if found else "it is empty",
        )
    if not isinstance(layers, list) or not 0 < len(layers) <= MAX_LAYERS:
        raise MalformedError(f"`{subject}` has no layers, or more than {MAX_LAYERS}", subject=subject)
    config = oci.parse_descriptor(value.get("config"), subject)
    if config.media_type not in CONFIGS:
        raise UsageError(
            f"`{subject}` is no container image: its config is `{config.media_type:.100}`",
            hint="name the image that was built of what `packager render container` wrote",
        )
    return ImageManifest(kind, config, tuple(oci.parse_descriptor(layer, subject) for layer in layers))


def parse_config(data: bytes, *, subject: str) -> ImageConfig:
    """Read what is needed of an image's config. Raises MalformedError."""
    try:
        value = canonical.load(data, limit=MAX_CONFIG)
        found = value.get("config") or {}
        labels = found.get("Labels") or {}
        words = [found.get(name) or [] for name in ("Entrypoint", "Cmd")]
        user = found.get("User") or ""
    except (ValueError, AttributeError) as error:
        raise MalformedError(f"`{subject}` is no image config: {error}", subject=subject) from None
    texts = [user, *(word for row in words for word in row), *labels, *labels.values()]
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(row, list) for row in words):
        raise MalformedError(f"`{subject}` is no image config: text expected", subject=subject)
    return ImageConfig(tuple(words[0]), tuple(words[1]), user, labels)


def read_files(
    layers: Sequence[oci.Descriptor], open_layer: Callable[[Blob], BinaryIO], moved: Callable[[int], None]
) -> dict[str, Blob | None]:
    """Return what the layers together give: path to content, None for a link, device or other thing that is no file.

    Directories are not listed, and nothing is found below a link. Every layer is hashed to its end. `moved` hears of
    the bytes that were read. Raises IntegrityError for a layer that is not what the manifest names or no readable tar,
    and UsageError for a compression that is not read here.
    """
    root: _Folder = {}
    for layer in layers:
        removed, added = _changes(layer, _Hashed(open_layer(layer.blob), layer.blob, moved))
        for path, itself in removed:  # first: whiteouts are about the layers below, wherever they stand
            _remove(root, path, itself=itself)
        for path, content in added:
            _add(root, path, content)
    return dict(_listed(root, ""))


_Folder: TypeAlias = "dict[str, _Folder | Blob | None]"
_Added: TypeAlias = "tuple[str, _Folder | Blob | None]"  # a folder is an empty one


def _changes(layer: oci.Descriptor, source: _Hashed) -> tuple[list[tuple[str, bool]], list[_Added]]:
    """Return what a layer takes away, each with whether that is the thing itself or its content, and what it adds."""
    kind, digest = layer.media_type, layer.blob.digest
    if not kind.endswith((*_GZIP, _PLAIN)):
        raise UsageError(
            f"layer `{digest}` is of a kind that is not read here: `{kind:.100}`",
            hint="build the image with gzip or without compression",
        )
    stream: _Readable = gzip.GzipFile(fileobj=source, mode="rb") if kind.endswith(_GZIP) else source
    removed: list[tuple[str, bool]] = []
    added: list[_Added] = []
    try:
        with tarfile.open(fileobj=io.BufferedReader(_Bounded(stream), _CHUNK), mode="r|", tarinfo=_Entry) as packed:
            for member in packed:
                if len(removed) + len(added) == MAX_ENTRIES:
                    raise IntegrityError(f"layer `{digest}` holds more than {MAX_ENTRIES} entries", subject=digest)
                path = posixpath.normpath("/" + member.name).lstrip("/")
                folder, name = posixpath.split(path)
                if name == _OPAQUE:
                    removed.append((folder, False))
                elif name.startswith(_WHITEOUT):
                    removed.append((posixpath.join(folder, name.removeprefix(_WHITEOUT)), True))
                else:
                    added.append((path, {} if member.isdir() else _content(packed, member)))
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError) as error:
        raise IntegrityError(f"layer `{digest}` is no readable tar: {error}", subject=digest) from None
    source.finish()
    return removed, added


def _folder(root: _Folder, path: str, *, make: bool) -> _Folder | None:
    """Return the folder at a path, or None; with `make` it is made, but not below what is no folder."""
    here = root
    for name in filter(None, path.split("/")):
        below = here.setdefault(name, {}) if make else here.get(name)
        if not isinstance(below, dict):
            return None
        here = below
    return here


def _remove(root: _Folder, path: str, *, itself: bool) -> None:
    folder, name = posixpath.split(path)
    if itself and (parent := _folder(root, folder, make=False)) is not None:
        parent.pop(name, None)
    elif not itself and (content := _folder(root, path, make=False)) is not None:
        content.clear()


def _add(root: _Folder, path: str, content: _Folder | Blob | None) -> None:
    folder, name = posixpath.split(path)
    parent = _folder(root, folder, make=True)
    if parent is None or not name or (content == {} and isinstance(parent.get(name), dict)):
        return
    parent[name] = content


def _listed(folder: _Folder, prefix: str) -> Iterator[tuple[str, Blob | None]]:
    for name, below in folder.items():
        if isinstance(below, dict):
            yield from _listed(below, f"{prefix}{name}/")
        else:
            yield prefix + name, below


def _content(packed: tarfile.TarFile, member: tarfile.TarInfo) -> Blob | None:
    """Return the content of a regular file, None for anything else."""
    source = packed.extractfile(member) if member.isreg() and not member.issparse() else None
    if source is None:
        return None
    sha256, size = hashlib.sha256(), 0
    while data := source.read(_CHUNK):
        sha256.update(data)
        size += len(data)
    if size != member.size:
        raise tarfile.ReadError("an entry ends early")
    return Blob(f"sha256:{sha256.hexdigest()}", size)


class _Readable(Protocol):
    def read(self, size: int) -> bytes: ...


class _Entry(tarfile.TarInfo):
    """An entry whose extended headers, which are read into memory, are bounded."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        extended = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)
        if self.type in (*extended, tarfile.SOLARIS_XHDTYPE) and self.size > _MAX_HEADER:
            raise tarfile.ReadError("an extended header is too large")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found


class _Hashed(io.RawIOBase):
    """A layer's bytes as they are, hashed on their way."""

    def __init__(self, source: BinaryIO, blob: Blob, moved: Callable[[int], None]) -> None:
        self._source, self._blob, self._moved = source, blob, moved
        self._sha256, self._size = hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(_CHUNK if size < 0 else size)
        self._sha256.update(data)
        self._size += len(data)
        self._moved(len(data))
        if self._size > self._blob.size:
            digest = self._blob.digest
            raise IntegrityError(f"layer `{digest}` is longer than its manifest says", subject=digest)
        return data

    def finish(self) -> None:
        """Read to the end. Raises IntegrityError unless these were the layer's bytes."""
        while self.read(_CHUNK):
            pass
        self._source.close()
        got = f"sha256:{self._sha256.hexdigest()}"
        if Blob(got, self._size) != self._blob:
            digest = self._blob.digest
            raise IntegrityError(f"layer `{digest}` is damaged: got {got}", subject=digest)


class _Bounded(io.RawIOBase):
    """A stream of a limited number of bytes."""

    def __init__(self, source: _Readable) -> None:
        self._source, self._left = source, MAX_UNPACKED

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._source.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise tarfile.ReadError(f"it unpacks to more than {MAX_UNPACKED} bytes")
        buffer[: len(data)] = data
        return len(data)
