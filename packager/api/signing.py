# SPDX-License-Identifier: Apache-2.0
"""Keys and signed statements: attest, promise, let into a stage, and rebuild from what was stated.

For example:

    pair = signing.create_key_pair(Path("release"), passphrase=b"…")
    bundle = signing.open_bundle_to_sign("digits:1.4.0", workspace)
    signed = api.sign_bundle(bundle, api.open_signer(f"key:{pair.private}", lambda: b"…"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packager.api._lazy import lazily
from packager.events import Note, OnEvent, ignore

if TYPE_CHECKING:
    from packager.bundle.bundle import Bundle
    from packager.canonical import JSON
    from packager.policy.engine import Profile
    from packager.release.image_verification import ImageVerification
    from packager.release.images import SignedImage
    from packager.release.promises import PromiseDraft
    from packager.release.promote import Gate, Promotion
    from packager.release.rebuild import Comparison
    from packager.release.rebuild import Difference as FileDifference
    from packager.trust.keys import KeyPair, PrivateKey, PublicKey
    from packager.trust.signers import Signer
    from packager.trust.verifier import Verifier
    from packager.trust.verify import Verification
    from packager.workspace import Workspace
else:
    __getattr__ = lazily(
        __name__,
        {
            "Comparison": "packager.release.rebuild",
            "FileDifference": "packager.release.rebuild:Difference",
            "Gate": "packager.release.promote",
            "ImageVerification": "packager.release.image_verification",
            "KeyPair": "packager.trust.keys",
            "PrivateKey": "packager.trust.keys",
            "PromiseDraft": "packager.release.promises",
            "Promotion": "packager.release.promote",
            "PublicKey": "packager.trust.keys",
            "SignedImage": "packager.release.images",
        },
    )

__all__ = [
    "Comparison",
    "FileDifference",
    "Gate",
    "ImageVerification",
    "KeyPair",
    "PrivateKey",
    "PromiseDraft",
    "Promotion",
    "PublicKey",
    "SignedImage",
    "attest_bundle",
    "create_key_pair",
    "draft_promise",
    "list_drafts",
    "load_private_key",
    "load_public_key",
    "open_bundle_to_sign",
    "open_gate",
    "prepare_legacy_signature",
    "promote_bundle",
    "read_predicate",
    "rebuild_bundle",
    "remove_signatures",
    "says_how_it_was_made",
    "sign_image",
    "verify_image",
]


# -- keys


def create_key_pair(path: Path, curve: Literal["p256", "p384"] = "p256", passphrase: bytes | None = None) -> KeyPair:
    """Make a signing key and write `PATH.pem` (mode 0600, encrypted with a passphrase) and `PATH.pub`.

    An existing file is never replaced. Raises UsageError, StorageError.
    """
    from packager.trust import keys

    return keys.create_key_pair(path, curve, passphrase)


def load_private_key(path: Path, secret: Callable[[], bytes | None]) -> PrivateKey:
    """Read a PEM private key (ECDSA P-256 or P-384); `secret` returns the passphrase if it is encrypted.

    Raises UsageError.
    """
    from packager.trust import keys

    return keys.load_private(path, secret)


def load_public_key(path: Path) -> PublicKey:
    """Read a PEM public key (ECDSA P-256 or P-384). Raises UsageError."""
    from packager.trust import keys

    return keys.load_public(path)


# -- statements


def open_bundle_to_sign(reference: str | Path, workspace: Workspace) -> Bundle:
    """Open a bundle as `open_bundle` and report its digest: who signs a name signs the bytes it means at this moment.

    Raises UsageError for a name of the local store whose bundle this store neither built nor verified.
    """
    from packager import api
    from packager.release.sign import check_vouched

    bundle = api.open_bundle(reference, workspace)
    check_vouched(bundle, str(reference))
    workspace.on_event(Note(f"signing {bundle.name}:{bundle.version} {bundle.digest}"))
    return bundle


def list_drafts(bundle: Bundle) -> list[str]:
    """Return the types of the statements that the build left to be signed with the bundle, sorted.

    None where the bundle is in neither the store that built it nor a file of `export_bundle(…, drafts=True)`. Raises
    IntegrityError.
    """
    from packager.release.sign import read_drafts

    return sorted(read_drafts(bundle))


def says_how_it_was_made(bundle: Bundle) -> bool:
    """Return whether provenance (SLSA) is attached, unverified. Raises IntegrityError for too many statements."""
    from packager.formats import slsa
    from packager.trust.verify import list_statements

    return any(item.predicate_type == slsa.PREDICATE for item in list_statements(bundle))


def read_predicate(path: Path) -> Mapping[str, JSON]:
    """Read the JSON object of a predicate strictly. Raises UsageError."""
    from packager.release import sign

    found: Mapping[str, JSON] = sign.read_predicate(path)
    return found


def attest_bundle(
    bundle: Bundle,
    predicate_type: str,
    predicate: Mapping[str, JSON],
    signer: Signer,
    output: Path | None = None,
    on_event: OnEvent = ignore,
) -> Bundle:
    """Attach a signed statement about the bundle's digest, where it is or into `output`; return it, opened again.

    `predicate_type` is a URI, `predicate` a JSON object. With `output` (a directory or `.tar` file) a bundle that is
    itself a file stays unchanged. Raises UsageError, also for the types that `sign_bundle` states, and SourceError.
    """
    from packager.release.sign import attest
    from packager.transport import copy

    return copy.attach(attest(bundle, predicate_type, predicate, signer), output, on_event)


def remove_signatures(bundle: Bundle, who: str | Path, on_event: OnEvent = ignore) -> Bundle:
    """Take off a bundle what one signer signed: a public key's file, a fingerprint's beginning, or an identity.

    Raises UsageError unless that is exactly one, and for a registry or bucket, where statements are never removed.
    """
    from packager.release import sign
    from packager.trust import keys

    named = keys.load_public(Path(who)).fingerprint if Path(who).is_file() else str(who)
    return sign.remove_signatures(bundle, named, on_event)


def prepare_legacy_signature(address: str, signer: Signer, workspace: Workspace) -> Callable[[Bundle], str]:
    """Return what signs a bundle at `address` (`oci://…`) in cosign's first form, and returns the tag of that.

    For tools that know no Sigstore bundles. Signatures that are there stay. Raises UsageError for another address, and
    for a signer without a key of its own, before anything is signed.
    """
    from packager.release import cosign_legacy

    return cosign_legacy.prepare(address, signer, workspace.registry_settings)


def draft_promise(bundle: Bundle, runtime: str, versions: str, workspace: Workspace | None = None) -> PromiseDraft:
    """Return what has to be signed to promise `versions` (a PEP 440 range) of one more runtime; nothing is written.

    Sign it with `attest_bundle(bundle, draft.predicate_type, draft.predicate, signer)` if its `outcome` is `ok`,
    which what ships decides, and with a workspace its newer tables of runtimes. Raises UsageError where it is promised
    already, or nothing in the bundle could run there.
    """
    from packager.release import promises
    from packager.workspace import tables_of

    return promises.draft_promise(bundle, runtime, versions, tables_of(workspace))


# -- container images


def sign_image(
    address: str,
    rendering: Path,
    signer: Signer,
    workspace: Workspace,
    *,
    made_of: str | None = None,
    legacy: bool = False,
) -> SignedImage:
    """Sign the image at `address` (`oci://…`), which was built of what `render_files("container", …)` wrote.

    Two statements are attached beside it, if its content is that of the rendering: of which bundle and knobs it was
    made, and SLSA provenance. `made_of` is that bundle: the rendering is compared with it, and one in a registry is
    where verifiers find it. `legacy` adds cosign's first form. Raises UsageError, WrongContentError naming a file,
    WrongSubjectError for another bundle, SourceError.
    """
    from packager import api
    from packager.release import images

    return images.sign_image(
        address,
        rendering,
        signer,
        workspace.registry_settings(),
        workspace.variables,
        bundle=api.open_bundle(made_of, workspace) if made_of else None,
        bundle_address=made_of,
        legacy=legacy,
        on_event=workspace.on_event,
    )


def verify_image(
    address: str,
    verifier: Verifier,
    workspace: Workspace,
    *,
    made_of: str | None = None,
    passes: Callable[[Verification, Bundle], bool] = lambda _seen, _bundle: True,
) -> ImageVerification:
    """Verify the image at `address`: who signed it, of which bundle it was made, that bundle, and where it is from.

    The bundle is `made_of`, by default where the signed statement says that it is. `passes` is a further check of the
    bundle, as in `Verifier.verify`. Raises UnsignedError, UntrustedSignerError, MissingStatementError, RevokedError,
    BadSignatureError and WrongSubjectError about the image, UsageError where the bundle is not at hand, SourceError.
    Whether the bundle holds is in what is returned.
    """
    from packager import api
    from packager.release import image_verification

    return image_verification.verify_image(
        address,
        verifier,
        workspace.registry_settings(),
        lambda reference: api.open_bundle(reference, workspace),
        made_of=made_of,
        passes=passes,
        on_event=workspace.on_event,
    )


# -- gates and rebuilding


def open_gate(stage: str, profile: str | Path | Profile, workspace: Workspace, *, verifier: str | None = None) -> Gate:
    """Return the gate into a stage such as `production`, by a policy profile, at the time of the workspace's clock.

    `verifier` is the URI of who decides (default: the CI workflow, else `urn:packager:verifier:local`). Raises
    UsageError.
    """
    from packager.api import policies
    from packager.release import promote

    chosen = policies.read_profile(profile)
    return promote.open_gate(stage, chosen, verifier, workspace.variables, workspace.clock())


def promote_bundle(
    bundle: Bundle,
    gate: Gate,
    verifier: Verifier,
    signer: Signer,
    output: Path | None = None,
    on_event: OnEvent = ignore,
) -> Promotion:
    """Verify a bundle, judge it by the gate's policy over signed statements, and where that is yes attach the summary.

    The summary is a SLSA verification summary, signed and written as by `attest_bundle`. Raises the verification's
    failure, UsageError, SourceError.
    """
    from packager.release import promote

    return promote.promote_bundle(bundle, gate, verifier, signer, output, on_event)


def rebuild_bundle(
    bundle: Bundle,
    verifier: Verifier,
    workspace: Workspace,
    *,
    source: str | None = None,
    files: Path | None = None,
    output: Path | None = None,
) -> Comparison:
    """Verify a bundle, build it again from its signed provenance in an empty store, and compare byte for byte.

    `source` says where the source is now (default: its pin), `files` is the directory of the recipe's other files
    (default: the current one), and what was rebuilt is saved to `output`. Raises the verification's failure,
    MissingStatementError without provenance, SourceError, StepError, UsageError.
    """
    from packager.lock.build_context import BuildContext
    from packager.release import rebuild

    here = BuildContext(
        (files or Path()).absolute(),
        workspace.variables.get("MLFLOW_TRACKING_URI"),
        dict(workspace.variables),
        workspace.registry_settings,
        workspace.clock().date(),
        clock=workspace.clock,
        tables=workspace.tables,
    )
    return rebuild.rebuild_bundle(
        bundle, verifier, workspace.open_store(), here, source, output, workspace.on_event, workspace.jobs
    )
