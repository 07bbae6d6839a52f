# SPDX-License-Identifier: Apache-2.0
"""What several files of tests look at, made once in a run whatever process comes to it first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.files import hold_lock


def shared_directory(factory: pytest.TempPathFactory) -> Path:
    """Return the directory of all processes of a run."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a directory that `make` fills once for all processes of a run; nothing changes it afterwards."""
    root = shared_directory(factory)
    directory, done = root / f"once-{name}", root / f"once-{name}.done"
    with hold_lock(root / f"once-{name}.lock"):
        if not done.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            make(directory)
            done.touch()
    return directory
