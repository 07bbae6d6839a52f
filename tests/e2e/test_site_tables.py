# SPDX-License-Identifier: Apache-2.0
"""Two workspaces in one process, each with its own tables of runtimes: each gets its own answers from the API."""

from __future__ import annotations

from pathlib import Path

import pytest

from packager import api, canonical
from packager.api import bundles as forms
from packager.api import runtimes
from packager.bundle.bundle import CONTRACT
from packager.conform import cells
from packager.errors import UsageError
from packager.lock import opset_level
from tests.support import bundles, contracts

VERSIONS = {"old": "9.1.0", "new": "9.2.0"}


@pytest.fixture
def sites(tmp_path: Path) -> dict[str, api.Workspace]:
    """Two workspaces, each of which knows of one version that the other does not, and of a runtime of its own."""
    found = {}
    for name, version in VERSIONS.items():
        row = {"source": "measured", "opset": {"ai.onnx": 30}, "complete": 30, "ir": 15, "python": ["3.11"]}
        folder = tmp_path / name / "knowledge"
        folder.mkdir(parents=True)
        for runtime in ("onnxruntime", f"{name}-runtime"):
            table = {"format": 1, "runtime": runtime, "serial": 7, "versions": {version: row}}
            (folder / f"{runtime}.json").write_bytes(canonical.dump(table))
        found[name] = api.Workspace(tmp_path / name / "store", variables={"PACKAGER_KNOWLEDGE": str(folder)})
    return found


def bundle_of(folder: Path, versions: str, number: str = "1.0.0") -> api.Bundle:
    text = contracts.RECIPE.replace(">=1.17", versions)
    files = {CONTRACT: canonical.dump(contracts.derived(text))}
    return bundles.make(bundles.store_in(folder / number), files, "net", number)


def test_compatibility_is_that_of_the_workspace(sites: dict[str, api.Workspace], tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, ">=1.17")
    limits = {
        (site, version): {
            reason.limit for reason in api.check_compatibility(bundle, "onnxruntime", version, here).reasons
        }
        for site, here in sites.items()
        for version in VERSIONS.values()
    }
    assert {place for place, found in limits.items() if found == {"version"}} == {("old", "9.2.0"), ("new", "9.1.0")}
    reports = {name: runtimes.report_compatibility(bundle, workspace=here) for name, here in sites.items()}
    for name, report in reports.items():
        newer = [cell.version for cell in report.cells if cell.version.startswith("9.")]
        assert newer == [VERSIONS[name]]
    assert not [c for c in runtimes.report_compatibility(bundle).cells if c.version.startswith("9.")]


def test_a_diff_names_the_versions_that_the_workspace_knows(sites: dict[str, api.Workspace], tmp_path: Path) -> None:
    before, after = bundle_of(tmp_path, ">=1.17"), bundle_of(tmp_path, ">=1.17,<9.1.5", "1.0.1")
    found = {name: forms.compare_bundles(before, after, here) for name, here in sites.items()}
    assert {name: one.needed for name, one in found.items()} == {"old": "patch", "new": "major"}
    assert [change.message for change in found["new"].changes if change.area == "runtimes"] == [
        ">=1.17 was promised, now <9.1.5,>=1.17; no longer 9.2.0"
    ]
    assert forms.compare_bundles(before, after).needed == "patch"


def test_remarks_about_a_host_know_the_runtimes_of_the_workspace(sites: dict[str, api.Workspace]) -> None:
    host = runtimes.Site("host", {"old-runtime": "9.1.0", "new-runtime": "9.2.0"})
    for name, here in sites.items():
        said = {message: ok for ok, message in runtimes.list_remarks(host, here) if "-runtime" in message}
        assert [message.partition(" ")[0] for message, ok in said.items() if ok] == [f"{name}-runtime"]


def test_a_host_is_judged_by_the_tables_of_its_workspace(sites: dict[str, api.Workspace], tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, ">=1.17")
    host = runtimes.Site("host", {"onnxruntime": "9.2.0"})
    limits = {
        name: {
            reason.limit
            for cell in runtimes.report_host(bundle, host, here).reach.cells
            for reason in cell.answer.reasons
        }
        for name, here in sites.items()
    }
    assert limits["old"] == {"version"} and "version" not in limits["new"]


def test_a_table_is_read_from_its_workspace(sites: dict[str, api.Workspace]) -> None:
    newest = {name: [*runtimes.read_table("onnxruntime", here).rows][-1] for name, here in sites.items()}
    assert newest == VERSIONS
    assert not set(VERSIONS.values()) & set(runtimes.read_table("onnxruntime").rows)


def test_a_project_is_locked_with_the_tables_of_its_workspace(sites: dict[str, api.Workspace], tmp_path: Path) -> None:
    """Both are opened before either is asked."""
    text = 'name: m\nversion: 1.0.0\nsource: ./m\nruns-on: {onnxruntime: "==9.1.0"}\n'
    (tmp_path / "bundle.yaml").write_text(text)
    projects = {name: api.open_project(tmp_path / "bundle.yaml", here) for name, here in sites.items()}
    old, new = projects["old"], projects["new"]
    assert opset_level.choose_level(old.recipe, "onnx", old.here.tables).opset == 30
    with pytest.raises(UsageError, match=r"no known version of onnxruntime is in `==9\.1\.0`"):
        opset_level.choose_level(new.recipe, "onnx", new.here.tables)


def test_the_suite_plans_the_versions_of_the_workspace(sites: dict[str, api.Workspace], tmp_path: Path) -> None:
    document = bundle_of(tmp_path, ">=1.17").contract.document
    for name, here in sites.items():
        planned = cells.plan_cells(document, [cells.parse_selection("onnxruntime")], here.tables)
        assert planned[-1].version == VERSIONS[name]
