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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packager import __version__, canonical
from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.errors import (
    IntegrityError,
    PackagerError,
    UsageError,
    WrongContentError,
)
from packager.events import OnEvent, Progress, ignore
from packager.formats import container_images, dsse, oci, slsa
from packager.formats.container_images import ImageManifest
from packager.formats.dsse import SignedStatement
from packager.formats.intoto import IMAGE_PREDICATE, Statement, describe_resource
from packager.release import builder, cosign_legacy
from packager.release.image_rendering import HOME, MODEL, SERVER, Rendering, check_bundle, read_rendering
from packager.transport.attached import PendingStatements, read_attached
from packager.transport.registry import publish, reference
from packager.transport.registry.medium import RegistryBundle
from packager.transport.registry.wire import Settings
from packager.trust import evidence
from packager.trust.attach import with_chains, with_signed
from packager.trust.signers import Repeating, Signer
from packager.types import Blob, Tree, set_digest


@dataclass(frozen=True, slots=True)
class SignedImage:
    """An image that was signed: its address with digest, the part it holds, and how many statements are attached."""

    reference: str
    digest: str
    part: str
    statements: int


# the image


@dataclass(frozen=True, slots=True)
class OpenedImage:
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


def open_image(address: str, settings: Settings, on_event: OnEvent) -> OpenedImage:
    if not address.startswith(reference.SCHEME):
        raise UsageError(
            f"`{address:.200}` is no image in a registry", hint="push it, then name it: oci://HOST/NAME:TAG"
        )
    named = reference.parse(address)
    medium = RegistryBundle(named, settings, on_event)
    digest, data = medium.repository.resolve_any()
    manifest = container_images.parse_manifest(data, subject=address)
    descriptor = oci.Descriptor(manifest.media_type, Blob(digest, len(data)))
    return OpenedImage(medium, descriptor, manifest, f"{reference.SCHEME}{named.host}/{named.name}@{digest}")


def _check_content(image: OpenedImage, rendering: Rendering, on_event: OnEvent) -> tuple[str, dict[str, Blob]]:
    """Return the part that an image holds, and its files. Raises WrongContentError for what was not rendered."""
    total, done = sum(layer.blob.size for layer in image.manifest.layers), 0

    def moved(count: int) -> None:
        nonlocal done
        done += count
        on_event(Progress(f"reading {image.reference}", done, total))

    found = container_images.read_files(image.manifest.layers, image.medium.repository.open, moved)
    part = SERVER if any(path == HOME or path.startswith(f"{HOME}/") for path in found) else MODEL
    here = {path: blob for path, blob in found.items() if part == MODEL or f"{path}/".startswith(f"{HOME}/")}
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


def _check_config(image: OpenedImage, rendering: Rendering, part: str) -> None:
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
        check_bundle(rendering, bundle)
    image = open_image(address, settings, on_event)
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
    image: OpenedImage,
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
            "resolvedDependencies": [describe_resource(rendering.name, rendering.bundle, uri=uri, kind=oci.MANIFEST)],
        },
        "runDetails": {"builder": {"id": who, "version": {"packager": __version__}}},
    }
    return [Statement(IMAGE_PREDICATE, named, subject, about), Statement(slsa.PREDICATE, named, subject, provenance)]
