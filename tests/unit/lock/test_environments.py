# SPDX-License-Identifier: Apache-2.0
"""Environments: one directory per content, built once, whole or not there."""

from __future__ import annotations

import subprocess
import sys
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
