# SPDX-License-Identifier: Apache-2.0
"""Many models as one plan: lock, build, policy, conform, sign, push and promote, as a release file says.

    file = releases.read_release_file(Path("release.yaml"))
    rows = releases.release_models(file, workspace, dry=True)
    for line in releases.format_plan(rows):
        print(line)
    rows = releases.release_models(file, workspace)
    releases.write_report(rows, Path("report"))
    print(rows.totals.exit_code)

Tasks whose inputs are those of the last time do not run again; the journal is in the workspace's store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from packager.api._lazy import lazily

if TYPE_CHECKING:
    from packager.canonical import JSON
    from packager.release_plan import driver
    from packager.release_plan.ci import CiFile
    from packager.release_plan.driver import Rows
    from packager.release_plan.plan import ModelRow, Problem, TaskRow, Totals
    from packager.release_plan.release_file import Model, ReleaseFile
    from packager.watch.watcher import Receiver
    from packager.workspace import Workspace
else:
    __getattr__ = lazily(
        __name__,
        {
            "CiFile": "packager.release_plan.ci",
            "Model": "packager.release_plan.release_file",
            "ModelRow": "packager.release_plan.plan",
            "Problem": "packager.release_plan.plan",
            "ReleaseFile": "packager.release_plan.release_file",
            "Receiver": "packager.watch.watcher",
            "Rows": "packager.release_plan.driver",
            "TaskRow": "packager.release_plan.plan",
            "Totals": "packager.release_plan.plan",
        },
    )

__all__ = [
    "CiFile",
    "Model",
    "ModelRow",
    "Problem",
    "Receiver",
    "ReleaseFile",
    "Rows",
    "TaskRow",
    "Totals",
    "describe_release",
    "format_plan",
    "format_release",
    "list_secrets",
    "read_release_file",
    "release_models",
    "render_ci_file",
    "watch_registries",
    "write_report",
]


def read_release_file(path: Path, *, settings: Iterable[str] = ()) -> ReleaseFile:
    """Read a release file and the names in its recipes.

    `settings` are `KEY=VALUE` texts, such as `policy=dev`, that stand for those of every model; paths in them are
    relative to the working directory. Raises UsageError with the line: for what is unknown or twice, recipes that are
    not there, two models of one name, models that wait for each other, two models with one address.
    """
    from packager.release_plan import release_file

    return release_file.load(path, settings)


def list_secrets(file: ReleaseFile) -> Sequence[tuple[str, str]]:
    """Return who signs and needs a secret: the URI, and the key file, token or identity (`keyless`) it belongs to.

    Raises UsageError for a key file that cannot be read.
    """
    from packager.release_plan import release_file

    return release_file.list_secrets(file.models)


def release_models(
    file: ReleaseFile,
    workspace: Workspace,
    *,
    secrets: Mapping[str, bytes] | None = None,
    again: Iterable[str] = (),
    until: str = "promote",
    builder: str | None = None,
    cache: Path | None = None,
    dry: bool = False,
    ray: tuple[str, str] | None = None,
) -> Rows:
    """Perform the tasks of all models, `jobs` of the workspace at a time; return a row for each.

    `secrets` are passphrases and identity tokens by the URI of the signer, `again` tasks that run whatever is
    remembered, `until` the last task, `cache` where the conformance suite keeps environments (default: the user's
    cache). With `dry` nothing runs, and the rows are the plan. `ray` is a Ray cluster whose nodes perform the steps of
    builds: its address, or `auto`, and the shared store, `oci://host/name` or `s3://bucket/folder`. Raises UsageError
    where another process releases the same file now, or a node has another version, StorageError where the journal
    cannot be used, MissingToolError without the extra `ray`, SourceError where the cluster cannot be reached; what goes
    wrong with a model is in its row.
    """
    from packager.release_plan import driver
    from packager.transport.shared import check_address

    options = _options(workspace, secrets, cache)
    cluster = ray and driver.Cluster(ray[0], check_address(ray[1]), workspace.variables)
    options = replace(options, again=frozenset(again), builder=builder, dry=dry, until=until, cluster=cluster)
    return driver.run_release(file, options, workspace.on_event)


def watch_registries(
    file: ReleaseFile,
    workspace: Workspace,
    *,
    secrets: Mapping[str, bytes] | None = None,
    interval: float = 60.0,
    tag: tuple[str, str] | None = None,
    receiver: Receiver | None = None,
    traces: str | None = None,
    once: bool = False,
) -> JSON:
    """Release every version that an alias of a recipe's source moves to, and write the outcome back as tags.

    Runs until it is interrupted, or with `once` until all that the registries show now is released; returns how many
    versions this call `released`, how many a gate `refused`, how many `failed` three times, and how many are `waiting`.
    `interval` is in seconds; versions with the `tag` (key, value) are released as well; `receiver` is where webhooks
    and Prometheus are answered, `traces` an OTLP collector's address. Raises UsageError where no recipe follows a
    registry or the address is taken, MissingToolError without the extra `watch`, SourceError with `once` where a
    registry does not answer.
    """
    from packager.watch import watcher

    options = watcher.Options(
        _options(workspace, secrets, None),
        workspace.variables.get("MLFLOW_TRACKING_URI"),
        lambda: workspace.clock().timestamp(),
        interval,
        tag,
        receiver,
        traces,
        once,
    )
    return watcher.Watcher(file, options, workspace.on_event).run()


def _options(workspace: Workspace, secrets: Mapping[str, bytes] | None, cache: Path | None) -> driver.Options:
    from packager.release_plan.driver import Options

    return Options(
        store=workspace.store,
        environments=cache or workspace.caches,
        jobs=workspace.jobs,
        registry_ca=workspace.registry_ca,
        plain_http=workspace.plain_http,
        secrets=dict(secrets or {}),
    )


def format_release(rows: Rows) -> Sequence[str]:
    """Return the lines of a table: a row for each model, every problem, the sums. Raises nothing."""
    from packager.release_plan import report

    return list(report.render_table(rows))


def format_plan(rows: Rows) -> Sequence[str]:
    """Return the lines of a plan: every task with the reason why it will run, or will not. Raises nothing."""
    from packager.release_plan import report

    return list(report.render_plan(rows))


def describe_release(rows: Rows) -> JSON:
    """Return the result as one document: `ok`, `totals`, `models`. Raises nothing."""
    from packager.release_plan import report

    return report.build_document(rows)


def write_report(rows: Rows, folder: Path) -> None:
    """Write `release.json`, `junit.xml`, `index.html` and `release.sarif`, each whole. Raises StorageError."""
    from packager.release_plan import report

    report.write(rows, folder)


def render_ci_file(
    system: str,
    file: ReleaseFile,
    *,
    branch: str = "main",
    extras: str = "build",
    image: str | None = None,
    action: str | None = None,
) -> CiFile:
    """Return the file by which `github`, `gitlab`, `tekton` or `jenkins` releases the models of a release file.

    `branch` is the one that releases, `extras` those of this package that are installed, `image` where steps run, with
    its digest, `action` the repository `owner/name@commit` whose action `github` uses instead of a copy. Raises
    UsageError for what cannot stand in such a file, and for an image or action that is not pinned.
    """
    from packager.release_plan import ci

    wanted = ci.Wanted(file.path.as_posix(), branch, extras, image, action)
    return ci.render(system, wanted, file.models)
