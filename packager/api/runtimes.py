# SPDX-License-Identifier: Apache-2.0
"""Where a bundle runs, without loading it: versions of runtimes, fleets, this host; and measuring what is unknown.

    sites = runtimes.read_fleet(Path("fleet.yaml"))
    report = runtimes.report_compatibility(bundle, [("onnxruntime", "1.16.3")], sites, workspace=workspace)
    print(report.outcome, *(step.message for step in report.steps))

An `outcome` is `ok`, `no` or `unknown`: what was not measured is never a yes. Functions that take a workspace know its
newer tables of runtimes too (`Workspace.knowledge`); without one, what ships.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from packager.api._lazy import lazily

if TYPE_CHECKING:
    from packager.bundle.bundle import Bundle
    from packager.canonical import JSON
    from packager.conform.probing import Probed
    from packager.contract.fleet import Device, Site
    from packager.contract.preflight import Cell, Reach, Span, Step
    from packager.contract.runtime_support import Reason
    from packager.contract.runtime_tables import Outcome, Row, Table
    from packager.deploy.forecast import Arrival
    from packager.release.compatibility import Compatibility, HostReport
    from packager.trust.keys import PublicKey
    from packager.trust.signers import Signer
    from packager.workspace import Workspace
else:
    __getattr__ = lazily(
        __name__,
        {
            "Arrival": "packager.deploy.forecast",
            "Cell": "packager.contract.preflight",
            "Compatibility": "packager.release.compatibility",
            "Device": "packager.contract.fleet",
            "HostReport": "packager.release.compatibility",
            "Outcome": "packager.contract.runtime_tables",
            "Probed": "packager.conform.probing",
            "Reach": "packager.contract.preflight",
            "Reason": "packager.contract.runtime_support",
            "Row": "packager.contract.runtime_tables",
            "Site": "packager.contract.fleet",
            "Span": "packager.contract.preflight",
            "Step": "packager.contract.preflight",
            "Table": "packager.contract.runtime_tables",
        },
    )

__all__ = [
    "Arrival",
    "Cell",
    "Compatibility",
    "Device",
    "HostReport",
    "Outcome",
    "Probed",
    "Reach",
    "Reason",
    "Row",
    "Site",
    "Span",
    "Step",
    "Table",
    "describe_host",
    "find_row",
    "format_operator_report",
    "join_cells",
    "list_broken_operators",
    "list_remarks",
    "list_runtimes",
    "list_shipped_versions",
    "probe_runtime",
    "read_fleet",
    "read_table",
    "report_compatibility",
    "report_host",
    "run_operator_tests",
    "sign_table",
    "update_table",
    "write_site",
]


# -- what is known of runtimes


def list_runtimes() -> tuple[str, ...]:
    """Return the runtimes of which something is known, by name. Raises nothing."""
    from packager.contract import runtime_tables

    return runtime_tables.list_runtimes()


def list_shipped_versions(runtime: str) -> list[str]:
    """Return the versions of a runtime of which this release of packager knows, oldest first. Raises nothing."""
    from packager.contract import runtime_tables

    return [*runtime_tables.load_shipped(runtime).rows]


def read_table(runtime: str, workspace: Workspace | None = None) -> Table:
    """Return all that is known of a runtime, versions oldest first.

    Raises UsageError for an unknown runtime, IntegrityError for a damaged table.
    """
    from packager.contract import runtime_tables
    from packager.errors import UsageError, did_you_mean
    from packager.workspace import tables_of

    table = tables_of(workspace)(runtime)
    if not table.rows:
        raise UsageError(
            f"nothing is known of runtime `{runtime:.60}`", hint=did_you_mean(runtime, runtime_tables.list_runtimes())
        )
    return table


def find_row(table: Table, version: str) -> Row:
    """Return what is known of a version under any of its names. Raises UsageError where nothing is."""
    from packager.contract import runtime_support
    from packager.errors import UsageError

    row = runtime_support.find_row(table, version)
    if row is None:
        probe = f"`packager runtimes probe {table.runtime}=={version}`"
        raise UsageError(f"nothing is known of {table.runtime} {version}", hint=probe)
    return row


def probe_runtime(runtime: str, version: str, workspace: Workspace, *, python: str | None = None) -> Probed:
    """Install a version in an environment of its own, load thousands of small graphs, and keep the row for this site.

    `python` is the version or path of the interpreter (default: this one's version). Network, unless cached. Raises
    NegativeAnswerError where it cannot be measured here, StepError, SourceError.
    """
    from packager.conform import probing

    table = probing.probe(runtime, version, _python(python), workspace.caches / "environments", workspace.on_event)
    return probing.Probed(table, probing.keep(table, workspace.knowledge))


def run_operator_tests(
    bundle: Bundle, runtime: str, version: str, workspace: Workspace, *, python: str | None = None
) -> Mapping[str, JSON]:
    """Run ONNX's own tests of the operators that a bundle uses on one version of a runtime; return the report.

    `operators` of the report has, by operator, `passed` and `skipped` (numbers) and `failed` (messages by test). Raises
    StepError where nothing runs, MissingToolError without pytest, NegativeAnswerError, SourceError.
    """
    from packager.conform import operators, programs

    settings = operators.Installed(
        programs.find_suite(),
        workspace.caches / "environments",
        dict(workspace.variables),
        _python(python),
        tables=workspace.tables,
    )
    found: Mapping[str, JSON] = operators.run_bundle_tests(bundle, runtime, version, settings, workspace.on_event)
    return found


def format_operator_report(report: Mapping[str, JSON]) -> list[str]:
    """Return a report of `run_operator_tests` as lines: a sum, and up to two tests of each operator that fails.

    Raises KeyError for another document.
    """
    from packager.conform import operators

    return operators.render_lines(report)


def list_broken_operators(report: Mapping[str, JSON]) -> dict[str, dict[str, str]]:
    """Return the operators of which tests fail, with what was seen in each. Raises KeyError for another document."""
    from packager.conform import operators

    return operators.list_broken(report)


def update_table(path: Path, keys: Sequence[PublicKey], workspace: Workspace) -> Table:
    """Take a newer table that one of `keys` signed into the workspace; return it.

    Raises NegativeAnswerError where none did or its serial does not rise, IntegrityError, UsageError.
    """
    from packager.conform import probing

    return probing.update(probing.read_file(path), str(path), keys, workspace.knowledge)


def sign_table(path: Path, signer: Signer) -> bytes:
    """Return a table signed for `update_table`: a Sigstore bundle around a statement that holds it.

    Raises UsageError, IntegrityError for what is no table, the signer's SourceError.
    """
    from packager.conform import probing

    return probing.sign(probing.read_file(path), str(path), signer)


def _python(named: str | None) -> str:
    import sys

    return named or f"{sys.version_info.major}.{sys.version_info.minor}"


# -- where a bundle runs


def report_compatibility(
    bundle: Bundle,
    versions: Sequence[tuple[str, str]] = (),
    sites: Sequence[Site] = (),
    *,
    workspace: Workspace | None = None,
) -> Compatibility:
    """Judge a bundle on versions of runtimes (name, version) and at sites, without loading it.

    Without either every known version of the promised runtimes is listed, and the promises are what is judged. What its
    build measured, or a conformance run passed, is never unknown. Raises UsageError for an unknown runtime.
    """
    from packager.release import compatibility
    from packager.workspace import tables_of

    for runtime, _ in versions:
        if runtime not in list_runtimes():
            read_table(runtime, workspace)
    return compatibility.report_compatibility(bundle, versions, sites, tables_of(workspace))


def join_cells(cells: Sequence[Cell]) -> list[Span]:
    """Join the cells of neighbouring versions that answer alike, target by target. Raises nothing."""
    from packager.contract import preflight

    return preflight.join_cells(cells)


def read_fleet(path: Path) -> tuple[Site, ...]:
    """Read the sites of a fleet file. Raises UsageError with the line."""
    from packager.contract import fleet

    return fleet.load(path)


def describe_host(name: str | None = None, directory: Path | None = None) -> Site:
    """Return this host as a site: runtimes, Python, processor, memory and disk in bytes, devices.

    `name` is by default the host's own; `directory` is where installations would go (default: the current one). Raises
    UsageError for a name that sites cannot have.
    """
    import platform
    import re

    from packager.contract import fleet, host

    called = name or re.sub(r"[^A-Za-z0-9._-]", "-", platform.node()).lstrip("._-") or "host"
    fleet.check_name(called)
    return host.describe(called, directory or Path.cwd())


def list_remarks(site: Site, workspace: Workspace | None = None) -> list[tuple[bool, str]]:
    """Return what this host, described as a site, can and cannot do, each with whether that is good.

    Raises IntegrityError for a damaged table.
    """
    from packager.contract import host
    from packager.workspace import tables_of

    return host.list_remarks(site, tables_of(workspace))


def write_site(site: Site, *, folded: bool = False) -> str:
    """Return the text of a fleet file with one site, which may be appended to another. Raises nothing.

    `folded` is for a reader: a comment counts the CPU features and names those that inference uses.
    """
    from packager.contract import fleet

    return fleet.write(site, folded=folded)


def report_host(bundle: Bundle, site: Site, workspace: Workspace, *, wheelhouse: Path | None = None) -> HostReport:
    """Say what becomes of a bundle on this host: what `install_bundle` would do, and what installed runtimes do.

    `site` is `describe_host()`, `wheelhouse` where an installation would take wheels from. Raises IntegrityError.
    """
    from packager.deploy.install import Index
    from packager.release import compatibility

    index = Index(wheelhouse, workspace.served_environments)
    return compatibility.report_host(bundle, site, Path.cwd(), index, workspace.tables)
