# SPDX-License-Identifier: Apache-2.0
"""Models for tables from a registry to a served bundle, through the command line and Triton's own client."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from packager.formats import platforms
from tests.e2e.conftest import HERE, Project, tool
from tests.e2e.test_server import app, running, tensor  # noqa: F401 - `app` is a fixture
from tests.support import tables
from tests.support.tools import library

RECIPE = (
    "name: {name}\nversion: 1.0.0\nsource: models:/{source}\nregistry: sqlite:///mlflow.db\n"
    f"platforms: [{platforms.name_host()}]\n"
)
pytestmark = pytest.mark.slow  # two registered models in processes of their own; the tutorial has one by default
COLUMNS = {"age": "float64", "income per year": "float64", "visits": "int64", "city": "string", "text": "string"}


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Project:
    library("libgomp.so.1")  # of XGBoost
    root = tmp_path_factory.mktemp("tables")
    (root / "project").mkdir()
    project = Project(root / "project", root / "store")
    register(project, "churn@champion")
    return project


def register(project: Project, *names: str) -> None:
    """Register models in a process of its own."""
    script = [sys.executable, str(HERE / "table_models.py"), *names]
    subprocess.run(script, cwd=project.folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def churn(registered: Project) -> Path:
    """The pipeline as a verified tree of files."""
    registered.write(RECIPE.format(name="churn", source="churn@champion"))
    built = registered.run("build", "--json")
    assert built["verdict"]["ok"]
    registered.run("keygen", "release")
    registered.run("sign", "churn:1.0.0", "--key", "release.pem")
    registered.run("unpack", "churn:1.0.0", "tree", "--key", "release.pub")
    return registered.folder / "tree"


def test_the_contract_names_columns_and_classes(churn: Path) -> None:
    interface = json.loads((churn / "contract.json").read_bytes())["interface"]
    assert {port["name"]: port["dtype"] for port in interface["inputs"]} == COLUMNS
    assert [(port["name"], port["dtype"]) for port in interface["outputs"]] == [
        ("label", "string"),
        ("probabilities", "float32"),
    ]


@pytest.mark.slow  # of a network it holds by default
def test_the_same_digest_from_another_store(registered: Project, churn: Path, tmp_path: Path) -> None:
    registered.write(RECIPE.format(name="churn", source="churn@champion"))
    registered.run("lock")
    digest = registered.run("inspect", "churn:1.0.0", "--json")["digest"]
    again = Project(registered.folder, tmp_path / "store").run("build", "--locked", "--json")
    assert again["digest"] == digest


def test_it_is_served_with_texts_of_all_scripts(churn: Path, app: Path, tmp_path: Path) -> None:  # noqa: F811
    shutil.copytree(churn / "model", tmp_path / "served")
    config = {
        "name": "churn",
        "version": "1.0.0",
        "digest": "sha256:" + "0" * 64,
        "runtime": "onnxruntime",
        "target": "onnxruntime-cpu-fp32",
        "artefact": "model.onnx",
        "interface": json.loads((churn / "contract.json").read_bytes())["interface"],
    }
    (tmp_path / "served" / "serve.json").write_text(json.dumps(config))
    table = tables.frame(7)
    table.loc[0, "text"], table.loc[1, "text"], table.loc[2, "city"] = "", "😀 KADİR alpha\ncafé", "unseen"
    feeds = {
        name: table[[name]].to_numpy().astype({"string": object}.get(kind, kind)) for name, kind in COLUMNS.items()
    }
    with running(app, tmp_path / "served" / "serve.json") as server:
        for binary in (True, False):
            answer = server.client.infer("churn", [tensor(name, given, binary=binary) for name, given in feeds.items()])
            labels = [item.decode() if isinstance(item, bytes) else item for item in answer.as_numpy("label")]
            assert set(labels) <= {"yes", "no"} and len(labels) == 7
            found = answer.as_numpy("probabilities")
            assert found.shape == (7, 2) and np.allclose(found.sum(axis=1), 1)
            assert [("no", "yes")[place] for place in found.argmax(axis=1)] == labels


@pytest.mark.slow  # tests/unit/exporters/sklearn holds it by default
def test_a_vectoriser_that_cannot_match_fails_with_the_reason(registered: Project, churn: Path) -> None:
    register(registered, "churn@accents")
    registered.write(RECIPE.format(name="accents", source="churn@accents"))
    done = registered.run("build", code=4)
    assert "no operator removes accents" in done.stderr and "`TfidfVectorizer" in done.stderr
    assert "hint: use `strip_accents=None`" in done.stderr


@pytest.mark.slow  # attacks hold it by default
def test_a_pickle_needs_permission(registered: Project, churn: Path) -> None:
    register(registered, "churn@pickled")
    recipe = RECIPE.format(name="pickled", source="churn@pickled")
    registered.write(recipe)
    assert "allow-pickle: true" in registered.run("build", code=4).stderr
    registered.write(recipe + "allow-pickle: true\n")
    tool("bwrap")
    assert registered.run("build", "--json")["verdict"]["ok"]


@pytest.mark.slow  # tests/unit/exporters holds it by default
def test_boosted_trees_with_missing_values(registered: Project, churn: Path) -> None:
    register(registered, "trees@champion")
    registered.write(RECIPE.format(name="trees", source="trees@champion"))
    assert registered.run("build", "--json")["verdict"]["ok"]
