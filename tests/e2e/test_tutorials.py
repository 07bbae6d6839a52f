# SPDX-License-Identifier: Apache-2.0
"""Run the commands of the README and the tutorials as they stand, on real registries and servers.

Only the address of the clone, `registry.example.org` and the ports of servers are replaced.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support import forks, registry_server, triton_servers
from tests.support.environments import CACHE
from tests.support.tools import offline, tool
from tests.support.warm_store import WARM

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = ("sh", "-c", 'ip link set lo up && exec "$@"', "sh")
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BUILT = ("build", "dist", "tests")


def blocks(page: str, section: str = "") -> list[str]:
    """Return the shell blocks of a page, or of one of its sections."""
    text = (ROOT / page).read_text("utf-8")
    if section:
        found = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        assert found, section
        text = found[1]
    return BLOCK.findall(text)


def run(text: str, folder: Path, changes: dict[str, str] | None = None, prefix: tuple[str, ...] = ()) -> str:
    """Run commands in bash, which ends at the first one that fails; return their output."""
    for old, new in (changes or {}).items():
        text = text.replace(old, new)
    environment = {
        **forks.variables(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PACKAGER_STORE": str(folder / "store"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "LANG": "C.UTF-8",
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR") or str(CACHE.parent / "uv"),
    }
    done = subprocess.run(
        [*prefix, "bash", "-exuo", "pipefail", "-c", text],
        cwd=folder,
        env=environment,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0 and "Traceback" not in done.stdout, done.stdout[-6000:]
    return done.stdout


def trainer(folder: Path) -> None:
    for name in ("train.py", "registered.py"):
        shutil.copy(ROOT / "docs/examples/digits" / name, folder)


def on_a_free_port() -> dict[str, str]:
    """Return the change that moves a server from port 8000 to a free one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {"8000": str(probe.getsockname()[1])}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with registry_server.registry(tool("docker-registry"), tmp_path_factory.mktemp("registry")) as running:
        yield {"registry.example.org/models": f"{running.host}/models"}


# the first tutorial, and the front page


@pytest.fixture(scope="module")
def first_bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the first tutorial but for its installation, with the tools that run the tests."""
    tool("curl")
    folder = tmp_path_factory.mktemp("first") / "digits"
    folder.mkdir()
    trainer(folder)
    WARM.lend(folder / "store")
    _install, *others = blocks("docs/tutorials/first-bundle.md")
    return folder, run("".join(others), folder, on_a_free_port())


def accuracies(output: str) -> tuple[str, str]:
    """Return the accuracy before and after, in the digits that were printed."""
    before, after = (
        re.findall(r'^\{.*"accuracy": ([\d.]+)', output, re.M),
        re.findall(r"^accuracy ([\d.]+)", output, re.M),
    )
    return before[0], after[0]


def test_first_bundle(first_bundle: tuple[Path, str]) -> None:
    before, after = accuracies(first_bundle[1])
    assert before == after
    digests = set(re.findall(r"^digits:0\.1\.0 (sha256:\w+)", first_bundle[1], re.M))
    assert len(digests) == 1


def test_readme_quick_start(first_bundle: tuple[Path, str], registry: dict[str, str]) -> None:
    """On the registry and store of the tutorial, so that only what the README adds is run."""
    folder, _ = first_bundle
    for name in ("bundle.yaml", "bundle.lock", "release.pem", "release.pub"):
        (folder / name).unlink()
    shutil.rmtree(folder / "site")
    publisher, operator = blocks("README.md", "Quick start")
    changes = {
        **registry,
        **on_a_free_port(),
        f"{publisher.splitlines()[0]}\n": "",
        f"{operator.splitlines()[0]}\n": "",
    }
    assert publisher.startswith("git clone ") and operator.startswith("pip install ")
    said = run(f"packager rm digits:0.1.0\n{publisher}{operator}\nkill %1", folder, changes)
    assert '"digits"' in said


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this repository without what was built in it, in a folder `packager`."""
    copy = tmp_path_factory.mktemp("clone") / "packager"

    def left_out(folder: str, names: list[str]) -> set[str]:
        top = set(BUILT) if Path(folder) == ROOT else set()
        return {name for name in names if name in {*top, "__pycache__"} or name.startswith(".") or ".egg-info" in name}

    shutil.copytree(ROOT, copy, ignore=left_out)
    return copy


@pytest.fixture(scope="module")
def from_nothing(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the first tutorial with its installation, in an empty folder."""
    tool("curl")
    folder = tmp_path_factory.mktemp("nothing")
    changes = {**on_a_free_port(), "git clone ADDRESS packager": f"cp -r {clone} packager"}
    return folder, run("".join(blocks("docs/tutorials/first-bundle.md")), folder, changes)


@pytest.mark.slow  # installs 600 MB
def test_first_bundle_from_an_empty_folder(from_nothing: tuple[Path, str]) -> None:
    before, after = accuracies(from_nothing[1])
    assert before == after


@pytest.mark.slow  # needs the environment of the test above
def test_readme_with_its_installation(
    from_nothing: tuple[Path, str], clone: Path, registry: dict[str, str], tmp_path: Path
) -> None:
    """In the environment of the tutorial, on its model registry, with a store of its own."""
    folder, _ = from_nothing
    shutil.copytree(folder / "digits", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("site", "release*"))
    for name in ("bundle.yaml", "bundle.lock"):
        (tmp_path / name).unlink()
    commands = "".join(blocks("README.md", "Quick start"))
    changes = {**registry, **on_a_free_port(), "git clone ADDRESS packager": f"cp -r {clone} packager"}
    said = run(f". {folder}/tools/bin/activate\n{commands}\nkill %1", tmp_path, changes)
    assert '"digits"' in said


# from registry to Triton, and the site without internet


@pytest.fixture(scope="module")
def published(registry: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Publish both versions; return the folder with the two files and the public key."""
    folder = tmp_path_factory.mktemp("publisher")
    trainer(folder)
    first, second, *_ = blocks("docs/tutorials/registry-to-triton.md")
    assert "pushed digits:1.0.0" in run(first, folder, registry)
    said = run("export MLFLOW_TRACKING_URI=sqlite:///$PWD/mlflow.db\n" + second, folder, registry)
    assert "pushed digits:1.1.0" in said
    locked = (folder / "bundle.lock").read_text()
    assert (folder / "digits-1.1.0.bundle.tar").is_file() and "1.1.0" not in locked
    return folder


def carry(folder: Path, published: Path, *names: str) -> None:
    for name in ("release.pub", *names):
        shutil.copy(published / name, folder)


@pytest.mark.slow  # two builds with carried wheels, and a Triton
def test_registry_to_triton(published: Path, registry: dict[str, str], tmp_path: Path) -> None:
    carry(tmp_path, published)
    _first, _second, pull, server, swap, elsewhere = blocks("docs/tutorials/registry-to-triton.md")
    assert server.startswith("tritonserver --model-repository models ")
    run(pull, tmp_path, registry)
    (tmp_path / "triton").mkdir()
    with triton_servers.tritonserver(tmp_path / "models", tmp_path / "triton", "--load-model", "digits") as running:
        run(swap, tmp_path, {**registry, "http://127.0.0.1:8000": f"http://{running.http}"})
    run(elsewhere, tmp_path, registry)
    kinds = {path.stem for path in (tmp_path / "deploy" / "manifests").glob("*.yaml")}
    assert {"deployment", "podmonitor", "networkpolicy"} <= kinds
    assert yaml.safe_load((tmp_path / "watch" / "rules.yaml").read_text())["groups"]


@pytest.mark.slow  # two builds with carried wheels, and an environment of the suite
def test_install_offline(published: Path, clone: Path, tmp_path: Path) -> None:
    tool("ip"), tool("curl")
    carry(tmp_path, published, "digits-1.0.0.bundle.tar", "digits-1.1.0.bundle.tar")
    stick, *site = blocks("docs/tutorials/install-offline.md")
    (tmp_path / "packager").symlink_to(clone)
    run(stick, tmp_path)
    said = run("".join(site), tmp_path, {}, (*offline(), *LOOPBACK))
    assert "uninstalled" in said or not (tmp_path / "site").exists()
    assert not (tmp_path / "site" / "releases").exists()
