# SPDX-License-Identifier: Apache-2.0
"""Sign the container image that was built of a rendering, and follow a signed image back to bundle and source.

An image is signed where it is, in a registry, once its content is known: every file of the rendering has to be in the
image, nothing else beside them, and what starts has to be what was rendered. What is below, the base image, is named
by the rendering and not looked into.

Two statements are attached, whose subject is the image's digest: `urn:packager:image:v1` says of which bundle and knobs
the image was made, and SLSA provenance how. Both are deterministic, so signing again adds nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from packager import __version__, canonical
from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.deploy.renderers._deployment import RECORD
from packager.errors import (
    IntegrityError,
    MalformedError,
    MissingStatementError,
    PackagerError,
    RevokedError,
    UnsignedError,
    UsageError,
    WrongContentError,
    WrongSubjectError,
)
from packager.events import OnEvent, Progress, Warned, ignore
from packager.files import digest_of
from packager.formats import container_images, dsse, oci, slsa
from packager.formats.container_images import ImageManifest
from packager.formats.dsse import SignedStatement
from packager.formats.intoto import BUNDLE_PREDICATE, IMAGE_PREDICATE, Statement, resource
from packager.release import builder, cosign_legacy
from packager.transport.attached import PendingStatements, read_attached
from packager.transport.registry import publish, reference
from packager.transport.registry.medium import RegistryBundle
from packager.transport.registry.wire import Settings
from packager.trust import evidence
from packager.trust.attach import with_chains, with_signed
from packager.trust.evidence import Evidence
from packager.trust.model import Trust
from packager.trust.signers import Repeating, Signer
from packager.trust.verifier import Verifier
from packager.trust.verify import Verification
from packager.types import DIGEST, Blob, Tree, set_digest

KIND = "container"
SERVER, MODEL = "server", "model"
"""The parts of the Containerfile: the server with the model, and the model alone, for an image volume."""
_PLACES = {"site": "srv/app", "server": "srv", "model": "srv/model"}
_HOME = "srv"
_FILE = "Containerfile"


@dataclass(frozen=True, slots=True)
class Rendering:
    """What `render container` wrote: its record, and its files by their place there, `Containerfile` included."""

    record: Mapping[str, JSON]
    files: Mapping[str, Blob]
    containerfile: str

    @property
    def name(self) -> str:
        """Return `name:version` of the bundle."""
        return f"{self.record['name']}:{self.record['version']}"

    @property
    def bundle(self) -> str:
        """Return the digest of the bundle."""
        return str(self.record["bundle"])

    def content(self, part: str) -> dict[str, Blob]:
        """Return the files of a part of the image, by their path in it."""
        found = {}
        for place, blob in self.files.items():
            folder, _, rest = place.partition("/")
            if part == MODEL and folder == "model":
                found[rest] = blob
            elif part == SERVER and folder in _PLACES:
                found[f"{_PLACES[folder]}/{rest}"] = blob
        return found


@dataclass(frozen=True, slots=True)
class SignedImage:
    """An image that was signed: its address with digest, the part it holds, and how many statements are attached."""

    reference: str
    digest: str
    part: str
    statements: int


@dataclass(frozen=True, slots=True)
class ImageVerification:
    """A signed image, the bundle that it was made of, verified as a whole, and where that came from.

    `sources` has a row for every source that the bundle's signed provenance names: `source` (its pinned address), and
    `signer` and `form` of its publisher's signature, None where none was demanded.
    """

    reference: str
    digest: str
    part: str
    knobs: str
    evidence: tuple[Evidence, ...]
    bundle: Verification
    sources: tuple[Mapping[str, JSON], ...] = ()
    skipped: Mapping[str, PackagerError] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def signers(self) -> tuple[str, ...]:
        """Return the trusted identities that signed the image, sorted."""
        return tuple(sorted({item.attested.identity for item in self.evidence}))

    def to_json(self) -> JSON:
        return {
            "ok": self.bundle.ok,
            "image": self.reference,
            "digest": self.digest,
            "part": self.part,
            "knobs": self.knobs,
            "signers": list(self.signers),
            "bundle": self.bundle.to_json(),
            "sources": [dict(row) for row in self.sources],
            "skipped": [{"digest": digest, "reason": why.message} for digest, why in self.skipped.items()],
            "others": [{"digest": digest, "reason": why} for digest, why in sorted(self.others.items())],
        }


# the rendering


def read_rendering(root: Path) -> Rendering:
    """Read what `render container` wrote to `root`, and hash it. Raises UsageError for anything else."""
    try:
        record = canonical.load((root / RECORD).read_bytes(), limit=1 << 20)
        text = (root / _FILE).read_text()
        fits = record["kind"] == KIND and DIGEST.fullmatch(record["bundle"]) and DIGEST.fullmatch(record["knobs"])
        rows = {**record["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"`{root}` is not what `packager render container` wrote: {error}", hint="name that directory"
        ) from None
    if not fits:
        raise UsageError(
            f"`{root}` is a rendering of another kind: `{record['kind']!s:.40}`", hint="render `container`"
        )
    files = {}
    for path in sorted(root.rglob("*")):
        place = path.relative_to(root).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise UsageError(f"`{path}` is neither a file nor a directory", hint="render it again")
        if path.is_file():
            with path.open("rb") as file:
                files[place] = digest_of(file, limit=path.stat().st_size)
    for place, digest in rows.items():
        got = files.get(f"model/{place}")
        if got is None or got.digest != digest:
            raise WrongContentError(
                f"`{root / 'model' / place}` is not the bundle's file: expected {digest}, got {got and got.digest}",
                subject=place,
                hint="render it again",
            )
    return Rendering(record, files, text)


def _check_bundle(rendering: Rendering, bundle: Bundle) -> None:
    """Raise WrongSubjectError unless `bundle` is what was rendered."""
    if bundle.digest != rendering.bundle:
        raise WrongSubjectError(
            f"the rendering is of another bundle: expected {rendering.bundle}, got {bundle.digest}",
            subject=bundle.digest,
        )
    known = {blob.digest for _, blob in bundle.tree}
    for place, digest in rendering.record["files"].items():
        if digest not in known:
            raise WrongContentError(f"`{place}` of the rendering is no file of the bundle", subject=place)


# the image


@dataclass(frozen=True, slots=True)
class _Image:
    """An image in a registry."""

    medium: RegistryBundle
    descriptor: oci.Descriptor
    manifest: ImageManifest
    reference: str

    @property
    def digest(self) -> str:
        return self.descriptor.blob.digest

    def read_attached(self) -> tuple[dict[str, SignedStatement], dict[str, PackagerError]]:
        """Return the statements about it, unverified, and why others cannot be read, by digest."""
        rows = self.medium.read_referrers(self.descriptor)
        statements, chains = read_attached(self.medium, rows, self.digest)
        signed, skipped = evidence.split_readable(statements)
        return {digest: with_chains(one, chains) for digest, one in signed.items()}, skipped


def _open_image(address: str, settings: Settings, on_event: OnEvent) -> _Image:
    if not address.startswith(reference.SCHEME):
        raise UsageError(
            f"`{address:.200}` is no image in a registry", hint="push it, then name it: oci://HOST/NAME:TAG"
        )
    named = reference.parse(address)
    medium = RegistryBundle(named, settings, on_event)
    digest, data = medium.repository.resolve_any()
    manifest = container_images.parse_manifest(data, subject=address)
    descriptor = oci.Descriptor(manifest.media_type, Blob(digest, len(data)))
    return _Image(medium, descriptor, manifest, f"{reference.SCHEME}{named.host}/{named.name}@{digest}")


def _check_content(image: _Image, rendering: Rendering, on_event: OnEvent) -> tuple[str, dict[str, Blob]]:
    """Return the part that an image holds, and its files. Raises WrongContentError for what was not rendered."""
    total, done = sum(layer.blob.size for layer in image.manifest.layers), 0

    def moved(count: int) -> None:
        nonlocal done
        done += count
        on_event(Progress(f"reading {image.reference}", done, total))

    found = container_images.read_files(image.manifest.layers, image.medium.repository.open, moved)
    part = SERVER if any(path == _HOME or path.startswith(f"{_HOME}/") for path in found) else MODEL
    here = {path: blob for path, blob in found.items() if part == MODEL or f"{path}/".startswith(f"{_HOME}/")}
    wanted = rendering.content(part)
    for path in sorted(here.keys() | wanted.keys()):
        if path not in wanted or here.get(path) != wanted[path]:
            what = "is not in it" if path not in here else "has other content" if path in wanted else "is besides it"
            raise WrongContentError(
                f"the image was not built of this rendering: `/{path}` {what}",
                subject=path,
                hint="build the image from the directory as it was rendered, and push it again",
            )
    _check_config(image, rendering, part)
    return part, wanted


def _check_config(image: _Image, rendering: Rendering, part: str) -> None:
    blob = image.manifest.config.blob
    if blob.size > container_images.MAX_CONFIG:
        raise IntegrityError(
            f"the config of `{image.reference}` is larger than {container_images.MAX_CONFIG} bytes", subject=blob.digest
        )
    with image.medium.repository.open(blob) as file:
        data = file.read(blob.size + 1)
    if Blob(canonical.sha256(data), len(data)) != blob:
        raise WrongContentError(f"the config of `{image.reference}` is damaged", subject=blob.digest)
    config = container_images.parse_config(data, subject=image.reference)
    label = config.labels.get("packager.bundle")
    said = {"label packager.bundle": (label, rendering.bundle)}
    if part == SERVER:
        entry, command, user = (_instruction(rendering, name) for name in ("ENTRYPOINT", "CMD", "USER"))
        said |= {
            "entry point": (json.dumps([*config.entrypoint]), entry),
            "command": (json.dumps([*config.command]), command),
            "user": (config.user, user),
        }
    for what, (got, expected) in said.items():
        if got != expected:
            raise WrongContentError(
                f"the image was not built of this rendering: its {what} is `{got!s:.300}`, expected `{expected:.300}`",
                subject=image.reference,
            )


def _instruction(rendering: Rendering, name: str) -> str:
    """Return the last instruction of a name in the Containerfile, which we wrote."""
    found = re.findall(rf"^{name} (.*)$", rendering.containerfile, re.MULTILINE)
    return json.dumps(json.loads(found[-1])) if found[-1].startswith("[") else str(found[-1])


# signing


def sign_image(
    address: str,
    root: Path,
    signer: Signer,
    settings: Settings,
    variables: Mapping[str, str],
    *,
    bundle: Bundle | None = None,
    bundle_address: str | None = None,
    legacy: bool = False,
    on_event: OnEvent = ignore,
) -> SignedImage:
    """Sign the image at `address`, which was built of the rendering in `root`; push the statements beside it.

    With `bundle` the rendering is compared with it; `bundle_address` is where a verifier finds it. `legacy` adds
    cosign's first form. Raises UsageError, WrongContentError for an image of other content, WrongSubjectError for
    another bundle, SourceError.
    """
    raw = cosign_legacy.check_signer(signer) if legacy else None
    rendering = read_rendering(root)
    if bundle is not None:
        _check_bundle(rendering, bundle)
    image = _open_image(address, settings, on_event)
    part, files = _check_content(image, rendering, on_event)
    known, _ = image.read_attached()
    pending = PendingStatements(image.descriptor)
    for statement in _statements(image, rendering, part, files, variables, _pinned(bundle_address, rendering)):
        signed = signer.sign(statement.to_bytes())
        if not _is_known(signed, signer, known.values()):
            pending = with_signed(pending, signed, statement.predicate_type)
    publish.push_referrers(image.medium.repository, pending)
    if raw is not None:
        cosign_legacy.add_legacy(image.digest, image.medium.repository, raw)
    added = sum(item.artifact_type == dsse.BUNDLE for item in pending.referrers)
    return SignedImage(image.reference, image.digest, part, len(known) + added)


def _pinned(address: str | None, rendering: Rendering) -> str | None:
    """Return the address of the bundle by its digest; None for one that is not in a registry."""
    if address is None or not address.startswith(reference.SCHEME):
        return None
    named = reference.parse(address)
    return f"{reference.SCHEME}{named.host}/{named.name}@{rendering.bundle}"


def _is_known(signed: SignedStatement, signer: Signer, known: Iterable[SignedStatement]) -> bool:
    """Tell whether the same signer signed the same before."""
    return isinstance(signer, Repeating) and any(
        old.payload == signed.payload and signer.repeats(old, signed) for old in known
    )


def _statements(
    image: _Image,
    rendering: Rendering,
    part: str,
    files: Mapping[str, Blob],
    variables: Mapping[str, str],
    uri: str | None,
) -> list[Statement]:
    record, named = rendering.record, image.reference.removeprefix(reference.SCHEME).partition("@")[0]
    subject = image.digest.removeprefix("sha256:")
    made_of = {"name": record["name"], "version": record["version"], "digest": record["bundle"]}
    about: dict[str, JSON] = {
        "bundle": {**made_of, **({"uri": uri} if uri else {})},
        "knobs": record["knobs"],
        "part": part,
        "files": len(files),
        "setDigest": set_digest(Tree.of(files)),
    }
    who, _ = builder.identify(None, variables)
    provenance: dict[str, JSON] = {
        "buildDefinition": {
            "buildType": slsa.RENDER_TYPE,
            "externalParameters": {name: record[name] for name in ("kind", "options", "values")} | {"part": part},
            "resolvedDependencies": [resource(rendering.name, rendering.bundle, uri=uri, kind=oci.MANIFEST)],
        },
        "runDetails": {"builder": {"id": who, "version": {"packager": __version__}}},
    }
    return [Statement(IMAGE_PREDICATE, named, subject, about), Statement(slsa.PREDICATE, named, subject, provenance)]


# verifying


def verify_image(
    address: str,
    verifier: Verifier,
    settings: Settings,
    open_bundle: Callable[[str], Bundle],
    *,
    made_of: str | None = None,
    passes: Callable[[Verification, Bundle], bool] = lambda _seen, _bundle: True,
    on_event: OnEvent = ignore,
) -> ImageVerification:
    """Verify the image at `address`: who signed it, of which bundle it was made, and that bundle as `verify` does.

    The bundle is `made_of`, by default where the signed statement says that it is; `passes` judges it as in
    `Verifier.verify`. Raises UnsignedError, UntrustedSignerError, MissingStatementError, RevokedError,
    BadSignatureError and WrongSubjectError about the image, UsageError where the bundle is not at hand. Whether the
    bundle holds is in what is returned.
    """
    image = _open_image(address, settings, on_event)
    found, skipped, others = _authenticate(image, verifier)
    about = _made_of(image, found, verifier.trust)
    where = made_of or about.uri
    if where is None:
        raise UsageError(
            f"the image was made of `{about.name}:{about.version}` {about.digest}, which is not at hand",
            hint="name it: --made-of BUNDLE",
        )
    bundle = open_bundle(where)
    if bundle.digest != about.digest:
        raise WrongSubjectError(
            f"the image was made of another bundle: expected {about.digest}, got {bundle.digest} from `{where:.200}`",
            subject=image.reference,
        )
    verified = verifier.verify(bundle, on_event, passes=lambda seen: passes(seen, bundle))
    return ImageVerification(
        image.reference,
        image.digest,
        about.part,
        about.knobs,
        found,
        verified,
        tuple(_sources(verified, verifier.trust)),
        skipped,
        others,
    )


@dataclass(frozen=True, slots=True)
class _MadeOf:
    name: str
    version: str
    digest: str
    uri: str | None
    knobs: str
    part: str


def _authenticate(
    image: _Image, verifier: Verifier
) -> tuple[tuple[Evidence, ...], dict[str, PackagerError], dict[str, str]]:
    """Return the statements of trusted signers about an image, and what is skipped or of others."""
    trust = verifier.trust
    evidence.check_not_expired(trust, verifier.now)
    signed, skipped = image.read_attached()
    others: dict[str, str] = {}
    try:
        found = evidence.authenticate(signed, trust, verifier.now, skipped, others)
    except UnsignedError:
        raise UnsignedError(
            f"image `{image.reference}` is not signed", hint="`packager sign-image` signs what was built of a rendering"
        ) from None
    for item in found:
        if item.statement.subject_sha256 != image.digest.removeprefix("sha256:"):
            raise WrongSubjectError(
                f"a trusted signer signed another image: expected {image.digest[7:23]}, "
                f"got {item.statement.subject_sha256:.16} ({item.statement.predicate_type:.80})",
                subject=item.digest,
            )
    if image.digest in trust.revoked.bundles:
        raise RevokedError(f"image {image.digest} was revoked")
    left = evidence.without_revoked(found, trust)
    if not left:
        raise RevokedError(f"every signer of `{image.reference}` was revoked", hint="get a newly signed image")
    return left, skipped, others


def _made_of(image: _Image, found: Iterable[Evidence], trust: Trust) -> _MadeOf:
    """Return what the signers that may sign bundles say the image was made of."""
    entitled = [row.signers for row in trust.required if row.predicate_type == BUNDLE_PREDICATE and row.signers]
    said = [
        _parse_image(item)
        for item in found
        if item.statement.predicate_type == IMAGE_PREDICATE and all(item.attested.signer in row for row in entitled)
    ]
    if not said:
        raise MissingStatementError(
            f"no signer that may sign bundles says of which bundle `{image.reference}` was made",
            hint="`packager sign-image` states it; `cosign sign` alone does not",
        )
    if len({(one.digest, one.knobs, one.part) for one in said}) > 1:
        raise WrongSubjectError(
            f"trusted signers disagree about what `{image.reference}` was made of: "
            f"{', '.join(sorted({one.digest for one in said}))}",
            subject=image.reference,
        )
    return next((one for one in said if one.uri), said[0])


def _parse_image(item: Evidence) -> _MadeOf:
    try:
        top = dsse.members(item.statement.predicate, "image statement", "bundle knobs part files setDigest")
        about = dsse.members(top["bundle"], "bundle of an image", "name version digest", "uri")
        texts = [about[name] for name in ("name", "version", "digest")] + [top["knobs"], top["part"]]
        uri = about.get("uri")
        if not all(isinstance(text, str) for text in texts) or not DIGEST.fullmatch(about["digest"]):
            raise ValueError("text and a digest expected")
        if uri is not None:
            reference.parse(str(uri))
    except (ValueError, UsageError) as error:
        raise MalformedError(f"statement `{item.digest}` is malformed: {error}", subject=item.digest) from None
    name, version, digest, knobs, part = texts
    return _MadeOf(name, version, digest, uri, knobs, part)


def _sources(verified: Verification, trust: Trust) -> Iterable[Mapping[str, JSON]]:
    """Yield the sources that trusted provenance of our builds names, each once."""
    from packager.policy import facts

    seen = []
    for item in evidence.statements_of_type(verified.evidence, trust, slsa.PREDICATE):
        for row in facts.list_publishers(item):
            if row not in seen:
                seen.append(row)
                yield row


def warn_skipped(found: ImageVerification, on_event: OnEvent) -> None:
    """Report what is attached to the image and was not counted."""
    from packager.trust.verify import skipped_notes

    for note in skipped_notes(found.skipped, found.others):
        on_event(Warned(note))
