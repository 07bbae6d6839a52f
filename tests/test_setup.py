# SPDX-License-Identifier: Apache-2.0
"""What the Makefile sets up: torch's CPU build first, and CUDA where there is no other or somebody asks for it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support import deployments

ROOT = Path(__file__).resolve().parent.parent
PIN = re.search(r"^torch==(.+)$", (ROOT / "tests/constraints.txt").read_text(), re.MULTILINE)[1]  # type: ignore[index]


def index(folder: Path, *versions: str) -> Path:
    """Write a package index in a folder, with these versions of `torch`."""
    for version in versions:
        name = f"torch-{version}-py3-none-any.whl"
        place = folder / "torch" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(deployments.installable("torch", version, {"torch/__init__.py": b""}))
    page = folder / "torch" / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("".join(f'<a href="{path.name}">{path.name}</a>\n' for path in sorted(page.parent.glob("*.whl"))))
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("setup") / "environment"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    return place


def installed(
    environment: Path, work: Path, near: tuple[str, ...], far: tuple[str, ...], *words: str
) -> tuple[int, str, str]:
    """Set up torch from two indexes, the configured one and the one for CPU builds; return what came of it."""
    for old in environment.glob("lib/*/site-packages/torch*"):
        shutil.rmtree(old)
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(work),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": index(work / "near", *near).as_uri(),
    }
    command = [
        "make",
        "torch",
        f"VENV={environment}",
        "PYTHON=true",
        "TOOLS=",
        *words,
        f"TORCH_INDEX={index(work / 'far', *far).as_uri()}",
    ]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    found = [path.name.split("-")[1] for path in environment.glob("lib/*/site-packages/torch-*.dist-info")]
    return done.returncode, "".join(found).removesuffix(".dist"), done.stderr


@pytest.mark.parametrize(
    ("near", "far", "words", "expected"),
    [
        ((PIN, f"{PIN}+cpu"), (), (), f"{PIN}+cpu"),
        ((PIN,), (f"{PIN}+cpu",), (), f"{PIN}+cpu"),
        ((PIN,), (), (), PIN),
        ((PIN,), (f"{PIN}+cpu",), ("TORCH=cuda",), PIN),
    ],
    ids=["at hand", "at pytorch.org", "nowhere", "cuda is asked for"],
)
def test_torch_is_the_cpu_build_where_there_is_one(
    environment: Path,
    tmp_path: Path,
    near: tuple[str, ...],
    far: tuple[str, ...],
    words: tuple[str, ...],
    expected: str,
) -> None:
    code, version, said = installed(environment, tmp_path, near, far, *words)
    assert (code, version) == (0, expected), said
    assert ("5 GB" in said) == (expected == PIN and not words)


def test_who_asks_for_the_cpu_build_never_gets_another(environment: Path, tmp_path: Path) -> None:
    code, version, said = installed(environment, tmp_path, (PIN,), (), "TORCH=cpu")
    assert code and not version and "no CPU build" in said


def test_the_first_demo_needs_no_torch() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted, seen = ["demo"], set()
    while wanted:
        for line in extras[wanted.pop()]:
            own = re.match(r"model-packager\[([\w,]+)\]", line)
            wanted += own[1].split(",") if own else []
            seen.add(re.split(r"[^\w-]", line)[0])
    assert "scikit-learn" in seen and not {"torch", "mlflow", "transformers"} & seen


def test_no_script_hides_a_library() -> None:
    """A script that runs by its path finds its own folder first, and with it a neighbour called like a library."""
    folders = [ROOT / "tests" / name for name in ("matrix", "e2e", "benchmarks")]
    scripts = {path.stem: path for folder in folders for path in folder.glob("*.py")}
    hidden = set(scripts) & (set(importlib.metadata.packages_distributions()) | set(sys.stdlib_module_names))
    assert not hidden - {"__init__"}, [scripts[name] for name in hidden]
