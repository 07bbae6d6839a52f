# SPDX-License-Identifier: Apache-2.0
"""Bundles after they are made: other forms, deltas, comparison, what is attached, SBOM, lists, and the local store.

For example:

    workspace = api.Workspace.default()
    bundle = api.open_bundle("digits:1.4.0", workspace)
    bundles.push_bundle(bundle, "oci://registry.example.com/models/digits", workspace)
    print(bundles.compare_bundles(api.open_bundle("digits:1.3.0", workspace), bundle).needed)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packager.api._lazy import lazily
from packager.errors import PackagerError, UsageError
from packager.events import OnEvent, ignore

if TYPE_CHECKING:
    from packager.bundle.bundle import Bundle, Referrer
    from packager.bundle.changes import Change, Difference
    from packager.canonical import JSON
    from packager.policy.completeness import Element
    from packager.policy.completeness import Report as SbomReport
    from packager.policy.sbom_scores import Category as SbomScoreCategory
    from packager.policy.sbom_scores import Score as SbomScore
    from packager.store.collector import Condition as StoreCondition
    from packager.store.collector import Freed
    from packager.store.collector import Size as StoreSize
    from packager.transport.delta import DeltaSize
    from packager.transport.listing import Item as ListedBundle
    from packager.transport.listing import Removed
    from packager.transport.push import Pushed
    from packager.transport.registry.repository import Repository
    from packager.trust.verifier import Verifier
    from packager.trust.verify import AttachedStatement
    from packager.workspace import Workspace
else:
    __getattr__ = lazily(
        __name__,
        {
            "AttachedStatement": "packager.trust.verify",
            "Change": "packager.bundle.changes",
            "DeltaSize": "packager.transport.delta",
            "Difference": "packager.bundle.changes",
            "Element": "packager.policy.completeness",
            "Freed": "packager.store.collector",
            "ListedBundle": "packager.transport.listing:Item",
            "Pushed": "packager.transport.push",
            "Referrer": "packager.bundle.bundle",
            "Removed": "packager.transport.listing",
            "SbomReport": "packager.policy.completeness:Report",
            "SbomScore": "packager.policy.sbom_scores:Score",
            "SbomScoreCategory": "packager.policy.sbom_scores:Category",
            "StoreCondition": "packager.store.collector:Condition",
            "StoreSize": "packager.store.collector:Size",
        },
    )

__all__ = [
    "AttachedStatement",
    "Change",
    "DeltaSize",
    "Difference",
    "Element",
    "Freed",
    "ListedBundle",
    "Pushed",
    "Referrer",
    "Removed",
    "SbomReport",
    "SbomScore",
    "SbomScoreCategory",
    "StoreCondition",
    "StoreSize",
    "check_files",
    "check_store",
    "collect_store",
    "compare_bundles",
    "convert_sbom",
    "export_bundle",
    "find_model_signatures",
    "list_bundles",
    "list_names",
    "list_statements",
    "list_tags",
    "list_unreadable",
    "measure_store",
    "open_delta",
    "open_extracted",
    "push_bundle",
    "read_evaluations",
    "read_origin",
    "remove_bundle",
    "report_sbom",
    "unpack_bundle",
    "write_delta",
]


# -- other forms, other places


def export_bundle(
    bundle: Bundle,
    output: Path,
    form: Literal["bundle", "tar", "image"] = "bundle",
    *,
    drafts: bool = False,
    on_event: OnEvent = ignore,
) -> str:
    """Write a bundle with its statements to `output`; return the digest of the manifest that was written.

    `output` is a single file if the name ends in `.tar`, else a directory (an OCI layout). `form` `tar` is one layer
    per file, for older KitOps, and `image` an ordinary OCI image with the files below `/models`: both have a digest of
    their own. `drafts` (of a `bundle` only) carries what the build left to be signed, for a machine that signs. Raises
    UsageError where nothing is left, StorageError, IntegrityError.
    """
    from packager.bundle import other_forms
    from packager.release.sign import with_drafts
    from packager.transport import copy

    carried = with_drafts(bundle) if drafts else bundle
    if form != "bundle":
        return other_forms.export(carried, form, output, on_event)
    copy.save(carried, output, on_event)
    return carried.digest


def unpack_bundle(
    bundle: Bundle, directory: Path, verifier: Verifier | None = None, on_event: OnEvent = ignore
) -> None:
    """Write the plain files of a bundle, and below `.packager/` the records to verify them again.

    With a verifier the signature is checked first. Where `directory` holds this very bundle already, every byte of it
    is checked and nothing is written. Raises NegativeAnswerError for a bundle that is not trusted, UsageError for a
    directory with something else in it, IntegrityError, StorageError.
    """
    from packager.transport.unpack import unpack_once

    if verifier is not None:
        verifier.require(bundle, on_event)
    unpack_once(bundle, directory, on_event)


def open_extracted(directory: Path, statements: str | Path, workspace: Workspace) -> Bundle:
    """Open the plain files that another tool wrote, such as `oras pull`, with manifest and statements from elsewhere.

    `statements` is what `open_bundle` opens, of a layout also the part without the files. Verify it as any bundle;
    modes of files are not judged. Raises UsageError, IntegrityError, SourceError.
    """
    from packager.bundle import bundle

    return bundle.open_extracted(directory, str(statements), workspace.open_store, workspace.open_remote)


def find_model_signatures(bundle: Bundle, directory: Path) -> list[Path]:
    """Return where an unpacked bundle has its OpenSSF Model Signing statements, for the tool `model_signing verify`.

    `directory` is where the bundle was unpacked. Raises IntegrityError for too many statements.
    """
    from packager.transport import unpack

    return unpack.find_model_signatures(bundle, directory)


def push_bundle(
    bundle: Bundle, address: str, workspace: Workspace, *, mount_from: str | None = None, force: bool = False
) -> Pushed:
    """Copy a bundle with its statements to `oci://host/name[:tag]`, `s3://bucket/name[:version]` or the like.

    Without a tag the bundle's version becomes it; a tag that names another bundle is only moved with `force`.
    `mount_from` names a repository of that registry, or a bundle of that bucket, that has some of the files. Warns
    where the bundle cannot be fetched under that name. Raises UsageError, SourceError, IntegrityError.
    """
    from packager.transport import push

    return push.push_bundle(
        bundle,
        address,
        workspace.registry_settings,
        workspace.on_event,
        mount_from=mount_from,
        force=force,
        jobs=workspace.jobs,
    )


def write_delta(old: Bundle, new: Bundle, output: Path, on_event: OnEvent = ignore) -> DeltaSize:
    """Write what turns `old` into `new` to a file: blobs that `old` lacks, as patches where those are smaller.

    Sizes are in bytes. Raises MissingToolError without zstandard, IntegrityError, StorageError.
    """
    from packager.transport import delta

    return delta.write_delta(old, new, output, on_event)


def open_delta(path: Path, old: Bundle) -> Bundle:
    """Open the new bundle of a delta, read through the delta and the old bundle; verify it as any other.

    Raises UsageError where there is no delta, or one against another bundle, IntegrityError for what is damaged.
    """
    from packager.transport import delta

    if not path.is_file():
        raise UsageError(f"no delta at `{path}`", hint="`packager delta OLD NEW -o FILE` writes one")
    return delta.open_delta(path, old)


def compare_bundles(before: Bundle, after: Bundle, workspace: Workspace | None = None) -> Difference:
    """Compare what two bundles mean: interface, promises, exactness, operators, weights, dependencies.

    Every change is judged as a step of semantic versioning; `ok` says whether the step between the versions is large
    enough. Which versions a promised range names is known from what ships, and with a workspace from its newer tables.
    Reads only records, no weights. Raises IntegrityError.
    """
    from packager.bundle.diff import diff
    from packager.workspace import tables_of

    return diff(before, after, tables_of(workspace))


# -- what is inside and attached


def check_files(bundle: Bundle, on_event: OnEvent = ignore) -> str:
    """Hash every file of a bundle, on all cores; return in words what was checked. Trusts no signature.

    Raises IntegrityError for the first file that is damaged, missing or belongs to nothing.
    """
    from packager.trust import verify

    return verify.check_files(bundle, on_event)


def list_statements(bundle: Bundle) -> list[AttachedStatement]:
    """Return every readable statement that is attached, as it calls itself: nothing is verified.

    Raises IntegrityError for too many.
    """
    from packager.trust import verify

    return list(verify.list_statements(bundle))


def list_unreadable(bundle: Bundle) -> Mapping[str, PackagerError]:
    """Return why attached statements cannot be read, by the digest of their blob. Raises IntegrityError if too many."""
    from packager.trust import verify

    return verify.list_unreadable(bundle)


def read_origin(bundle: Bundle) -> Mapping[str, str | None]:
    """Return which model a bundle was made of: `uri` (pinned), `tree` (digest), `reference`, `name`, `version`.

    What is not known is None. It rests on the SBOM and on unverified statements. Raises IntegrityError.
    """
    from packager.release import proofs

    found: Mapping[str, str | None] = proofs.find_origin(bundle)
    return found


def convert_sbom(
    bundle: Bundle,
    form: Literal["cyclonedx", "spdx"] = "cyclonedx",
    version: str | None = None,
    *,
    released: str | None = None,
    place: str | None = None,
) -> bytes:
    """Return the SBOM of a bundle as canonical JSON: CycloneDX 1.6 (default) or 1.7, or SPDX 2.3 (default) or 3.0.1.

    `released` (RFC 3339, UTC) and `place` (a URI) say when and where the bundle was released, which SPDX's AI profile
    demands and no bundle holds. What the build measured on rows with labels is added to the model card, as the
    statements that travel with the bundle say it, unchecked. Equal arguments and statements give equal bytes. Raises
    MalformedError for an SBOM that this program
    did not write, UsageError for a version that there is not.
    """
    from packager.bundle import sbom
    from packager.formats.spdx3 import Publication
    from packager.release import proofs

    measured = proofs.find_evaluations(bundle)
    return sbom.convert_sbom(bundle, form, version, Publication(released, place), measured)


def read_evaluations(bundle: Bundle) -> Mapping[str, JSON]:
    """Return by target what the build measured on rows with labels, as statements that travel say it, unchecked.

    That is `metric`, `bound`, `source` and `target` (both values), `rows`, `data` (its digest), `slices` and `worst`,
    the slice on which the target reaches least. Empty where nothing was measured. Raises MalformedError.
    """
    from packager.release import proofs

    found = proofs.find_evaluations(bundle)
    return {name: {**facts, "worst": proofs.find_worst(facts)} for name, facts in found.items()}


def report_sbom(bundle: Bundle) -> SbomReport:
    """Say how complete the SBOM is: by cluster of the G7 elements for AI, by NTIA's and CISA's minimum, its licences.

    `aibom` is the completeness score that OWASP's method for AI SBOMs gives it, 0 to 100.
    Raises MalformedError for an SBOM that this program did not write.
    """
    from packager.bundle.bundle import SBOM
    from packager.bundle.sbom import sbom_errors
    from packager.policy import completeness

    bom = bundle.load(SBOM)
    with sbom_errors():
        return completeness.assess_sbom(bom, signed=bool(bundle.referrers))


# -- lists


def list_bundles(workspace: Workspace, name: str | None = None) -> list[ListedBundle]:
    """Return the bundles of the local store, named ones first; with `name` those of that name alone.

    Raises UsageError for a name that the store does not have.
    """
    from packager import names
    from packager.errors import did_you_mean
    from packager.transport import listing

    if name is not None and not names.is_name(name):
        raise UsageError(
            f"`{name:.200}` is no place that can be listed",
            hint="give the NAME of a bundle in the local store, or oci://host/name",
        )
    store = workspace.open_store()
    found = listing.list_store(store, name)
    if name is not None and not found:
        known = sorted({called for called, _ in store.bundles()})
        raise UsageError(
            f"the local store has no bundle `{name}`",
            hint=did_you_mean(name, known) if known else "build one with `packager build`",
        )
    return found


def list_names(workspace: Workspace) -> list[str]:
    """Return `name:version` of every named bundle of the local store, sorted. Opens, makes and raises nothing."""
    folder = workspace.store / "v1" / "bundles"
    return sorted(f"{path.parent.name}:{path.name}" for path in folder.glob("*/*"))


def list_tags(address: str, workspace: Workspace) -> list[ListedBundle]:
    """Return the tags of a repository `oci://host/name`; one that names no bundle has a `problem`.

    Raises UsageError for another address, SourceError for a registry that does not answer.
    """
    from packager.transport import listing

    return listing.list_tags(_open_repository(address, workspace), workspace.jobs)


def remove_bundle(reference: str, workspace: Workspace, *, force: bool = False) -> Removed:
    """Remove a bundle: `name:version` from the local store, `sha256:…` from its quarantine, `oci://…` a tag or digest.

    The store keeps the bytes until `collect_store`. Where a registry deletes by digest only, every tag of it goes,
    which takes `force` if there is more than one. Raises UsageError for what is not there, SourceError.
    """
    import re

    from packager import names
    from packager.transport import listing

    if reference.startswith("oci://"):
        return listing.remove_tag(_open_repository(reference, workspace), force=force)
    if "://" in reference:
        raise UsageError(f"`{reference:.200}` is not removed from here", hint="remove it with the bucket's own tools")
    digest = re.fullmatch(r"sha256:[0-9a-f]{64}", reference)
    return listing.remove_from_store(workspace.open_store(), reference if digest else names.parse(reference))


def _open_repository(address: str, workspace: Workspace) -> Repository:
    from packager.transport.registry import reference
    from packager.transport.registry.repository import Repository

    return Repository(reference.parse(address), workspace.registry_settings())


# -- the local store


def measure_store(workspace: Workspace) -> StoreSize:
    """Return what the local store holds, in bytes, each blob counted once. Raises StorageError."""
    from packager.store import collector

    return collector.measure_store(workspace.open_store())


def collect_store(workspace: Workspace, *, steps: bool = False) -> Freed:
    """Delete what nothing needs; with `steps` remembered steps too, which then have to run again.

    What a running build, pull or installation relies on stays. Raises StorageError.
    """
    from packager.store import collector

    return collector.collect_store(workspace.open_store(), steps=steps)


def check_store(workspace: Workspace, *, remove: bool = False) -> StoreCondition:
    """Hash every blob of the local store, on all cores; with `remove` damaged ones are deleted, to come anew.

    The result names damaged blobs and incomplete bundles; it raises StorageError only.
    """
    from packager.store import collector

    return collector.check(workspace.open_store(), workspace.on_event, remove=remove)
