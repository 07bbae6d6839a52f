# SPDX-License-Identifier: Apache-2.0
"""Tampering with real bundles: every file of the CNN's, through the command line for the exit codes."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from packager.trust.keys import load_public
from tests.e2e.conftest import Project
from tests.support.tampering import CHANGES, check_change, check_flips, files_of, flip


def spread(size: int) -> Iterable[int]:
    """First and last byte and a few between."""
    return sorted({0, size // 3, size // 2, size - 1})


@pytest.fixture(scope="module")
def forms(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("forms")
    built.run("sign", "cnn:1.2.3", "--key", "release.pem", "-o", root / "layout")
    built.run("unpack", "cnn.bundle.tar", root / "unpacked", "--key", "release.pub")
    return root


@pytest.mark.parametrize("form", ["layout", "unpacked"])
def test_every_file_of_a_real_bundle(built: Project, forms: Path, tmp_path: Path, form: str) -> None:
    key = load_public(built.folder / "release.pub")
    assert check_flips(forms / form, key, spread) >= 3 * len(files_of(forms / form))
    for change in CHANGES:
        check_change(forms / form, key, change, tmp_path)


@pytest.mark.parametrize("form", ["layout", "unpacked"])
def test_the_exit_code_is_five_and_the_path_is_named(built: Project, forms: Path, tmp_path: Path, form: str) -> None:
    for number, name in enumerate(files_of(forms / form)):
        if name.endswith(("index.json", "oci-layout")):
            continue
        copy = tmp_path / str(number)
        shutil.copytree(forms / form, copy)
        flip(copy / name, (copy / name).stat().st_size // 2)
        done = built.run("verify", copy, "--key", "release.pub", code=5)
        assert Path(name).name in done.stderr
        shutil.rmtree(copy)


@pytest.mark.slow  # a small bundle holds it by default
def test_the_single_file(built: Project, tmp_path: Path) -> None:
    path = Path(shutil.copy(built.folder / "cnn.bundle.tar", tmp_path / "cnn.bundle.tar"))
    size = path.stat().st_size
    for position in (0, 100, 520 + 3000, size // 3, size // 2, size - 3000, size - 1):
        flip(path, position)
        built.run("verify", path, "--key", "release.pub", code=5)
        flip(path, position)
    built.run("verify", path, "--key", "release.pub")
