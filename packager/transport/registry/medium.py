# SPDX-License-Identifier: Apache-2.0
"""Read a bundle from a registry. Every blob is requested by digest; tags are hints."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from packager import canonical
from packager.bundle.bundle import CONTRACT, MAX_RECORD, RECORD, Bundle
from packager.errors import IntegrityError
from packager.events import OnEvent, Warned, ignore
from packager.formats import dsse, oci
from packager.records import dataclass
from packager.transport.registry import publish
from packager.transport.registry.reference import Reference
from packager.transport.registry.repository import NotInRegistryError, Repository
from packager.transport.registry.wire import Settings
from packager.types import Blob, Tree

_NOTES = 5
_CONNECTIONS = 8
_ATTACHED = 128 << 20  # bytes of everything attached to one bundle; it is kept in memory


class _LeftOutError(Exception):
    """A referrer is skipped, for the reason in the message."""


@dataclass(frozen=True, slots=True)
class _Attached:
    """The manifest of a referrer, and the blobs that it names."""

    digest: str
    data: bytes
    manifest: oci.Manifest
    held: Mapping[str, Blob]

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self.held.values())


def _summed(attached: Sequence[_Attached]) -> Iterator[tuple[int, _Attached]]:
    """Yield each with the size of it and all before it."""
    total = 0
    for one in attached:
        total += one.size
        yield total, one


class RegistryBundle:
    """One bundle of a repository, with all referrers that the registry lists."""

    def __init__(self, reference: Reference, settings: Settings, on_event: OnEvent = ignore) -> None:
        self.label = str(reference)
        self.repository, self._on_event = Repository(reference, settings), on_event
        self._small: dict[str, bytes] = {}  # manifests, and what is derived from them
        self._sizes: dict[str, int] = {}

    @property
    def name(self) -> str:
        """Return the repository's name, from which a push to the same registry can mount blobs."""
        return self.repository.reference.name

    def index(self) -> bytes:
        digest, data = self.repository.resolve()
        self._small[digest] = data
        manifest = oci.parse_manifest(data, subject=digest)
        self._know([manifest.config, *manifest.layers])
        model = oci.Descriptor(oci.MANIFEST, Blob(digest, len(data)))
        referrers = self.read_referrers(model)
        listed = oci.write_index(
            referrers
        )  # the registry's own list may name more; this is the one that `Bundle` states
        self._small |= {canonical.sha256(content): content for content in (listed, oci.EMPTY_BYTES)}
        return oci.write_index([model, *referrers])

    def _know(self, descriptors: Sequence[oci.Descriptor]) -> None:
        self._sizes |= {item.blob.digest: item.blob.size for item in descriptors}

    def read_referrers(self, model: oci.Descriptor) -> list[oci.Descriptor]:
        """Fetch the referrers; everyone may attach anything, so unreadable ones are skipped with a warning.

        The smallest are fetched first, up to a limit of all together: large ones displace no statement of ours.
        """
        listed = self.repository.referrers(model.blob.digest)
        left: dict[str, str] = {}
        found: list[oci.Descriptor] = []
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            manifests = list(pool.map(lambda item: self._manifest(item.blob.digest, model), listed))
            for item, why in zip(listed, manifests, strict=True):
                if isinstance(why, _LeftOutError):
                    left[item.blob.digest] = str(why)
            read = sorted(
                (one for one in manifests if isinstance(one, _Attached)), key=lambda one: (one.size, one.digest)
            )
            within = list(itertools.takewhile(lambda one: one[0] <= _ATTACHED, _summed(read)))
            left |= {one.digest: f"more than {_ATTACHED} bytes are attached" for one in read[len(within) :]}
            contents = pool.map(lambda one: self._contents(one[1]), within)
            for (_, attached), content in zip(within, contents, strict=True):
                if isinstance(content, _LeftOutError):
                    left[attached.digest] = str(content)
                    continue
                self._know([attached.manifest.config, *attached.manifest.layers])
                self._small |= {**content, attached.digest: attached.data}
                blob = Blob(attached.digest, len(attached.data))
                found.append(oci.Descriptor(oci.MANIFEST, blob, {}, attached.manifest.artifact_type))
        self._tell(left)
        return sorted(found, key=lambda item: item.blob.digest)

    def _tell(self, left: Mapping[str, str]) -> None:
        for digest in sorted(left)[:_NOTES]:
            self._on_event(Warned(f"`{digest}` in `{self.label}` is left out: {left[digest]}"))
        if len(left) > _NOTES:
            self._on_event(Warned(f"{len(left) - _NOTES} more things in `{self.label}` are left out"))

    def _manifest(self, digest: str, model: oci.Descriptor) -> _Attached | _LeftOutError:
        try:
            return self._attached(digest, model)
        except _LeftOutError as why:
            return why

    def _contents(self, attached: _Attached) -> dict[str, bytes] | _LeftOutError:
        try:
            return {name: self._content(blob) for name, blob in attached.held.items() if name not in self._small}
        except _LeftOutError as why:
            return why

    def _attached(self, digest: str, model: oci.Descriptor) -> _Attached:
        try:
            data = self.repository.manifest(digest)
            if data is None:
                raise _LeftOutError("the registry lists it and does not have it")
            manifest = oci.parse_manifest(data, subject=digest)
        except IntegrityError as error:
            raise _LeftOutError(error.message) from None
        if manifest.subject is None or manifest.subject.blob != model.blob:
            raise _LeftOutError("it is about something else")
        held = {item.blob.digest: item.blob for item in (*manifest.layers, manifest.config)}
        if max(blob.size for blob in held.values()) > dsse.MAX_BUNDLE:
            raise _LeftOutError(f"it holds more than {dsse.MAX_BUNDLE} bytes")
        return _Attached(digest, data, manifest, held)

    def _content(self, blob: Blob) -> bytes:
        """Read an attached blob early, so that a broken one can still be skipped."""
        if blob == Blob(canonical.sha256(oci.EMPTY_BYTES), len(oci.EMPTY_BYTES)):
            return oci.EMPTY_BYTES
        try:
            with self.repository.open(blob) as file:
                data = file.read(blob.size + 1)
        except NotInRegistryError:
            raise _LeftOutError("the registry does not have what it holds") from None
        if Blob(canonical.sha256(data), len(data)) != blob:
            raise _LeftOutError("what it holds is damaged")
        return data

    def open_record(self, digest: str) -> BinaryIO:
        if digest in self._small:
            return io.BytesIO(self._small[digest])
        if digest not in self._sizes:
            raise IntegrityError(f"`{self.label}` does not name `{digest}`", subject=digest)
        return self.repository.open(Blob(digest, self._sizes[digest]))

    def open_file(self, path: str, blob: Blob) -> BinaryIO:
        if path not in (RECORD, CONTRACT) or blob.size > MAX_RECORD:
            return self.repository.open(blob)
        if blob.digest not in self._small:  # read to open the bundle, and again to copy it
            with self.repository.open(blob) as file:
                data = file.read(blob.size + 1)
            if canonical.sha256(data) != blob.digest:
                return io.BytesIO(data)  # the reader refuses it
            self._small[blob.digest] = data
        return io.BytesIO(self._small[blob.digest])

    def place(self, path: str, blob: Blob) -> str:
        return f"{path or blob.digest} in {self.label}"

    def check_extent(self, tree: Tree, records: Iterable[str]) -> None:
        """Do nothing: other bundles share the repository, and a missing blob is detected when it is read."""

    def attach(self, bundle: Bundle) -> None:
        """Push the referrers of `bundle`, and list them under the tag schema."""
        publish.push_referrers(self.repository, bundle)
