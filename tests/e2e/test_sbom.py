# SPDX-License-Identifier: Apache-2.0
"""The SBOM of real bundles, judged by other tools: CycloneDX's validator, `cyclonedx-bom`, `spdx-tools`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from packager.formats import platforms
from packager.policy import completeness
from tests.e2e.conftest import CNN_RECIPE, HERE, Project

ABOUT = "license: Apache-2.0\ndescription: A model.\nauthors: [Ada Lovelace]\n"
ABOUT += "datasets: [{name: digits, license: CC-BY-4.0, uri: 'https://archive.ics.uci.edu/dataset/80'}]\n"


@pytest.fixture(scope="session")
def referees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other people's SBOM tools, in an environment of their own; return its `bin`."""
    home, uv = tmp_path_factory.mktemp("referees"), Path(sys.executable).parent / "uv"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, home / "env"], check=True)
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", home / "env", "cyclonedx-bom==7.5.0", "spdx-tools==0.8.5"],
        check=True,
    )
    return home / "env" / "bin"


@pytest.fixture(scope="module")
def described(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The CNN with everything a recipe can say about it."""
    project = Project(tmp_path_factory.mktemp("described") / "project", built.store)
    shutil.copytree(built.folder, project.folder)
    (project.folder / "MODEL_CARD.md").write_text("# A model\n")
    project.write(CNN_RECIPE.replace("1.2.3", "3.0.0") + ABOUT + "card: MODEL_CARD.md\n")
    project.run("build", "--locked")
    return project


def judge(project: Project, name: str) -> dict[str, Any]:
    """Hold the SBOM of a bundle against the laws that every one must keep, and return it."""
    bom: dict[str, Any] = project.run("sbom", name, "--json")
    text = project.run("sbom", name).stdout
    assert text == project.run("sbom", name).stdout, "the same twice"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    newer = project.run("sbom", name, "--spec", "1.7").stdout
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(newer) is None
    hashes = {row["content"] for item in completeness.list_components(bom) for row in item.get("hashes", [])}
    files = project.run("inspect", name, "--json")["files"]
    missing = {path for path, about in files.items() if about["digest"].removeprefix("sha256:") not in hashes}
    assert missing == {"sbom.cdx.json", "bundle.json"}, "itself, and the record that names its digest"
    locked = json.loads((project.folder / "bundle.lock").read_bytes())["dependencies"]["runtimes"]
    assert {row[3] for item in locked.values() for rows in item["platforms"].values() for row in rows} <= hashes
    report = project.run("sbom", name, "--report", "--json")
    assert report["licensed_share"] >= 0.95, report["unlicensed"]
    return bom


def test_the_sbom_of_a_network(described: Project) -> None:
    bom = judge(described, "cnn:3.0.0")
    assert bom["metadata"]["component"]["modelCard"]["modelParameters"]["datasets"] == [
        {"ref": "data:digits@https://archive.ics.uci.edu/dataset/80"}
    ]


def test_a_report_says_what_is_missing(built: Project, described: Project) -> None:
    full = described.run("sbom", "cnn:3.0.0", "--report").stdout
    bare = built.run("sbom", "cnn:1.2.3", "--report").stdout
    assert "Models: 6 of 6" in full
    assert "missing: licence (`license` in the recipe)" in bare
    assert "NTIA minimum elements" in bare


def test_spdx_tools_accept_the_other_form(described: Project, referees: Path, tmp_path: Path) -> None:
    described.run("sbom", "cnn:3.0.0", "--format", "spdx", "-o", tmp_path / "cnn.spdx.json")
    command = [referees / "pyspdxtools", "--infile", tmp_path / "cnn.spdx.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    value = json.loads((tmp_path / "cnn.spdx.json").read_bytes())
    value["packages"][0]["SPDXID"] = "not an id"
    (tmp_path / "cnn.spdx.json").write_text(json.dumps(value))
    assert subprocess.run(command, capture_output=True, check=False).returncode, "the check can fail"


@pytest.mark.slow  # two other tools judge it by default
def test_cyclonedx_bom_finds_the_same_distributions(described: Project, referees: Path, tmp_path: Path) -> None:
    """It looks at what is installed, we at what is locked: one set of package URLs, edges included."""
    here = platforms.name_host()
    uv = Path(sys.executable).parent / "uv"
    described.run("unpack", "cnn:3.0.0", tmp_path / "tree")
    lock = tmp_path / "tree" / "deps" / "onnxruntime" / f"requirements-{here}.txt"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "env"], check=True)
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--require-hashes", "--python", tmp_path / "env", "-r", lock], check=True
    )
    command = [referees / "cyclonedx-py", "environment", "--sv", "1.6", "--output-reproducible", tmp_path / "env"]
    theirs = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    ours = described.run("sbom", "cnn:3.0.0", "--json")
    on_this = {
        item["purl"]
        for item in ours["components"]
        if item["type"] == "library"
        if any({"name": "packager:platform", "value": here} in part["properties"] for part in item["components"])
    }
    assert {unquote(item["purl"]) for item in theirs["components"]} == {unquote(purl) for purl in on_this}
    purls = {item["bom-ref"]: item["purl"] for item in theirs["components"]}
    edges = {
        purls[row["ref"]]: {purls[to] for to in row.get("dependsOn", [])}
        for row in theirs["dependencies"]
        if row["ref"] in purls
    }
    own = {row["ref"]: set(row.get("dependsOn", [])) & on_this for row in ours["dependencies"] if row["ref"] in on_this}
    assert own.keys() == edges.keys() and all(own[ref] <= edges[ref] for ref in own)
    optional = {(ref, to) for ref in edges for to in edges[ref] - own[ref]}  # they draw what an extra would ask for
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    assert not [edge for edge in optional if not of_an_extra(site, *edge)]
    by_requirements = [referees / "cyclonedx-py", "requirements", "--sv", "1.6", "--output-reproducible", lock]
    listed = json.loads(subprocess.run(by_requirements, capture_output=True, check=True).stdout)
    assert {unquote(item["purl"]).partition("?")[0] for item in listed["components"]} == on_this


def of_an_extra(site: Path, ref: str, to: str) -> bool:
    """Whether an installed distribution asks for another one only under an extra."""
    name, wanted = (unquote(purl).rpartition("/")[2].partition("@")[0] for purl in (ref, to))
    (found,) = metadata.distributions(name=name, path=[str(site)])
    lines = [line for line in found.requires or () if re.match(rf"{re.escape(wanted)}(?![\w.-])", line, re.IGNORECASE)]
    return bool(lines) and all("extra ==" in line for line in lines)


@pytest.mark.slow
def test_the_sbom_of_a_sentence_encoder(encoder: Path, project: Callable[..., Project]) -> None:
    recipe = "name: encoder\nversion: 1.0.0\nsource: ./model\n" + ABOUT
    made = project(recipe, model=encoder)
    made.run("build")
    roles = {row["value"] for item in judge(made, "encoder:1.0.0")["components"] for row in item.get("properties", [])}
    assert {"graph", "weights", "tokenizer", "dependency lock", "record"} <= roles


@pytest.mark.slow
def test_the_sbom_of_a_scikit_learn_pipeline(tmp_path: Path) -> None:
    made = Project(tmp_path / "project", tmp_path / "store")
    made.folder.mkdir()
    subprocess.run([sys.executable, HERE / "table_models.py"], cwd=made.folder, check=True, capture_output=True)
    made.write("name: churn\nversion: 1.0.0\nsource: models:/churn@champion\nregistry: sqlite:///mlflow.db\n" + ABOUT)
    made.run("build")
    (ancestor,) = judge(made, "churn:1.0.0")["metadata"]["component"]["pedigree"]["ancestors"]
    assert ancestor["name"].startswith("models:/")
