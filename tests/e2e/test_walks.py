# SPDX-License-Identifier: Apache-2.0
"""The three walks of docs/tutorials/walks.md: every block of the page is run as it stands, on real registries and servers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support import registry_server, triton_servers
from tests.support.environments import CACHE
from tests.support.tools import offline, tool

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("walks")]
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tutorials" / "walks.md").read_text()
LOOPBACK = ("sh", "-c", 'ip link set lo up && exec "$@"', "sh")


def blocks(title: str) -> list[str]:
    """Return the shell blocks below a heading of the page."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section
    return re.findall(r"^```sh\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)


def typed(text: str, folder: Path, changes: dict[str, str], prefix: tuple[str, ...] = ()) -> str:
    """Run a block in bash, which ends at the first command that fails; return what it said."""
    for old, new in changes.items():
        text = text.replace(old, new)
    passed = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_"))}
    environment = {
        **passed,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
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


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with registry_server.registry(tool("docker-registry"), tmp_path_factory.mktemp("registry")) as running:
        yield {"registry.example.org/models": f"{running.host}/models"}


@pytest.fixture(scope="module")
def published(registry: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Walk as the publisher; return the folder with two releases and the public key."""
    folder = tmp_path_factory.mktemp("publisher")
    for name in ("train.py", "registered.py"):
        shutil.copy(ROOT / "docs/examples/digits" / name, folder)
    first, second = blocks("Who publishes")
    assert "pushed digits:1.0.0" in typed(first, folder, registry)
    said = typed("export MLFLOW_TRACKING_URI=sqlite:///$PWD/mlflow.db\n" + second, folder, registry)
    assert "pushed digits:1.1.0" in said
    locked = (folder / "bundle.lock").read_text()
    assert (folder / "digits-1.1.0.bundle.tar").is_file() and "1.1.0" not in locked
    return folder


def carry(folder: Path, published: Path, *names: str) -> None:
    for name in ("release.pub", *names):
        shutil.copy(published / name, folder)


def test_who_runs_the_platform(published: Path, registry: dict[str, str], tmp_path: Path) -> None:
    carry(tmp_path, published)
    first, server, last = blocks("Who runs the platform")
    assert server.startswith("tritonserver --model-repository models ")
    typed(first, tmp_path, registry)
    (tmp_path / "triton").mkdir()
    with triton_servers.tritonserver(tmp_path / "models", tmp_path / "triton", "--load-model", "digits") as running:
        typed(last, tmp_path, {**registry, "http://127.0.0.1:8000": f"http://{running.http}"})
    kinds = {path.stem for path in (tmp_path / "deploy" / "manifests").glob("*.yaml")}
    assert {"deployment", "podmonitor", "networkpolicy"} <= kinds
    assert yaml.safe_load((tmp_path / "watch" / "rules.yaml").read_text())["groups"]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """packager with what `[conform]` needs, as it would arrive on a stick."""
    folder, uv = tmp_path_factory.mktemp("stick") / "wheels", Path(sys.executable).parent / "uv"
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("model_packager-*.whl")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--only-binary",
            ":all:",
            "--dest",
            folder,
            f"{wheel}[conform]",
        ],
        check=True,
    )
    return folder


def test_who_operates_without_internet(published: Path, wheels: Path, tmp_path: Path) -> None:
    tool("ip"), tool("curl")
    carry(tmp_path, published, "digits-1.0.0.bundle.tar", "digits-1.1.0.bundle.tar")
    (tmp_path / "wheels").symlink_to(wheels)
    (text,) = blocks("Who operates without internet")
    said = typed(text, tmp_path, {}, (*offline(), *LOOPBACK))
    assert "uninstalled" in said or not (tmp_path / "site").exists()
    assert not (tmp_path / "site" / "releases").exists()
