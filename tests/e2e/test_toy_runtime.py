# SPDX-License-Identifier: Apache-2.0
"""A runtime of a third party (`tests/toy_runtime`), installed as a wheel: through every verb, known to nothing here."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from packager.files import write_atomically
from tests.e2e.conftest import Project
from tests.e2e.test_install import serving
from tests.support.environments import CACHE, linked_environment

SOURCE = Path(__file__).parents[1] / "toy_runtime"
TARGET = "toy-cpu-fp32"
VERSION = onnx.__version__
WEIGHTS = {
    name: np.random.default_rng(number).standard_normal(shape).astype("float32")
    for number, (name, shape) in enumerate({"a": (4, 8), "b": (8,), "c": (8, 3), "d": (3,)}.items())
}


def write_network(path: Path) -> None:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", n]) for name, n in (("x", 4), ("y", 3))]
    nodes = [
        helper.make_node("Gemm", ["x", "a", "b"], ["p"]),
        helper.make_node("Relu", ["p"], ["q"]),
        helper.make_node("Gemm", ["q", "c", "d"], ["y"]),
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in WEIGHTS.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    write_atomically(path, model.SerializeToString())


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has this program and the toy runtime, built as a wheel and installed."""
    root = tmp_path_factory.mktemp("publisher")
    shutil.copytree(SOURCE, root / "source", ignore=shutil.ignore_patterns("__pycache__"))
    interpreter = linked_environment(root / "env", "model-packager[onnx,conform,lock,scan]")
    uv = Path(sys.executable).with_name("uv")
    build = [uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--offline", "--python", sys.executable]
    subprocess.run([*build, "--out-dir", root, root / "source"], check=True)
    install = [uv, "pip", "install", "--quiet", "--no-deps", "--offline", "--python", interpreter]
    subprocess.run([*install, next(root.glob("*.whl"))], check=True)
    return interpreter


@pytest.fixture(scope="module")
def toy(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose recipe promises it beside ONNX Runtime: drafted, locked, built in the sandbox and signed."""
    root = tmp_path_factory.mktemp("toy")
    kept = {"PIP_CACHE_DIR": str(CACHE / "pip")}  # wheels that an earlier run downloaded
    project = Project(root / "project", root / "store", kept, python)
    project.folder.mkdir()
    write_network(project.folder / "net.onnx")
    project.run("init", "net.onnx", "--no-look")
    recipe = project.folder / "bundle.yaml"
    platform = f"platforms: [linux_x86_64-cp{sys.version_info.major}{sys.version_info.minor}]\n"
    drafted = recipe.read_text().replace("name: project", "name: net")
    promised = drafted.replace('  onnxruntime: ">=1.17"', '  onnxruntime: ">=1.17"\n  toy: ">=1.18"')
    recipe.write_text(promised + platform)
    project.run("lock")
    project.run("build", "--locked")
    project.run("keygen", "release")
    project.run("sign", "net:0.1.0", "--key", "release.pem", "-o", "net.bundle.tar")
    return project


@pytest.fixture(scope="module")
def site(toy: Project) -> Path:
    place = toy.folder / "site"
    toy.run("install", "net.bundle.tar", place, "--target", TARGET, "--key", "release.pub")
    return place


def test_it_is_listed_beside_ours(toy: Project) -> None:
    assert toy.run("runtimes", "list", "--json")["toy"]["versions"] == 2
    assert f"toy {VERSION}" in toy.run("doctor").stderr
    done = toy.run("runtimes", "probe", f"toy=={VERSION}", code=2)
    assert "`toy` cannot be probed" in done.stderr


def test_a_recipe_may_name_it_only_where_it_is_installed(toy: Project) -> None:
    without = Project(toy.folder, toy.store).run("lock", code=2)
    assert "runtime `toy` is unknown" in without.stderr


def test_its_distribution_is_part_of_the_locked_toolchain(toy: Project) -> None:
    lock = json.loads((toy.folder / "bundle.lock").read_text())
    assert lock["toolchain"]["packager-toy"] == "1.0"
    assert toy.run("build", "--locked", "--json")["executed"] == 0


def test_the_contract_knows_it_and_the_bundle_verifies_anywhere(toy: Project) -> None:
    anywhere = Project(toy.folder, toy.store)
    assert anywhere.run("verify", "net.bundle.tar", "--key", "release.pub", "--json")["ok"]
    contract = anywhere.run("inspect", "net.bundle.tar", "--json")["contract"]
    artefact = contract["targets"][TARGET]["artefact"]
    assert artefact["header"] == {"toy": 1} and artefact["toolchain"]["packager-toy"] == "1.0"
    assert contract["runs-on"]["toy"]["loads"] == ">=1.18.0"


def test_compat_judges_it_by_its_own_tables(toy: Project) -> None:
    cells = toy.run("compat", "net.bundle.tar", "--json")["cells"]
    found = {cell["version"]: cell["outcome"] for cell in cells if cell["target"] == TARGET}
    assert found == {"1.18.0": "ok", "1.23.2": "ok"}


def test_an_installation_serves_it_without_onnx_runtime(site: Path) -> None:
    packages = next((site / "current").resolve().glob("env/lib/python*/site-packages"))
    assert (packages / "onnx").is_dir() and not (packages / "onnxruntime").exists()
    given = np.random.default_rng(7).standard_normal((5, 4)).astype("float32")
    hidden = np.maximum(given @ WEIGHTS["a"] + WEIGHTS["b"], 0)
    with serving(site) as address:
        np.testing.assert_allclose(ask(address, given), hidden @ WEIGHTS["c"] + WEIGHTS["d"], rtol=1e-4, atol=1e-5)


def ask(address: str, given: Any) -> Any:
    port = {"name": "x", "datatype": "FP32", "shape": list(given.shape), "data": given.ravel().tolist()}
    body = json.dumps({"inputs": [port]}).encode()
    with urllib.request.urlopen(f"http://{address}/v2/models/net/infer", body, timeout=30) as answer:
        (output,) = json.loads(answer.read())["outputs"]
    return np.array(output["data"], "float32").reshape(output["shape"])


def test_only_a_site_that_has_it_installs_it(toy: Project, tmp_path: Path) -> None:
    done = Project(toy.folder, toy.store).run(
        "install", "net.bundle.tar", tmp_path / "site", "--target", TARGET, "--key", "release.pub", code=2
    )
    assert "`toy` is not among the runtimes" in done.stderr


def test_the_suite_runs_its_adapter(toy: Project, python: Path, tmp_path: Path) -> None:
    done = toy.run(
        "conform",
        "net.bundle.tar",
        "--key",
        "release.pub",
        "--runtime",
        f"toy=={VERSION}",
        "--python",
        python,
        "--level",
        "L4",
        "--report",
        tmp_path,
        "--json",
    )
    assert done["verdict"] == {"ok": True, "passed": 1, "failed": [], "unproven": [], "known": []}
    (cell,) = json.loads((tmp_path / "result.json").read_text())["cells"]
    assert cell["identity"]["runtime"] == "toy" and cell["identity"]["provider"] == "reference"


def test_it_is_one_folder() -> None:
    """What it has is in one package; nothing of this program names it."""
    assert {path.name for path in SOURCE.iterdir()} - {"__pycache__"} == {"pyproject.toml", "packager_toy"}
    for package in ("packager", "packager.runtimes"):
        for place in importlib.import_module(package).__path__:
            assert not [path for path in Path(place).rglob("*.py") if "packager_toy" in path.read_text("utf-8")]
