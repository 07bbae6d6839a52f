# SPDX-License-Identifier: Apache-2.0
"""`toolchain: locked`: models that other versions made export with those versions, and the host's are not asked."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.bundle.bundle import open_bundle
from packager.formats import slsa
from packager.release.sign import read_drafts
from packager.store.store import Store
from tests.e2e.conftest import Project, tool
from tests.support.environments import other_python, python_with, run

OLD_SKLEARN = ("scikit-learn==1.5.2", "skops==0.13.0", "numpy==2.2.6", "pandas==2.3.3")
TRAIN = """
import sys, pickle, numpy as np, skops.io, sklearn
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
random = np.random.RandomState(0)
x = random.randn(300, 4)
y = (x[:, 0] + x[:, 1] ** 2 > 0.5).astype(int)
model = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)).fit(x, y)
open(sys.argv[1] + "/model.skops", "wb").write(skops.io.dumps(model))
pickle.dump(model, open(sys.argv[1] + "/model.pkl", "wb"))
print(sklearn.__version__)
"""
RECIPE = "name: old\nversion: 1.0.0\nsource: ./{source}\ntoolchain: {toolchain}\n"

pytestmark = pytest.mark.cold  # workers run in these tests


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    assert run(python_with(*OLD_SKLEARN), TRAIN, folder).strip() == "1.5.2"
    return folder


@pytest.mark.slow  # makes an environment of older libraries
def test_an_older_scikit_learn_exports_with_its_own_version(old: Path, project: Callable[..., Project]) -> None:
    made = project(RECIPE.format(source="model.skops", toolchain="locked"), **{"model.skops": old / "model.skops"})
    locked = made.run("lock")
    assert "the toolchain is locked: Python 3.11, scikit-learn 1.5.2" in locked.stderr
    lock = json.loads((made.folder / "bundle.lock").read_bytes())
    assert lock["toolchain"]["scikit-learn"] == "1.5.2"
    rows = lock["export"]["environment"]["requirements"]
    assert any(row.startswith("scikit-learn==1.5.2 ") for row in rows) and any("--hash=sha256:" in row for row in rows)
    built = made.run("build", "--locked", "--json")
    assert built["verdict"]["ok"] and built["executed"] == 5, "three scanners, export, measure"
    assert made.run("build", "--locked", "--json")["executed"] == 0
    environments = list(made.store.glob("*/environments/[!.]*"))
    assert len(environments) == 1
    again = Project(made.folder, made.store.parent / "other")
    assert again.run("build", "--locked", "--json")["digest"] == built["digest"]


@pytest.mark.slow
def test_rebuild_uses_the_versions_in_provenance(old: Path, project: Callable[..., Project], tmp_path: Path) -> None:
    """Every package of the toolchain is stated by hash; elsewhere the environment is made anew from that."""
    made = project(RECIPE.format(source="model.skops", toolchain="locked"), **{"model.skops": old / "model.skops"})
    built = made.run("build", "--json")
    stored = open_bundle("old:1.0.0", lambda: Store(made.store))
    rows = read_drafts(stored)[slsa.PREDICATE]["buildDefinition"]["resolvedDependencies"]
    tools = {row["name"]: row for row in rows if row.get("annotations", {}).get("role") == "toolchain"}
    assert tools["scikit-learn"]["uri"] == "pkg:pypi/scikit-learn@1.5.2"
    assert all("digest" in row for name, row in tools.items() if not name.startswith(("python ", "machine ")))
    made.run("keygen", "release")
    made.run("sign", "old:1.0.0", "--key", "release.pem", "-o", "old.tar")
    site = Project(tmp_path / "site", tmp_path / "site" / "store")
    site.folder.mkdir()
    for name in ("old.tar", "release.pub"):
        shutil.copy(made.folder / name, site.folder / name)
    source = made.folder / "model.skops"
    answer = site.run("rebuild", "old.tar", "--key", "release.pub", "--source", source, "--json", LC_ALL="C")
    assert (answer["identical"], answer["rebuilt"]) == (True, built["digest"])


def test_the_host_warns_of_another_version(old: Path, project: Callable[..., Project]) -> None:
    made = project(RECIPE.format(source="model.skops", toolchain="host"), **{"model.skops": old / "model.skops"})
    warned = made.run("lock").stderr
    assert "the source was made with scikit-learn 1.5.2, this host has" in warned
    assert "`toolchain: locked`" in warned


def test_a_lock_belongs_to_one_toolchain(old: Path, project: Callable[..., Project]) -> None:
    made = project(RECIPE.format(source="model.skops", toolchain="host"), **{"model.skops": old / "model.skops"})
    made.run("lock")
    made.write(RECIPE.format(source="model.skops", toolchain="locked"))
    assert "the lock is stale" in made.run("build", "--locked", code=2).stderr


@pytest.mark.slow
def test_a_pickle_still_needs_permission_and_confinement(old: Path, project: Callable[..., Project]) -> None:
    tool("bwrap")
    recipe = RECIPE.format(source="model.pkl", toolchain="locked")
    made = project(recipe, **{"model.pkl": old / "model.pkl"})
    assert "allow-pickle: true" in made.run("lock", code=4).stderr
    made.write(recipe + "allow-pickle: true\n")
    assert made.run("build", "--json")["verdict"]["ok"]
    assert json.loads((made.folder / "bundle.lock").read_bytes())["toolchain"]["scikit-learn"] == "1.5.2"


@pytest.mark.slow
def test_mlflow_writes_what_it_was_made_with(project: Callable[..., Project], tmp_path: Path) -> None:
    """Another minor version of Python as well."""
    tool("bwrap")
    other = other_python("3.12")
    code = TRAIN.replace(
        "print(",
        "import mlflow.sklearn\nmlflow.sklearn.save_model(model, sys.argv[1] + '/saved', "
        "serialization_format='cloudpickle', input_example=x[:2])\nprint(",
    )
    run(python_with(*OLD_SKLEARN, "mlflow==3.1.4", python=other), code, tmp_path)
    made = project(RECIPE.format(source="saved", toolchain="locked") + "allow-pickle: true\n", saved=tmp_path / "saved")
    path = f"{Path(other).parent}:{os.environ['PATH']}"
    made.run("lock", PATH=path)
    toolchain = json.loads((made.folder / "bundle.lock").read_bytes())["toolchain"]
    assert (toolchain["python"], toolchain["scikit-learn"], toolchain["numpy"]) == ("3.12", "1.5.2", "2.2.6")
    assert made.run("build", "--locked", "--json", PATH=path)["verdict"]["ok"]


def test_library_without_build_is_named(project: Callable[..., Project], tmp_path: Path) -> None:
    """`init` does not draft what `lock` would refuse, and `lock` says why in one sentence."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    text = pickle.dumps(LogisticRegression().fit(np.eye(3), [0, 1, 0]), protocol=0).decode("latin-1")
    old, changed = re.subn(r"(V_sklearn_version\np\d+\nV)[\d.]+", r"\g<1>0.24.2", text)
    assert changed == 1
    (tmp_path / "old.pkl").write_bytes(old.encode("latin-1"))
    made = project("name: x\nversion: 1.0.0\nsource: x\n", **{"old.pkl": tmp_path / "old.pkl"})
    made.run("init", "old.pkl", "-o", "drafted.yaml")
    drafted = (made.folder / "drafted.yaml").read_text()
    assert re.search(
        r"^toolchain: host +# scikit-learn 0\.24\.2 has no build for Python 3\.\d+: ", drafted, re.MULTILINE
    )
    made.write(RECIPE.format(source="old.pkl", toolchain="locked") + "allow-pickle: true\n")
    refused = made.run("lock", code=3).stderr
    assert re.search(r"error: `scikit-learn 0\.24\.2` has no build for Python 3\.\d+\n", refused)
    assert "log it again" in refused and "beside the model" not in refused and "Because" not in refused
    made.write(RECIPE.format(source="old.pkl", toolchain="host") + "allow-pickle: true\n")
    assert "`toolchain: locked`" not in made.run("lock").stderr, "it would not help"


@pytest.mark.slow
def test_old_libraries_get_the_packages_of_their_time(project: Callable[..., Project], tmp_path: Path) -> None:
    """A bare pickle names one version only; numpy, as new as possible, would not load."""
    tool("bwrap")
    code = TRAIN.replace(", skops.io", "").replace(
        'open(sys.argv[1] + "/model.skops", "wb").write(skops.io.dumps(model))\n', ""
    )
    run(python_with("scikit-learn==1.2.2", "numpy<2"), code, tmp_path)
    recipe = RECIPE.format(source="model.pkl", toolchain="locked") + "allow-pickle: true\n"
    made = project(recipe, **{"model.pkl": tmp_path / "model.pkl"})
    assert "try the toolchain on a small model" in made.run("lock").stderr
    toolchain = json.loads((made.folder / "bundle.lock").read_bytes())["toolchain"]
    assert toolchain["scikit-learn"] == "1.2.2" and toolchain["numpy"].startswith("1.")
    assert made.run("build", "--locked", "--json")["verdict"]["ok"]


@pytest.mark.slow
def test_a_toolchain_that_does_not_work_is_not_locked(project: Callable[..., Project], tmp_path: Path) -> None:
    """XGBoost 1.2.1 installs and does not work; later releases read its files, and one of them is taken."""
    import numpy as np
    import xgboost

    x = np.random.default_rng(0).normal(size=(100, 4))
    booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(x, (x[:, 0] > 0).astype(int)), 5)
    booster.save_model(tmp_path / "saved.json")
    saved = json.loads((tmp_path / "saved.json").read_bytes())
    (tmp_path / "old.json").write_text(json.dumps({**saved, "version": [1, 2, 1]}, separators=(",", ":")))
    made = project(RECIPE.format(source="old.json", toolchain="locked"), **{"old.json": tmp_path / "old.json"})
    told = made.run("lock").stderr
    assert "a toolchain with `xgboost 1.2.1` was put together and does not work: " in told
    assert "`xgboost>=1.2.1` was locked instead" in told
    toolchain = json.loads((made.folder / "bundle.lock").read_bytes())["toolchain"]
    assert int(toolchain["xgboost"].partition(".")[0]) >= 2
    assert made.run("build", "--locked", "--json")["verdict"]["ok"]


@pytest.mark.slow
def test_an_older_xgboost(project: Callable[..., Project], tmp_path: Path) -> None:
    code = """
import sys, numpy as np, xgboost
random = np.random.RandomState(0)
x = random.randn(300, 4)
model = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(x, (x[:, 0] > 0).astype(int)), 10)
model.save_model(sys.argv[1] + "/model.ubj")
"""
    run(python_with("xgboost-cpu==2.1.4", "numpy==2.2.6", "scipy"), code, tmp_path)
    made = project(RECIPE.format(source="model.ubj", toolchain="locked"), **{"model.ubj": tmp_path / "model.ubj"})
    made.run("lock")
    assert json.loads((made.folder / "bundle.lock").read_bytes())["toolchain"]["xgboost"] == "2.1.4"
    assert made.run("build", "--locked", "--json")["verdict"]["ok"]
