# SPDX-License-Identifier: Apache-2.0
"""The public Python API: everything that the command line does, as functions and records.

Verify a bundle, and judge it by a policy:

    from pathlib import Path
    from packager import api

    bundle = api.open_bundle("digits.bundle.tar")
    verification = api.verify_bundle(bundle, api.Verifier.from_keys([Path("release.pub")], api.utc_now()))
    verification.raise_for_failure()
    print(bundle.contract.inputs, api.judge_bundle(bundle, "release", verification).ok)

Build and sign one:

    workspace = api.Workspace.default(on_event=print)
    project = api.open_project(Path("bundle.yaml"), workspace)
    result = api.build_bundle(project, api.lock_recipe(project))
    signed = api.sign_bundle(result.bundle, api.open_signer("key:release.pem", lambda: b"passphrase"))

`packager.api` has the way from a recipe to an installation. What belongs to one subject is in a module of it:

    packager.api.recipes       draft a recipe, look into a model file, read and write what refusals propose
    packager.api.bundles       export, unpack, push, compare, list, remove; SBOM, statements, the local store
    packager.api.signing       key pairs, statements of any kind, promises, gates, rebuilding from provenance
    packager.api.trust         trust files: make, change, sign, follow
    packager.api.policies      rules, profiles, facts, forms of a verdict, advisories
    packager.api.runtimes      where a bundle runs: runtimes, fleets, this host; measuring a runtime
    packager.api.deploy        knobs, installations, servers, deployment files
    packager.api.conformance   the conformance suite on real runtimes and endpoints
    packager.api.releases      many models as one plan; the files by which CI systems release
    packager.api.performance   curves of an installation, comparisons, knobs for an objective
    packager.api.passports     one page for people that says what a bundle is, and checks itself

All these modules follow semantic versioning: within one major version no name is removed, and no argument changes its
meaning. A member of a record belongs to that if its type has a name here, or is one of Python's own. Errors are
`PackagerError` and its subclasses (`packager.errors`), each with an exit `code`, a `message` and a `hint`; progress is
reported as the records of `packager.events` to a callback. No function prints. `Workspace.default` reads the
environment; proxies and the home directory are those of the process. Names are imported when they are first used, so
that `import packager.api` costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packager import __version__
from packager.api._lazy import lazily
from packager.errors import PackagerError, UsageError, did_you_mean
from packager.events import OnEvent, ignore

if TYPE_CHECKING:
    import datetime

    from packager.build.build import Built as BuildResult
    from packager.build.project import Project
    from packager.bundle.bundle import Bundle
    from packager.bundle.knobs import KnobSources
    from packager.contract.contract import Contract, Port, Promise, Terms
    from packager.contract.runtime_support import Judgement
    from packager.deploy.install import Installed
    from packager.formats.intoto import Statement
    from packager.lock.lock import Lock
    from packager.policy.engine import Profile
    from packager.recipe.clauses import Target
    from packager.recipe.lengths import Measured
    from packager.store.store import Store
    from packager.transport.writers import Destination
    from packager.trust.evidence import Evidence
    from packager.trust.signers import Signer
    from packager.trust.verifier import Verifier
    from packager.trust.verifiers import Attested
    from packager.trust.verify import Check, Verification
    from packager.types import Blob, Finding, Tree, Verdict
    from packager.workspace import Workspace, utc_now
else:
    __getattr__ = lazily(
        __name__,
        {
            "Target": "packager.recipe.clauses",
            "Measured": "packager.recipe.lengths",
            "Statement": "packager.formats.intoto",
            "Attested": "packager.trust.verifiers",
            "Blob": "packager.types",
            "BuildResult": "packager.build.build:Built",
            "Bundle": "packager.bundle.bundle",
            "Check": "packager.trust.verify",
            "Contract": "packager.contract.contract",
            "Evidence": "packager.trust.evidence",
            "Finding": "packager.types",
            "Installed": "packager.deploy.install",
            "Judgement": "packager.contract.runtime_support",
            "Lock": "packager.lock.lock",
            "Port": "packager.contract.contract",
            "Project": "packager.build.project",
            "Promise": "packager.contract.contract",
            "Signer": "packager.trust.signers",
            "Terms": "packager.contract.contract",
            "Tree": "packager.types",
            "Verdict": "packager.types",
            "Verification": "packager.trust.verify",
            "Verifier": "packager.trust.verifier",
            "Workspace": "packager.workspace",
            "utc_now": "packager.workspace",
        },
    )

__all__ = [
    "Target",
    "Measured",
    "Statement",
    "Attested",
    "Blob",
    "BuildResult",
    "Bundle",
    "Check",
    "Contract",
    "Evidence",
    "Finding",
    "Installed",
    "Judgement",
    "Lock",
    "PackagerError",
    "Port",
    "Project",
    "Promise",
    "Signer",
    "Terms",
    "Tree",
    "Verdict",
    "Verification",
    "Verifier",
    "Workspace",
    "__version__",
    "build_bundle",
    "check_compatibility",
    "copy_bundle",
    "import_bundle",
    "install_bundle",
    "judge_bundle",
    "lock_recipe",
    "open_bundle",
    "open_project",
    "open_signer",
    "read_schema",
    "sign_bundle",
    "translate_error",
    "utc_now",
    "verify_bundle",
]


def open_project(recipe: Path, workspace: Workspace) -> Project:
    """Open a recipe (`bundle.yaml`) with the lock beside it.

    Runtimes are known from what ships and the newer tables of the workspace. Raises UsageError for a recipe that cannot
    be read or parsed; the message names the line.
    """
    from packager.build.project import Project

    return Project.open(
        recipe,
        workspace.open_store,
        variables=workspace.variables,
        registries=workspace.registry_settings,
        clock=workspace.clock,
        jobs=workspace.jobs,
        on_event=workspace.on_event,
        tables=workspace.tables,
    )


def lock_recipe(project: Project, *, engine: str = "uv") -> Lock:
    """Resolve every mutable name of a recipe (aliases, tags, version ranges) and write the lock beside it.

    `engine` resolves Python packages: `uv`, or `pip-tools` for this platform only. Raises SourceError where a registry
    or index does not deliver, LockError where no solution exists.
    """
    return project.make_lock(engine)


def build_bundle(
    project: Project, lock: Lock | None = None, *, replace: bool = False, builder: str | None = None
) -> BuildResult:
    """Export, compile and measure the locked source, judge the result by the recipe's policy, assemble the bundle.

    `lock` is by default the one on disk. The result's `verdict` lists what each rule found; its `bundle` is None if the
    verdict is no. The bundle is in the workspace's store as `name:version`, with its provenance ready to be signed;
    with `replace` it may replace another one of that name. `builder` is the URI of who builds (default: the CI
    workflow, else `urn:packager:builder:local`). Steps whose inputs are unchanged do not run again. Raises LockError,
    SourceError, StepError, UsageError.
    """
    from packager.release import building

    return building.build_bundle(project, lock, replace=replace, builder=builder)


def open_bundle(reference: str | Path, workspace: Workspace | None = None) -> Bundle:
    """Open a bundle: a directory, a `.tar` file or an installation; with a workspace also one of a store or registry.

    Of a store it is `name:version` or `sha256:…`, elsewhere `oci://host/name:tag` or `s3://bucket/name:version`.

    Opening checks digests and shapes of everything small and reads no weights; it trusts no signature. Raises
    UsageError where nothing is, IntegrityError for what is damaged, SourceError for what cannot be reached.
    """
    from packager.bundle import bundle

    if workspace is None:
        return bundle.open_bundle(str(reference), _refuse_store)
    return bundle.open_bundle(str(reference), workspace.open_store, workspace.open_remote)


def open_signer(uri: str, secret: Callable[[], bytes | None] | None = None) -> Signer:
    """Open a signer: `key:FILE`, `key+pkcs11:…`, `certificate:FILE?key=…`, or `keyless:`.

    `secret` returns the passphrase, PIN or identity token when it is needed. Raises UsageError, also for a certificate
    that no verifier would accept now: expired, not yet valid, or for another purpose.
    """
    from packager.trust import signers
    from packager.workspace import utc_now

    return signers.open_signer(uri, secret or (lambda: None), utc_now())


def sign_bundle(
    bundle: Bundle, signer: Signer, output: Path | None = None, *, alone: bool = False, on_event: OnEvent = ignore
) -> Bundle:
    """Sign a bundle where it is, or into `output` (a directory or `.tar` file); return it, opened again.

    In the store that built it, provenance, SBOM and reference outputs are signed as well. With `output` a bundle that
    is itself a file stays unchanged; with `alone` the output leaves out what others signed, else a note names them.
    Raises UsageError, or the signer's SourceError.
    """
    from packager.release.sign import sign_into

    return sign_into(bundle, signer, output, alone=alone, on_event=on_event)


def verify_bundle(bundle: Bundle, verifier: Verifier, on_event: OnEvent = ignore) -> Verification:
    """Check signatures, statements, names and every byte of a bundle, offline.

    The result has the checks in order, the statements of trusted signers (`evidence`) and the first `failure`; it
    raises nothing for a bundle that does not hold: call `raise_for_failure()`.
    """
    return verifier.verify(bundle, on_event)


def judge_bundle(
    bundle: Bundle,
    profile: str | Path | Profile,
    verification: Verification | None,
    *,
    today: datetime.date | None = None,
    advisories: Path | None = None,
) -> Verdict:
    """Judge a verified bundle by a policy profile: the name of one that ships (`dev`, `release`, …), or a file.

    Facts come from the bundle and from trusted statements alone; without a verification there are no statements, and
    rules that need some say no. `today` dates waivers and advisories (default: the day now, UTC); `advisories` is the
    directory of `Workspace.advisories`. Raises UsageError for a profile that cannot be read.
    """
    from packager.api import policies

    return policies.judge_facts(
        profile, policies.gather_facts(bundle, profile, verification, today=today, advisories=advisories)
    )


def check_compatibility(bundle: Bundle, runtime: str, version: str, workspace: Workspace | None = None) -> Judgement:
    """Say whether a version of a runtime runs the bundle: `outcome` is `ok`, `no` or `unknown`, with the reasons.

    The best of the bundle's targets counts; with a workspace its newer tables of runtimes count too. Raises UsageError
    for a runtime of no known name.
    """
    from packager.contract import preflight
    from packager.contract.runtime_support import Judgement
    from packager.workspace import tables_of

    cells = preflight.judge_version(bundle.contract, runtime, version, tables_of(workspace))
    best = preflight.best_outcome(cells)
    return next((cell.answer for cell in cells if cell.answer.outcome == best), Judgement("no"))


def copy_bundle(
    bundle: Bundle,
    destination: str | Path | Workspace,
    workspace: Workspace | None = None,
    *,
    on_event: OnEvent | None = None,
) -> int:
    """Copy a bundle with its statements; return how many bytes of its files had to move.

    `destination` is `oci://host/name[:tag]`, `s3://bucket/name[:version]` (both with a `workspace` that says how they
    are reached; `bundles.push_bundle` has more options), a path (a `.tar` file, else a directory), or another
    workspace: into its store, under the bundle's digest, without a name, because nothing was verified here. Every byte
    is hashed on its way; the copy is complete or absent. Raises UsageError, SourceError, StorageError, IntegrityError.
    """
    from packager.transport import push
    from packager.transport.copy import copy
    from packager.workspace import Workspace

    report = on_event or (workspace.on_event if workspace else ignore)
    jobs = workspace.jobs if workspace else None
    if isinstance(destination, Workspace) or "://" not in str(destination):
        return copy(bundle, _local(destination), report, jobs=jobs, label="writing")
    if workspace is None:
        raise UsageError(f"`{destination}` is on another machine, which needs a workspace", hint=_GIVE)
    return push.push_bundle(bundle, str(destination), workspace.registry_settings, report, jobs=jobs).sent


def import_bundle(
    bundle: Bundle,
    workspace: Workspace,
    verifier: Verifier | None = None,
    *,
    replace: bool = False,
    label: str = "importing",
) -> int:
    """Copy a bundle into the local store; return how many bytes of its files were new there.

    With a verifier the bundle gets its name and version, which another bundle only gives up with `replace`. Without
    one it lies in quarantine, where its digest names it. `label` is what progress calls the work. Raises
    NegativeAnswerError for a bundle that is not trusted, UsageError, SourceError, StorageError, IntegrityError.
    """
    from packager.transport import writers
    from packager.transport.copy import copy

    if verifier is not None:
        verifier.require(bundle, workspace.on_event)
    to = writers.write_local(workspace.open_store(), verified=verifier is not None, replace=replace)
    return copy(bundle, to, workspace.on_event, jobs=workspace.jobs, label=label)


def install_bundle(
    bundle: Bundle,
    directory: Path,
    verifier: Verifier,
    workspace: Workspace,
    *,
    knobs: Mapping[str, str] | KnobSources | None = None,
    target: str | None = None,
    wheelhouse: Path | None = None,
    allow_downgrade: bool = False,
) -> Installed:
    """Verify a bundle and install it below `directory`, as `packager serve` starts it.

    `knobs` are settings by name (`batch.max`), as text, or `deploy.KnobSources`. Wheels come from the bundle, from
    `wheelhouse`, or else from pip's index, each checked against the lock. The installation is complete or absent.
    An adapter is added to the base that is installed there, whose server needs no restart; knobs are the base's alone.
    Raises NegativeAnswerError for a bundle that is not trusted or a newer version that is installed, UsageError,
    SourceError, StorageError.
    """
    from packager.bundle.knobs import KnobSources
    from packager.deploy.install import Index, install
    from packager.deploy.upgrade import check_step
    from packager.release import proofs

    trusted = verifier.require(bundle, workspace.on_event)
    there = directory.absolute()
    if bundle.contract.base is not None:
        from packager.deploy.adapters import add_adapter, check_options

        check_options(bundle, has_knobs=bool(knobs) and knobs != KnobSources(), target=target, wheelhouse=wheelhouse)
        return add_adapter(bundle, there, workspace.on_event, workspace.format_now, allow_downgrade=allow_downgrade)
    check_step(there, bundle, allow_downgrade=allow_downgrade)
    sources = knobs if isinstance(knobs, KnobSources) else KnobSources.from_values(knobs or {}, "install_bundle")
    return install(
        bundle,
        there,
        target,
        Index(wheelhouse, workspace.served_environments),
        workspace.variables,
        workspace.on_event,
        sources.resolve(bundle),
        workspace.format_now,
        proofs.find_distributions(bundle, [item.statement for item in trusted]),
    )


def read_schema(document: Literal["recipe", "release", "contract", "trust", "facts"]) -> bytes:
    """Return the JSON Schema (2020-12) of recipes, release files, contracts, trust files or facts, as UTF-8.

    Raises UsageError for another document.
    """
    from packager.contract import contract
    from packager.lock import draft
    from packager.policy import schema
    from packager.release_plan import release_file
    from packager.trust import model

    known = {
        "recipe": draft.build_schema,
        "release": release_file.build_schema,
        "contract": contract.build_schema,
        "trust": model.build_schema,
        "facts": schema.build_schema,
    }
    if document not in known:
        raise UsageError(f"`{document:.60}` has no schema", hint=did_you_mean(document, known))
    return known[document]()


def translate_error(error: OSError | RuntimeError) -> PackagerError | None:
    """Return an error of the operating system as ours, with path, meaning and remedy; None for one that is a bug.

    The functions here let such errors pass where they cannot say more about them. Raises nothing.
    """
    from packager.os_errors import translate

    return translate(error)


_GIVE = "pass Workspace.default()"


def _local(destination: str | Path | Workspace) -> Destination:
    from packager.transport import writers
    from packager.workspace import Workspace

    if isinstance(destination, Workspace):
        return writers.write_local(destination.open_store(), verified=False)
    path = Path(destination)
    return writers.single_file(path) if path.suffix == ".tar" else writers.write_layout(path)


def _refuse_store() -> Store:
    raise UsageError("this reference is of a store, which needs a workspace", hint=_GIVE)
