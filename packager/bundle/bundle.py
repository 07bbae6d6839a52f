# SPDX-License-Identifier: Apache-2.0
"""A bundle, opened: its manifest, its files, what refers to it; and how it is written to another medium.

Opening checks everything small (digests, shapes, names) and reads no weights. Whether a trusted signer
signed it is checked by `verify`; whether every byte is right, by reading the files to their end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from packager import canonical, names
from packager.bundle.extracted import ExtractedTree
from packager.bundle.layout_archive import open_archive
from packager.bundle.readers import (
    INDEX_FILE,
    LAYOUT_FILE,
    LayoutDirectory,
    Medium,
    StoredBundle,
    UnpackedTree,
    read_record,
)
from packager.canonical import JSON
from packager.contract.format_numbers import READABLE, is_readable
from packager.errors import (
    MalformedError,
    PackagerError,
    TooLargeError,
    UsageError,
    WrongContentError,
    WrongSubjectError,
)
from packager.formats import dsse, modelpack, oci
from packager.formats.intoto import METADATA_DIRECTORY
from packager.records import dataclass
from packager.store.store import Store
from packager.types import DIGEST, Blob, Tree, set_digest

if TYPE_CHECKING:
    from packager.contract.contract import Contract

FORMAT = 1  # of bundle.json; a reader refuses any other
RECORD = "bundle.json"
CONTRACT = "contract.json"
SBOM = "sbom.cdx.json"
CARD = "MODEL_CARD"  # and the suffix of the file that the recipe names
DRAFT = "application/vnd.packager.draft.v1+json"
"""An unsigned predicate that the build left; it travels to the signer, and verifiers ignore it."""
CHAIN = "application/pem-certificate-chain"
"""Certificates between a signing certificate and its root (RFC 8555, 9.1); they prove nothing by being there."""
EVIDENCE = "application/vnd.packager.evidence.v1"
"""What a signed statement names by digest and is too large for it; it proves nothing without that statement."""
_KIND = "org.packager.predicateType"
INSTALLED = Path("current", "bundle")  # where an installation keeps the bundle that it serves
MAX_LISTED = 1024  # manifests in an index: the bundle and what is attached to it
MAX_RECORD = 16 << 20  # bytes of one of our JSON files

# Formats that are data, and two that are not: wheels enter an isolated environment by their hashes, and engines are
# native code, which is why no file of a bundle is opened before its signature and digest are checked. `.bin` is the
# external data of a graph and of an OpenVINO `.xml`.
ALLOWED_SUFFIXES = frozenset(
    {
        ".onnx",
        ".bin",
        ".safetensors",
        ".json",
        ".txt",
        ".md",
        ".pbtxt",
        ".whl",
        ".html",
        ".engine",
        ".gguf",
        ".xml",
        ".toml",
        ".jinja",
        ".wav",
    }
)


def card_name(path: str) -> str:
    """Return the name in the bundle of the model card that a recipe names by `path`."""
    return CARD + Path(path).suffix


@dataclass(frozen=True, slots=True)
class Referrer:
    """A blob attached to the bundle: a signature, or something this version does not know."""

    manifest: Blob
    artifact_type: str
    content: Blob
    others: tuple[Blob, ...] = ()  # further blobs of a kind this version does not know; they only travel


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle. `digest` (of the manifest's bytes) is its identity."""

    medium: Medium
    digest: str
    manifest: bytes
    config: Blob
    tree: Tree
    name: str
    version: str
    targets: Mapping[str, JSON]
    referrers: tuple[Referrer, ...]
    pending: Mapping[str, bytes] = field(default_factory=dict)  # records made in memory, not yet on the medium
    held: frozenset[str] = frozenset()  # what the index of the medium leads to, besides the files
    aside: Mapping[str, PackagerError] = field(default_factory=dict)  # manifests of others there, and why
    _contracts: dict[str, Contract] = field(default_factory=dict, compare=False, repr=False)  # by digest

    @property
    def records(self) -> Mapping[str, Blob]:
        """Return every blob of the bundle that is not one of its files, by digest."""
        blobs = [Blob(self.digest, len(self.manifest)), self.config]
        for referrer in self.referrers:
            blobs += [referrer.manifest, referrer.content, *referrer.others]
        if self.referrers:
            blobs += [Blob(canonical.sha256(oci.EMPTY_BYTES), len(oci.EMPTY_BYTES)), _blob(self.referrers_index())]
        return {blob.digest: blob for blob in blobs}

    @property
    def set_digest(self) -> str:
        """Identity of the files, whatever form they are packed in: what `sha256sum FILES | sha256sum` prints."""
        return set_digest(self.tree)

    @property
    def size(self) -> int:
        """Bytes of all files, each distinct content counted once."""
        return sum(blob.size for blob in {blob for _, blob in self.tree})

    @property
    def statements(self) -> int:
        """Return how many statements are attached."""
        return sum(item.artifact_type == dsse.BUNDLE for item in self.referrers)

    @property
    def descriptor(self) -> oci.Descriptor:
        """The OCI descriptor of the manifest."""
        annotations = {oci.REF_NAME: self.version}
        return oci.Descriptor(oci.MANIFEST, Blob(self.digest, len(self.manifest)), annotations, modelpack.ARTIFACT)

    def referrers_index(self) -> bytes:
        """Return the referrers list of the tag schema, for registries and layouts without the referrers API."""
        return oci.write_index(self._referrer_descriptors())

    def _referrer_descriptors(self) -> list[oci.Descriptor]:
        rows = sorted(self.referrers, key=lambda referrer: referrer.manifest.digest)
        return [oci.Descriptor(oci.MANIFEST, r.manifest, {}, r.artifact_type) for r in rows]

    def index(self) -> bytes:
        """Return the canonical `index.json`: the bundle, its referrers, and their list under its tag."""
        rows = [self.descriptor, *self._referrer_descriptors()]
        if self.referrers:
            tag = {oci.REF_NAME: oci.referrers_tag(self.digest)}
            rows.append(oci.Descriptor(oci.INDEX, _blob(self.referrers_index()), tag))
        return oci.write_index(rows)

    def read(self, path: str, *, limit: int = MAX_RECORD) -> bytes:
        """Read one small file of the bundle, checked against the manifest."""
        blob = self.tree.get(path)
        if blob is None:
            raise WrongContentError(f"`{path}` is missing from `{self.medium.label}`", subject=path)
        with self.medium.open_file(path, blob) as file:
            data = file.read(limit + 1)
        if _blob(data) != blob:
            place = self.medium.place(path, blob)
            raise WrongContentError(
                f"`{place}` is damaged: expected {blob.digest}, got {_blob(data).digest}", subject=place
            )
        return data

    def load(self, path: str) -> JSON:
        """Read one JSON file of the bundle, checked. Raises IntegrityError. A contract is read by `contract`."""
        try:
            return canonical.load(self.read(path), limit=MAX_RECORD)
        except ValueError as error:
            raise MalformedError(f"`{path}` is not acceptable JSON: {error}", subject=path) from None

    @property
    def contract(self) -> Contract:
        """The contract, read and parsed once. Raises IntegrityError."""
        blob = self.tree.get(CONTRACT)
        found = self._contracts.get(blob.digest) if blob else None
        if found is None:
            from packager.contract import contract  # with its tables of runtimes: only when it is needed

            data = self.read(CONTRACT)
            found = self._contracts[canonical.sha256(data)] = contract.parse(data)
        return found

    def record_bytes(self, digest: str) -> bytes:
        """Return a record's bytes, whether the medium carries it or it is derived (the referrers list)."""
        if digest == self.digest:
            return self.manifest
        derived = {canonical.sha256(data): data for data in (oci.EMPTY_BYTES, self.referrers_index())}
        made = {**derived, **self.pending}
        return made[digest] if digest in made else read_record(self.medium, digest, limit=dsse.MAX_BUNDLE)

    def with_statement(self, content: bytes, predicate_type: str) -> Bundle:
        """Return this bundle with one more signed statement attached; attaching it twice changes nothing."""
        notes = {"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": predicate_type}
        return self._with(dsse.BUNDLE, content, notes)

    def with_certificates(self, pem: bytes) -> Bundle:
        """Return this bundle with the certificates attached that lead from a signer's to its root."""
        return self._with(CHAIN, pem, {})

    def with_evidence(self, content: bytes) -> Bundle:
        """Return this bundle with the content of something attached that a statement names by digest."""
        return self._with(EVIDENCE, content, {})

    def evidence(self, digest: str) -> bytes:
        """Return attached evidence, checked against its digest. Raises WrongContentError if it is not attached."""
        if not any(item.artifact_type == EVIDENCE and item.content.digest == digest for item in self.referrers):
            raise WrongContentError(
                f"`{digest:.80}`, which a statement names, is not attached to `{self.medium.label}`",
                subject=digest,
                hint="a copy may have left it behind: pull the bundle again from where it was signed",
            )
        return self.record_bytes(digest)

    def with_draft(self, predicate: bytes, predicate_type: str) -> Bundle:
        """Return this bundle with a predicate attached that is still to be signed."""
        return self._with(DRAFT, predicate, {_KIND: predicate_type})

    def _with(self, kind: str, content: bytes, notes: Mapping[str, str]) -> Bundle:
        layer = oci.Descriptor(kind, _blob(content))
        manifest = oci.build_referrer(kind, layer, self.descriptor, notes).to_bytes()
        added = Referrer(_blob(manifest), kind, layer.blob)
        records = {**self.pending, added.manifest.digest: manifest, added.content.digest: content}
        return replace(self, referrers=tuple({*self.referrers, added}), pending=records)

    def drafts(self) -> dict[str, bytes]:
        """Return the attached predicates that are still to be signed, by type."""
        found = {}
        for referrer in self.referrers:
            if referrer.artifact_type == DRAFT and not referrer.others:
                data = self.record_bytes(referrer.manifest.digest)
                kind = oci.parse_manifest(data, subject=referrer.manifest.digest).annotations.get(_KIND, "")
                found[kind] = self.record_bytes(referrer.content.digest)
        return found

    def only(self, keep: Callable[[Referrer], bool]) -> Bundle:
        """Return this bundle with those of its referrers alone that `keep` wants."""
        return replace(self, referrers=tuple(filter(keep, self.referrers)))


def _blob(data: bytes) -> Blob:
    return Blob(canonical.sha256(data), len(data))


def no_network(reference: str) -> Medium:
    """Refuse a bundle that is elsewhere: what callers get that hand no way to open one."""
    raise UsageError(f"`{reference}` is on another machine, which cannot be used here", hint="`packager pull` it first")


def open_bundle(reference: str, store: Callable[[], Store], remote: Callable[[str], Medium] = no_network) -> Bundle:
    """Open what a person calls BUNDLE: a directory, an installation, a `.bundle.tar`, an address, or one of the store.

    One of the store is `name:version`, or `sha256:…`. `remote` opens addresses (`oci://…`, `s3://…`); it is given,
    because reading a local bundle needs no network code. Raises WrongSubjectError where a name leads to a bundle that
    calls itself otherwise.
    """
    bundle = read(medium_of(reference, store, remote))
    if "://" in reference or isinstance(bundle.medium, StoredBundle):
        names.check_called(reference, bundle.name, bundle.version)
    return bundle


def open_extracted(
    root: Path, statements: str, store: Callable[[], Store], remote: Callable[[str], Medium] = no_network
) -> Bundle:
    """Open the files that another tool wrote to `root`, with manifest and statements of the bundle `statements`.

    `statements` is whatever `open_bundle` opens; of a layout it may be the part without the files. Raises UsageError.
    """
    if not root.is_dir():
        raise UsageError(f"`{root}` is no directory", hint="expected the files of a bundle, as another tool wrote them")
    bundle = read(ExtractedTree(root, medium_of(statements, store, remote)))
    if "://" in statements:
        names.check_called(statements, bundle.name, bundle.version)
    return bundle


def medium_of(reference: str, store: Callable[[], Store], remote: Callable[[str], Medium] = no_network) -> Medium:
    """Tell which kind of medium `reference` names. Raises UsageError when it names nothing."""
    if "://" in reference:
        return remote(reference)
    path = Path(reference)
    if path.is_dir():
        if (path / METADATA_DIRECTORY).is_dir() and not (path / LAYOUT_FILE).exists():
            return UnpackedTree(path)
        if (path / INSTALLED / METADATA_DIRECTORY).is_dir():
            return UnpackedTree((path / INSTALLED).resolve())
        if any((path / part).exists() for part in (LAYOUT_FILE, INDEX_FILE, "blobs")):
            return LayoutDirectory(path)
        raise UsageError(
            f"directory `{reference}` holds no bundle",
            hint="expected an OCI layout, an unpacked bundle or an installation",
        )
    if path.is_file():
        return open_archive(path)
    if ":" not in reference or "/" in reference:
        raise UsageError(
            f"no bundle at `{reference}`",
            hint="give a directory, a .bundle.tar file, an address (oci://host/name:tag, s3://bucket/name:version), "
            "or name:version or sha256:… of the local store",
        )
    local = store()
    if DIGEST.fullmatch(reference):
        return StoredBundle(local, local.find(reference), reference)
    return StoredBundle(local, local.entry(*names.parse(reference)), reference)


def read(medium: Medium) -> Bundle:
    """Open the bundle on `medium`; anything malformed of it is an IntegrityError naming it.

    Manifests of other tools may lie beside it, such as signatures of another form: they are left aside.
    """
    models: dict[str, bytes] = {}
    attached: dict[Blob, oci.Manifest] = {}
    aside: dict[str, PackagerError] = {}
    held: set[str] = set()
    listed = oci.parse_index(medium.index(), subject=INDEX_FILE)
    if len(listed) > MAX_LISTED:
        raise TooLargeError(
            f"`{INDEX_FILE}` lists {len(listed)} manifests, at most {MAX_LISTED} are read", subject=INDEX_FILE
        )
    for descriptor in listed:
        data = read_record(medium, descriptor.blob.digest)
        if len(data) != descriptor.blob.size:
            raise MalformedError(f"`{INDEX_FILE}` lies about the size of {descriptor.blob.digest}", subject=INDEX_FILE)
        held |= {descriptor.blob.digest, *oci.named_blobs(data)}
        if oci.is_index(data):
            continue  # the tag-schema list repeats what index.json says
        try:
            manifest = oci.parse_manifest(data, subject=descriptor.blob.digest)
            if manifest.subject is None:
                modelpack.check_type(manifest, subject=descriptor.blob.digest)
                models[descriptor.blob.digest] = data
            else:
                attached[descriptor.blob] = manifest
        except MalformedError as error:
            aside[descriptor.blob.digest] = error
    if len(models) != 1:
        raise _not_one(medium, models, aside)
    ((digest, data),) = models.items()
    bundle = _assemble(medium, digest, data, _referrers(Blob(digest, len(data)), attached, aside))
    return replace(bundle, held=frozenset(held - {blob.digest for _, blob in bundle.tree}), aside=aside)


def _not_one(medium: Medium, models: Mapping[str, bytes], aside: Mapping[str, PackagerError]) -> PackagerError:
    if not models and aside:
        return next(iter(aside.values()))
    hint = "take one of them out: `oras cp` copies one by its tag" if models else None
    return MalformedError(f"expected one bundle in `{medium.label}`, got {len(models)}", subject=INDEX_FILE, hint=hint)


def _referrers(
    model: Blob, attached: Mapping[Blob, oci.Manifest], aside: dict[str, PackagerError]
) -> Mapping[str, Referrer]:
    """Return what is attached to the bundle; what is attached to that, or too large, is added to `aside`.

    Raises WrongSubjectError for what is attached to something that is not here.
    """
    found: dict[str, Referrer] = {}
    for blob, manifest in attached.items():
        about = manifest.subject.blob if manifest.subject else None
        if about == model:
            referrer = _referrer(blob, manifest)
            if max(item.size for item in (referrer.content, *referrer.others)) > dsse.MAX_BUNDLE:
                aside[blob.digest] = TooLargeError(f"it holds more than {dsse.MAX_BUNDLE} bytes", subject=blob.digest)
            else:
                found[blob.digest] = referrer
        elif about in attached or (about and about.digest in aside):
            aside[blob.digest] = WrongSubjectError("it is about something that is attached", subject=blob.digest)
        else:
            raise WrongSubjectError(f"referrer `{blob.digest}` belongs to another bundle", subject=blob.digest)
    return found


def _referrer(blob: Blob, manifest: oci.Manifest) -> Referrer:
    """Read what is attached: our statements have exactly one blob; what others attach may be of any shape."""
    first, *more = (layer.blob for layer in manifest.layers)
    config = () if manifest.config.media_type == oci.EMPTY else (manifest.config.blob,)
    return Referrer(blob, manifest.artifact_type, first, (*more, *config))


def _assemble(medium: Medium, digest: str, data: bytes, referrers: Mapping[str, Referrer]) -> Bundle:
    manifest = oci.parse_manifest(data, subject=digest)
    tree = modelpack.list_files(manifest, subject=digest)
    bare = Bundle(medium, digest, data, manifest.config.blob, tree, "", "", {}, tuple(referrers.values()))
    name, version, targets = _identity(bare)
    _check_contract_format(bare)
    return replace(bare, name=name, version=version, targets=targets)


def _check_contract_format(bundle: Bundle) -> None:
    if bundle.tree.get(CONTRACT) is not None and not is_readable(bundle.load(CONTRACT)):
        raise MalformedError(
            f"`{CONTRACT}` is of an unknown format version",
            subject=CONTRACT,
            hint=f"this program reads formats {READABLE[0]} to {READABLE[-1]}; a newer packager may read this bundle",
        )


def _identity(bundle: Bundle) -> tuple[str, str, Mapping[str, JSON]]:
    """Read name, version and targets from the bundle's own record, which the manifest covers."""
    value = bundle.load(RECORD)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise MalformedError(
            f"`{RECORD}` is of an unknown format version",
            subject=RECORD,
            hint=f"this program reads format {FORMAT}; a newer packager may read this bundle",
        )
    if set(value) != {"format", "name", "version", "files", "targets"} or not isinstance(value["targets"], dict):
        raise MalformedError(f"`{RECORD}` does not have exactly the known fields", subject=RECORD)
    listed = {path: [blob.digest, blob.size] for path, blob in bundle.tree if path != RECORD}
    if value["files"] != listed:
        raise MalformedError(f"`{RECORD}` lists other files than the manifest", subject=RECORD)
    name, version = names.check(value["name"], value["version"], subject=RECORD)
    said = oci.parse_manifest(bundle.manifest, subject=bundle.digest).annotations
    for title, own in ((modelpack.TITLE, name), (modelpack.VERSION, version)):
        if said.get(title, own) != own:
            raise MalformedError(
                f"manifest `{bundle.digest}` and `{RECORD}` disagree: expected {own}, got {said[title]!r:.100}",
                subject=bundle.digest,
            )
    return name, version, value["targets"]
