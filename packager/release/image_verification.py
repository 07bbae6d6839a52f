# SPDX-License-Identifier: Apache-2.0
"""Follow a signed image back to the bundle that it was made of, and that bundle to its source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.errors import (
    MalformedError,
    MissingStatementError,
    PackagerError,
    RevokedError,
    UnsignedError,
    UsageError,
    WrongSubjectError,
)
from packager.events import OnEvent, Warned, ignore
from packager.formats import dsse, slsa
from packager.formats.intoto import BUNDLE_PREDICATE, IMAGE_PREDICATE
from packager.release.images import OpenedImage, open_image
from packager.transport.registry import reference
from packager.transport.registry.wire import Settings
from packager.trust import evidence
from packager.trust.evidence import Evidence
from packager.trust.model import Trust
from packager.trust.verifier import Verifier
from packager.trust.verify import Verification
from packager.types import DIGEST


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
    image = open_image(address, settings, on_event)
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
    image: OpenedImage, verifier: Verifier
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


def _made_of(image: OpenedImage, found: Iterable[Evidence], trust: Trust) -> _MadeOf:
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
        top = dsse.read_members(item.statement.predicate, "image statement", "bundle knobs part files setDigest")
        about = dsse.read_members(top["bundle"], "bundle of an image", "name version digest", "uri")
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
    from packager.policy import stated_facts

    seen = []
    for item in evidence.statements_of_type(verified.evidence, trust, slsa.PREDICATE):
        for row in stated_facts.list_publishers(item):
            if row not in seen:
                seen.append(row)
                yield row


def warn_skipped(found: ImageVerification, on_event: OnEvent) -> None:
    """Report what is attached to the image and was not counted."""
    from packager.trust.verify import skipped_notes

    for note in skipped_notes(found.skipped, found.others):
        on_event(Warned(note))
