# SPDX-License-Identifier: Apache-2.0
"""Speak the distribution protocol with one repository: manifests, blobs to read, referrers.

Source: OCI distribution-spec v1.1. Manifests are bytes: the pushed bytes are the signed ones, the pulled bytes are
checked against their digest. Whether a registry has the referrers API is determined by requesting referrers, never from
the `OCI-Subject` header, which some registries send without having it.
"""

from __future__ import annotations

import http.client
import io
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, cast
from urllib.parse import urljoin

from packager import canonical
from packager.errors import ContainerImageError, IntegrityError, SourceError, UsageError
from packager.formats import oci
from packager.formats.container_images import CONFIGS, DOCKER, DOCKER_LIST
from packager.transport.registry.connections import Response
from packager.transport.registry.deadline import is_overdue
from packager.transport.registry.reference import SCHEME, TAG, Reference
from packager.transport.registry.wire import MAX_ANSWER, Answer, Body, BrokenConnectionError, Settings, Wire
from packager.types import DIGEST, Blob

_ACCEPT = f"{oci.MANIFEST}, {oci.INDEX}, {DOCKER}, {DOCKER_LIST}"
_REFERRERS_TAG = re.compile(r"sha256-[0-9a-f]{64}(\.(sig|att|sbom))?")  # and where cosign put them at first
_NOT_THERE = (400, 404, 405)  # of registries that cannot delete by tag, or at all
_MAX_REFERRERS = 1000
_PAGES = 50


class NotInRegistryError(SourceError):
    """The registry lists something that it does not have."""


@dataclass(slots=True)
class Repository:
    """One repository of one registry."""

    reference: Reference
    settings: Settings
    wire: Wire = field(init=False)
    piece: int | None = None  # bytes of one request of an upload, once the registry's limit is known

    def __post_init__(self) -> None:
        self.wire = Wire(self.reference, self.settings)

    def url(self, rest: str) -> str:
        return f"/v2/{self.reference.name}/{rest}"

    # manifests

    def manifest(self, what: str) -> bytes | None:
        """Return the manifest with tag or digest `what`, checked against a digest; None if there is none."""
        answer = self.wire.request("GET", self.url(f"manifests/{what}"), ok=(200, 404), headers={"Accept": _ACCEPT})
        if answer.status == 404:
            return None
        if len(answer.data) > oci.MAX_MANIFEST:
            raise IntegrityError(f"manifest `{what}` is larger than {oci.MAX_MANIFEST} bytes", subject=what)
        got = canonical.sha256(answer.data)
        if ":" in what and got != what:
            raise IntegrityError(f"the registry's manifest `{what}` is damaged: got {got}", subject=what)
        return answer.data

    def put_manifest(self, what: str, data: bytes, media_type: str) -> None:
        """Store exactly `data` under a tag or its digest."""
        url, kind = self.url(f"manifests/{what}"), {"Content-Type": media_type}
        self.wire.request("PUT", url, ok=(200, 201, 202), push=True, headers=kind, body=Body.of(data))

    def tags(self) -> list[str]:
        """Return every tag, sorted, without those of the tag schema for referrers."""
        return sorted(tag for tag in self._every_tag() if not _REFERRERS_TAG.fullmatch(tag))

    def _every_tag(self) -> list[str]:
        found: list[str] = []
        url = self.url("tags/list?n=1000")
        for _ in range(_PAGES):
            answer = self.wire.request("GET", url, ok=(200, 404))
            if answer.status == 404:
                raise SourceError(
                    f"registry `{self.reference.host}` has no repository `{self.reference.name}`",
                    hint="check the name; it may also be that this account may not see it",
                )
            found += _names(answer.data, self.reference)
            link = answer.headers.get("Link", "")
            if 'rel="next"' not in link or "<" not in link:
                return found
            url = urljoin(url, link.split("<", 1)[1].split(">", 1)[0])
        return found

    def delete(self, what: str) -> bool:
        """Delete the manifest with tag or digest `what`; False if the registry does not support that."""
        answer = self.wire.request("DELETE", self.url(f"manifests/{what}"), ok=(200, 202, 204, *_NOT_THERE), push=True)
        return answer.status not in _NOT_THERE

    # blobs

    def has(self, blob: Blob, *, push: bool = False) -> bool:
        """Return whether the repository has the blob."""
        answer = self.wire.request("HEAD", self.url(f"blobs/{blob.digest}"), ok=(200, 404), push=push)
        size = answer.headers.get("Content-Length")
        return answer.status == 200 and size in (None, str(blob.size))

    def open(self, blob: Blob) -> BinaryIO:
        """Open a blob for reading; the stream survives broken connections and can start at any offset."""
        return cast(BinaryIO, Download(self, blob))

    def ranged(self, blob: Blob, start: int) -> tuple[Response, bool]:
        """Request a blob from byte `start` on; True if the registry sends the whole blob nevertheless."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        url = self.url(f"blobs/{blob.digest}")
        answer = self.wire.request("GET", url, ok=(200, 206, 404, 416), stream=True, headers=headers)
        if answer.stream is None:
            raise NotInRegistryError(
                f"registry `{self.reference.host}` has no blob `{blob.digest}` of `{self.reference.name}`",
                hint="the push may be incomplete; the publisher should repeat it",
            )
        return answer.stream, answer.status == 200

    # referrers

    def referrers(self, digest: str) -> Sequence[oci.Descriptor]:
        """Return the referrers of manifest `digest`, of the API and of the tag-schema index."""
        found = {item.blob.digest: item for item in (*self._listed(digest), *self.tagged(digest))}
        if len(found) > _MAX_REFERRERS:
            raise IntegrityError(f"more than {_MAX_REFERRERS} artifacts refer to `{digest}`", subject=digest)
        return [found[key] for key in sorted(found)]

    def _listed(self, digest: str) -> Sequence[oci.Descriptor]:
        found: list[oci.Descriptor] = []
        url = self.url(f"referrers/{digest}")
        for _ in range(_PAGES):
            answer = self.wire.request("GET", url, ok=(200, 400, 404, 405), headers={"Accept": oci.INDEX})
            if answer.status != 200 or not _is_index(answer):
                return found  # no such API: there is only the tag-schema index
            found += oci.parse_listing(answer.data, subject=f"referrers of {digest}")
            if len(found) > _MAX_REFERRERS:
                break  # `referrers` refuses them; the list may have no end
            link = answer.headers.get("Link", "")
            if 'rel="next"' not in link or "<" not in link:
                return found
            url = urljoin(url, link.split("<", 1)[1].split(">", 1)[0])
        return found

    def tagged(self, digest: str) -> Sequence[oci.Descriptor]:
        """Return the referrers that the tag-schema index lists."""
        data = self.manifest(oci.referrers_tag(digest))
        return oci.parse_listing(data, subject=oci.referrers_tag(digest)) if data else ()

    def resolve(self) -> tuple[str, bytes]:
        """Return digest and bytes of the manifest that the reference names. Raises SourceError for an image."""
        digest, data = self.resolve_any()
        self._check_kind(data)
        return digest, data

    def resolve_any(self) -> tuple[str, bytes]:
        """Return digest and bytes of the manifest that the reference names, whatever it is."""
        what = self.reference.digest or self.reference.tag
        if what is None:
            raise UsageError(f"`{self.reference}` names no bundle", hint=f"write `{self.reference}:TAG`")
        data = self.manifest(what)
        if data is None:
            raise SourceError(
                f"registry `{self.reference.host}` has no `{self.reference}`",
                hint="check name and tag; it may also be that this account may not see it",
            )
        return canonical.sha256(data), data

    def _check_kind(self, data: bytes) -> None:
        """Raise SourceError for anything but a single artifact, with the remedy."""
        try:
            value = canonical.load(data, limit=oci.MAX_MANIFEST)
            kind, config = value.get("mediaType"), (value.get("config") or {}).get("mediaType")
            rows = value.get("manifests") or []
            listed = [str(row["digest"]) for row in rows if DIGEST.fullmatch(str(row["digest"]))]
        except (ValueError, AttributeError, KeyError, TypeError):
            return  # its reader reports the fault
        if kind in (oci.INDEX, DOCKER_LIST) or rows:
            place = f"{SCHEME}{self.reference.host}/{self.reference.name}"
            named = f"take one by its digest: {', '.join(f'{place}@{digest}' for digest in listed[:3])}"
            raise SourceError(
                f"`{self.reference}` is an index of {len(rows)} manifests, expected a bundle",
                hint=named if listed else "it is empty: push the bundle again",
            )
        if kind == DOCKER or config in CONFIGS:
            raise ContainerImageError(
                f"`{self.reference}` is a container image, expected a bundle",
                hint="name what `packager push` wrote; an image twin (`export --image-twin`) is not read back, and the "
                "files of an image become a source once they lie in a directory (`podman cp`)",
            )


def _names(data: bytes, reference: Reference) -> list[str]:
    """Return the tags of a response that are safe to show and to request."""
    try:
        found = canonical.load(data, limit=MAX_ANSWER)["tags"] or []
        return [tag for tag in found if TAG.fullmatch(tag)]
    except (ValueError, KeyError, TypeError):
        raise SourceError(f"registry `{reference.host}` lists the tags of `{reference.name}` in another form") from None


def _is_index(answer: Answer) -> bool:
    return answer.headers.get("Content-Type", "").partition(";")[0].strip() == oci.INDEX


class Download(io.RawIOBase):
    """A blob as a stream. After a broken connection it resumes at the byte where it broke.

    The bytes are not checked here: the reader hashes them. Raises SourceError after as many attempts in a row without
    progress as `Patience` allows.
    """

    def __init__(self, repository: Repository, blob: Blob) -> None:
        self._repository, self._blob = repository, blob
        self._position, self._fruitless = 0, 0
        self._spent, self._received = 0.0, 0  # seconds waited for the registry, pauses included; bytes received
        self._stream: Response | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("only absolute positions")
        if offset != self._position:
            self._drop()
            self._position = offset
        return offset

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._blob.size - self._position)
        while wanted > 0:
            started = time.monotonic()
            try:
                count = self._connected().readinto(memoryview(buffer)[:wanted])
                if not count:
                    raise BrokenConnectionError(f"the registry ended blob `{self._blob.digest}` early")
            except (http.client.HTTPException, OSError, BrokenConnectionError) as error:
                self._broke(error)
                continue
            finally:
                self._spent += time.monotonic() - started
                self._check_pace()
            self._fruitless = 0
            self._position += count
            self._received += count
            return count
        return 0

    def _connected(self) -> Response:
        if self._stream is None:
            self._stream, whole = self._repository.ranged(self._blob, self._position)
            if whole:
                self._skip(self._position)
        return self._stream

    def _skip(self, count: int) -> None:
        """Skip the beginning, for a server without ranges."""
        while count and self._stream:
            data = self._stream.read(min(count, 1 << 20))
            if not data:
                raise BrokenConnectionError(f"the registry ended blob `{self._blob.digest}` early")
            count -= len(data)

    def _check_pace(self) -> None:
        """Raise for a registry that repeatedly sends a little and breaks."""
        settings = self._repository.settings
        patience = settings.patience
        grace = settings.pace.answer + patience.attempts * patience.longest
        if self._spent > grace + self._received / settings.pace.rate:
            self._drop()
            raise self._repository.wire.overdue()

    def _broke(self, error: Exception) -> None:
        self._drop()
        if is_overdue(error):
            raise self._repository.wire.overdue() from None
        self._fruitless += 1
        if self._fruitless >= self._repository.settings.patience.attempts:
            if isinstance(error, SourceError):
                raise error
            raise BrokenConnectionError(
                f"the connection to registry `{self._repository.reference.host}` keeps breaking",
                hint="repeat the command: what was transferred is kept",
            ) from None
        self._repository.wire.pause(self._fruitless, self._blob.digest)

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        if self._stream is not None and self._position == self._blob.size:
            self._stream.release()
            self._stream = None
        self._drop()
        super().close()
