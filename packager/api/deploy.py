# SPDX-License-Identifier: Apache-2.0
"""Deployments: knobs, installations and their server, and deployment files for other servers and hosts.

For example:

    verifier = api.Verifier.from_trust_file(Path("acme.trust"), api.utc_now(), workspace.seen)
    knobs = deploy.KnobSources(files=(Path("berlin.yaml"),), assignments=("server.port=9000",))
    bundle, directory = api.open_bundle("digits-1.5.0.bundle.tar"), Path("/srv/digits")
    deploy.upgrade_bundle(bundle, directory, verifier, workspace, knobs=knobs)
    deploy.roll_back(directory, workspace)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packager.api._lazy import lazily
from packager.events import OnEvent, ignore

if TYPE_CHECKING:
    from packager.bundle.bundle import Bundle
    from packager.bundle.knobs import KnobSources
    from packager.canonical import JSON
    from packager.deploy.batch_answers import BatchAnswers
    from packager.deploy.conversation import Answer, Conversation
    from packager.deploy.drift import ColumnDrift, DriftReport, DriftVerdict
    from packager.deploy.install import Installed
    from packager.deploy.installation import Installation
    from packager.deploy.mlflow_registry import RegisteredModel
    from packager.deploy.render import Rendering
    from packager.deploy.renderers._deployment import Option as RenderOption
    from packager.deploy.serve import Service, ServiceLog
    from packager.deploy.triton.pipeline import Pipeline
    from packager.deploy.triton.render import Model as TritonModel
    from packager.deploy.triton.render import TritonDeployment
    from packager.deploy.triton.repository import Repository
    from packager.deploy.upgrade import Status
    from packager.knobs.knobs import Override, Resolved, Setting
    from packager.server.declaration import Knob
    from packager.server.telemetry.distributions import Drift
    from packager.trust.verifier import Verifier
    from packager.workspace import Workspace
else:
    __getattr__ = lazily(
        __name__,
        {
            "Answer": "packager.deploy.conversation",
            "BatchAnswers": "packager.deploy.batch_answers",
            "ColumnDrift": "packager.deploy.drift",
            "Conversation": "packager.deploy.conversation",
            "Drift": "packager.server.telemetry.distributions",
            "DriftReport": "packager.deploy.drift",
            "DriftVerdict": "packager.deploy.drift",
            "Installation": "packager.deploy.installation",
            "Knob": "packager.server.declaration",
            "KnobSources": "packager.bundle.knobs",
            "Override": "packager.knobs.knobs",
            "Pipeline": "packager.deploy.triton.pipeline",
            "RegisteredModel": "packager.deploy.mlflow_registry",
            "RenderOption": "packager.deploy.renderers._deployment:Option",
            "Rendering": "packager.deploy.render",
            "Resolved": "packager.knobs.knobs",
            "Service": "packager.deploy.serve",
            "ServiceLog": "packager.deploy.serve",
            "Setting": "packager.knobs.knobs",
            "Status": "packager.deploy.upgrade",
            "TritonDeployment": "packager.deploy.triton.render",
            "TritonModel": "packager.deploy.triton.render:Model",
        },
    )

__all__ = [
    "Answer",
    "BatchAnswers",
    "ColumnDrift",
    "Conversation",
    "Drift",
    "DriftReport",
    "DriftVerdict",
    "Installation",
    "Knob",
    "KnobSources",
    "Override",
    "Pipeline",
    "RegisteredModel",
    "RenderOption",
    "Rendering",
    "Resolved",
    "Service",
    "ServiceLog",
    "Setting",
    "Status",
    "TritonDeployment",
    "TritonModel",
    "answer_rows",
    "chat_with_bundle",
    "chat_with_installation",
    "compare_knobs",
    "describe_knob",
    "hold_secrets",
    "is_installation",
    "list_render_options",
    "list_renderers",
    "measure_drift",
    "read_knob_schema",
    "read_pipeline",
    "read_status",
    "register_model",
    "remove_adapter",
    "render_ensemble",
    "render_files",
    "render_triton",
    "roll_back",
    "uninstall",
    "upgrade_bundle",
]


# -- knobs


def read_knob_schema(bundle: Bundle) -> Mapping[str, Knob]:
    """Return the knobs of a bundle by name: kind, default, bounds, meaning. Raises IntegrityError."""
    from packager.bundle.knobs import knob_schema

    return knob_schema(bundle)


def describe_knob(knob: Knob) -> JSON:
    """Return the JSON Schema of a knob; members that start with `x-` are ours. Raises nothing."""
    from packager.knobs.knobs import to_schema

    return to_schema(knob)


def compare_knobs(before: Mapping[str, JSON], after: Mapping[str, JSON]) -> list[tuple[str, JSON, JSON]]:
    """Return (name, value before, value after) of every knob that differs; None where it is not set. Raises nothing."""
    from packager.knobs.knobs import compare_values

    return compare_values(before, after)


# -- installations


def is_installation(directory: Path) -> bool:
    """Return whether a directory is one of `api.install_bundle`; `Installation.open` opens it. Raises nothing."""
    from packager.deploy import installation

    return installation.is_installation(directory)


def chat_with_installation(
    directory: Path, workspace: Workspace, *, threads: int = 0
) -> AbstractContextManager[Conversation]:
    """Return a block in which the current release of an installation generates text, in its own environment.

    `threads` 0: one per core. Entering it raises UsageError where nothing is installed, or by an older packager, and
    StepError where the model does not load.
    """
    from packager.deploy import conversation

    return conversation.open_installation(directory, workspace.variables, threads)


def chat_with_bundle(
    bundle: Bundle, verifier: Verifier, workspace: Workspace, *, target: str | None = None, threads: int = 0
) -> AbstractContextManager[Conversation]:
    """Verify a bundle, and return a block in which it generates text, in a process of this Python.

    Raises NegativeAnswerError for a bundle that is not trusted. Entering the block raises UsageError where the bundle
    generates no text, MissingToolError without the extra `chat`, StepError where the model does not load.
    """
    from packager.deploy import conversation

    verifier.require(bundle, workspace.on_event)
    return conversation.open_bundle(bundle, workspace.variables, target, threads, workspace.on_event)


def measure_drift(
    bundle: Bundle,
    data: Path,
    verifier: Verifier | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    thresholds: Sequence[str] = (),
    on_event: OnEvent = ignore,
) -> DriftReport:
    """Compare the rows of a file with the distributions of the data that a bundle was measured on.

    `columns` are names of columns where the file has others than the bundle, `thresholds` are `NUMBER` (of PSI) or
    `METRIC=NUMBER` with psi, ks, missing or new. Without a verifier the statement is believed as it travels. Raises
    NegativeAnswerError for a bundle that is not trusted, UsageError for a file or a bundle without distributions.
    """
    from packager.deploy import drift
    from packager.errors import UsageError
    from packager.release import proofs

    limits = drift.read_thresholds(thresholds)
    statements = [item.statement for item in verifier.require(bundle, on_event)] if verifier else None
    known = proofs.find_distributions(bundle, statements)
    if known is None:
        who = "no trusted statement says" if verifier else "nothing says"
        raise UsageError(
            f"{who} on which data `{bundle.name}:{bundle.version}` was measured",
            hint="name rows under `evaluation` or `samples` in the recipe, build and sign: so distributions travel",
        )
    return drift.measure_drift(known, data, columns or {}, limits)


def upgrade_bundle(
    bundle: Bundle,
    directory: Path,
    verifier: Verifier,
    workspace: Workspace,
    *,
    knobs: KnobSources | None = None,
    wheelhouse: Path | None = None,
    allow_downgrade: bool = False,
) -> Installed:
    """Verify a bundle, install it beside the current release, try it on its reference vectors, then switch to it.

    `knobs` go over those of the current release. A running server changes over by itself. Raises NegativeAnswerError
    for a bundle that is not trusted or a trial that fails: nothing has changed then; UsageError, SourceError.
    """
    from packager.bundle.knobs import KnobSources
    from packager.deploy.install import Index
    from packager.deploy.installation import Installation
    from packager.deploy.upgrade import upgrade
    from packager.release import proofs

    there = directory.absolute()
    installation = Installation.open(there)
    trusted = verifier.require(bundle, workspace.on_event)
    resolved = (knobs or KnobSources()).resolve(bundle, before=installation.overrides)
    index = Index(wheelhouse, workspace.served_environments)
    return upgrade(
        bundle,
        there,
        index,
        workspace.variables,
        resolved,
        workspace.on_event,
        workspace.format_now,
        allow_downgrade=allow_downgrade,
        distributions=proofs.find_distributions(bundle, [item.statement for item in trusted]),
    )


def roll_back(directory: Path, workspace: Workspace) -> Path:
    """Make the release current again that served before, and return its directory; once more goes further back.

    Raises UsageError where nothing is installed, or nothing came before.
    """
    from packager.deploy import rollback

    return rollback.roll_back(directory.absolute(), workspace.format_now)


def read_status(directory: Path) -> Status:
    """Return what is installed, the history, and an operation that was cut off. Raises UsageError where nothing is."""
    from packager.deploy import upgrade

    return upgrade.read_status(directory.absolute())


def remove_adapter(directory: Path, name: str, workspace: Workspace) -> list[str]:
    """Remove an adapter from an installation; return the names of those that stay.

    A running server answers 404 to the next request for it; answers that use it go on. Raises UsageError.
    """
    from packager.deploy import adapters

    return adapters.remove_adapter(directory.absolute(), name, workspace.format_now)


def uninstall(directory: Path, *, force: bool = False) -> list[str]:
    """Remove every release; return what else is in the directory, which stays.

    Raises UsageError while a process serves from it, unless with `force`, and where nothing is installed.
    """
    from packager.deploy import upgrade

    return upgrade.uninstall(directory.absolute(), force=force)


def answer_rows(
    directory: Path,
    source: Path | str,
    output: Path | str,
    *,
    columns: Mapping[str, str] | None = None,
    processes: int | None = None,
    chunk: int | None = None,
    restart: bool = False,
    on_event: OnEvent = ignore,
) -> dict[str, JSON]:
    """Answer every row of a file with what is installed in `directory`; return `rows`, `refused`, `resumed` and more.

    `source` is JSON lines, CSV, Parquet, or a folder of images; `output` ends in `.jsonl`, `.csv` or `.parquet`. Either
    may be an address such as `s3://bucket/rows.parquet`, and a source a prefix: it is fetched, and the output sent when
    it is whole, by way of a folder `OUTPUT.work` (beside it, or in the current directory) that goes at the end.
    `columns` says which column of the source is which input. `processes` (default: one per whole CPU that affinity and
    control groups allow, 1 to 1024) answer chunks of `chunk` rows (1 to 1048576; 1024, of a table with few cells 8192),
    each of which is done or is not: an interrupted call goes on where it was, unless with `restart`.
    Raises UsageError, StepError, and SourceError for what a bucket refuses.
    """
    from packager.deploy.batch import BatchSettings, run_batch
    from packager.deploy.batch_buckets import is_address, run_in_buckets
    from packager.deploy.install import find_current
    from packager.errors import UsageError
    from packager.server.process import host_limits

    workers = host_limits.read_allowance().whole_cpus if processes is None else processes
    if not (1 <= workers <= 1024 and (chunk is None or 1 <= chunk <= 1 << 20)):
        raise UsageError("expected 1 to 1024 processes, and chunks of 1 to 1048576 rows")
    settings = BatchSettings(chunk, workers, columns or {}, restart)
    if is_address(source) or is_address(output):
        return run_in_buckets(find_current(directory), source, output, settings, on_event)
    return run_batch(find_current(directory), Path(source), Path(output), settings, on_event)


def hold_secrets(references: Iterable[str], variables: Mapping[str, str]) -> dict[str, str] | None:
    """Return the environment to start this program anew without the secrets that `env:NAME` references name.

    They are in memory files then, which `Service` finds; None if there are none. Raises OSError.
    """
    from packager.deploy import secret_files

    return secret_files.hold_secrets(references, variables)


# -- deployment files


def list_renderers() -> tuple[str, ...]:
    """Return the kinds of deployment files, sorted: `triton` and `ensemble` go into a model repository.

    Raises nothing.
    """
    from packager.deploy import render

    return render.list_kinds()


def list_render_options(kind: str) -> tuple[RenderOption, ...]:
    """Return the options of a kind that are no knobs. Raises UsageError for an unknown kind."""
    from packager.deploy import render

    return render.list_options(kind)


def render_files(
    kind: str,
    bundle: Bundle,
    directory: Path,
    verifier: Verifier,
    workspace: Workspace,
    *,
    knobs: KnobSources | None = None,
    options: Mapping[str, str | None] | None = None,
    secret: Callable[[], bytes | None] = lambda: None,
) -> Rendering:
    """Verify a bundle and write its deployment files for a server or host to `directory`; return what comes next.

    Equal bundles, knobs, options and trust give equal bytes; only a policy of admission (option `admission`) holds the
    verifier's keys and roots. `options` are those of `list_render_options` by name; `secret` returns the passphrase of
    a key that one of them names. An earlier rendering of the kind is replaced in one step, anything else is refused.
    Raises NegativeAnswerError for a bundle that is not trusted, UsageError, MissingToolError, IntegrityError,
    StorageError.
    """
    from packager.bundle.knobs import KnobSources
    from packager.deploy import render

    verifier.require(bundle, workspace.on_event)
    return render.render_files(kind, bundle, knobs or KnobSources(), directory, options or {}, verifier.trust, secret)


def register_model(
    bundle: Bundle, directory: Path, name: str, workspace: Workspace, *, registry: str | None = None
) -> RegisteredModel:
    """Register what `render_files("mlflow", …)` wrote of a bundle as a version of the model `name` in MLflow.

    It is logged in the experiment of the bundle's source, with tags that name the bundle and that source. `registry` is
    an address as MLflow takes it (default: the environment's `MLFLOW_TRACKING_URI`, else `mlflow.db` here). The same
    bundle and knobs are registered once. Raises UsageError for a directory of another bundle and for the name of the
    source; SourceError, MissingToolError.
    """
    from packager.deploy import mlflow_registry
    from packager.release import proofs
    from packager.sources import Settings

    address = registry or workspace.variables.get("MLFLOW_TRACKING_URI")
    settings = Settings(Path.cwd(), tracking=address)
    return mlflow_registry.register(bundle, directory, name, settings, proofs.find_origin(bundle))


def render_triton(
    bundle: Bundle,
    repository: str | Path,
    verifier: Verifier,
    workspace: Workspace,
    *,
    knobs: KnobSources | None = None,
    backend: Literal["native", "python"] = "native",
    site: str | None = None,
    swap: str | None = None,
    raw: bool = False,
) -> TritonDeployment:
    """Verify a bundle and add it to a Triton model repository, a directory or `s3://bucket/folder`.

    The same bundle again is the version it was before. With a `site` its knobs become a configuration of that name.
    With `swap`, `http(s)://host:port` of a running server, the version is tried there and then takes the traffic; if
    anything fails, the version before serves on. With `raw` it takes texts, images or audio by the bundle's pipeline,
    not tensors. Raises NegativeAnswerError, UsageError, SourceError, IntegrityError.
    """
    from packager.bundle.knobs import KnobSources, knob_schema
    from packager.deploy.canary import Endpoint
    from packager.deploy.triton import render
    from packager.deploy.triton.swap import swap as swap_model
    from packager.errors import UsageError
    from packager.knobs.knobs import resolve
    from packager.release import promises

    if swap and site:
        raise UsageError("--swap goes without --site", hint="load the site's configuration with the server's own tools")
    if swap and raw:
        raise UsageError(
            "--swap goes without --raw: a new version is tried with the reference vectors, which are tensors",
            hint="render without --swap, and load the version with the server's own tools",
        )
    endpoint, place = Endpoint.parse(swap) if swap else None, _open_repository(repository)
    bundle = promises.extend_contract(bundle, verifier.require(bundle, workspace.on_event))
    values = (knobs or KnobSources()).resolve(bundle)
    base = resolve(knob_schema(bundle), bundle.digest) if site else values
    sites = {site: values} if site else {}
    model = render.render_triton(
        bundle, base, place, backend, sites, workspace.on_event, switch=endpoint is None, raw=raw
    )
    if endpoint is not None:
        swap_model(model, bundle, values, endpoint, workspace.on_event)
    return render.TritonDeployment(model, values)


def read_pipeline(path: Path) -> Pipeline:
    """Read a pipeline that chains models of a Triton repository. Raises UsageError with the line."""
    from packager import strictyaml
    from packager.deploy.triton import pipeline

    data = strictyaml.load(path, missing="docs/how-to/deploy-triton.md shows how one looks")
    return pipeline.parse(data, str(path))


def render_ensemble(pipeline: Pipeline, repository: str | Path, on_event: OnEvent = ignore) -> TritonModel:
    """Add a pipeline to a Triton model repository, as one more model, checked against what is rendered there.

    Raises UsageError where names, types or shapes do not fit, SourceError.
    """
    from packager.deploy.triton import render

    return render.render_ensemble(pipeline, _open_repository(repository), on_event)


def _open_repository(place: str | Path) -> Repository:
    if "://" in str(place):
        from packager.deploy.triton.bucket import open_repository

        return open_repository(str(place))
    from packager.deploy.triton.repository import Directory

    return Directory(Path(place))
