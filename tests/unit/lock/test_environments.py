# SPDX-License-Identifier: Apache-2.0
"""Environments: one directory per content, built once, whole or not there."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from packager.errors import SourceError
from packager.events import Event, Finished
from packager.lock import environments

WANTED = ("iniconfig==2.0.0",)


def test_is_built_once_by_many(tmp_path: Path) -> None:
    seen: list[Event] = []
    with ThreadPoolExecutor(4) as pool:
        found = set(
            pool.map(lambda _: environments.ensure_environment(WANTED, sys.executable, tmp_path, seen.append), range(4))
        )
    (python,) = found
    assert [type(event) for event in seen].count(Finished) == 1
    code = "import importlib.metadata as m, sys; print(m.version('iniconfig'), sys.prefix)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2.0.0", str(python.parent.parent)]
    assert [path.name for path in tmp_path.iterdir()] == [python.parent.parent.name]


def test_the_name_follows_the_content_not_the_order(tmp_path: Path) -> None:
    one = environments.environment_directory(["a==1", "b==2"], "3.11", tmp_path)
    assert one == environments.environment_directory(["b==2", "a==1"], "3.11", tmp_path)
    assert one != environments.environment_directory(["a==1", "b==3"], "3.11", tmp_path)
    assert one != environments.environment_directory(["a==1", "b==2"], "3.12", tmp_path)


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="iniconfig"):
        environments.ensure_environment(["iniconfig==0.0.0.1"], sys.executable, tmp_path)
    with pytest.raises(SourceError):
        environments.ensure_environment([], "3.2", tmp_path)
    assert not list(tmp_path.iterdir())


def test_one_that_lost_its_interpreter_is_built_anew(tmp_path: Path) -> None:
    """An upgrade of the system's Python takes the interpreter away under the environment."""
    python = environments.ensure_environment([], sys.executable, tmp_path)
    python.unlink()
    python.symlink_to("/nonexistent/python")
    assert (
        subprocess.run(
            [environments.ensure_environment([], sys.executable, tmp_path), "-c", ""], check=False
        ).returncode
        == 0
    )


def test_machines_of_two_architectures_that_share_a_cache_share_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home directory on a network: the same interpreter's path, and other wheels behind the same requirements."""
    names = set()
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        names.add(environments.environment_directory(WANTED, "/usr/bin/python3", tmp_path))
    assert len(names) == 2


@pytest.mark.parametrize(("machine", "found"), [("x86_64", ("3.11",)), ("aarch64", ())])
def test_pythons_are_those_of_this_machines_wheels(
    machine: str, found: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index with one wheel, for x86-64."""
    page = tmp_path / "simple" / "native"
    page.mkdir(parents=True)
    wheel = make_wheel(page / "native-1.0-cp311-cp311-manylinux_2_17_x86_64.whl")
    (page / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    monkeypatch.setattr(platform, "machine", lambda: machine)
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "UV_DEFAULT_INDEX": page.parent.as_uri()}
    assert environments.pythons_for(["native==1.0"], ["3.11"], variables) == found


def make_wheel(path: Path) -> Path:
    name = "native-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/METADATA", "Metadata-Version: 2.1\nName: native\nVersion: 1.0\n")
        archive.writestr(f"{name}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\n")
        archive.writestr(f"{name}/RECORD", "")
    return path
