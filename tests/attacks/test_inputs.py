# SPDX-License-Identifier: Apache-2.0
"""No input file, also no untrusted one, shows a bug; `input_fuzz` makes them, and runs for longer."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from packager.cli import main
from packager.errors import WrongContentError
from packager.files import walk_regular
from packager.store.store import Store
from packager.transport import copy
from tests.attacks.input_fuzz import BOMBS, KINDS, attempt, cases
from tests.support import bundles
from tests.support.breadth import ALL

SEED = random.SystemRandom().randrange(1 << 32)
CASES = 25 if ALL else 10  # other ones in each run


@pytest.mark.parametrize("name", KINDS)
def test_every_input_gives_a_result_or_a_packager_error(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    for number, data in enumerate(cases(kind, random.Random(SEED), CASES)):
        why = attempt(kind, data, tmp_path)
        assert why is None, f"seed {SEED}, case {number} of {name}: {data[:300]!r}\n{why}"


@pytest.mark.parametrize("name", KINDS)
def test_the_seeds_mean_something(name: str, tmp_path: Path) -> None:
    """A fuzzer around files that are refused at once would try little."""
    assert len(BOMBS) > 40
    for seed in KINDS[name].seeds:
        assert attempt(KINDS[name], seed.encode(), tmp_path) is None


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder so deep that its innermost file has no name that the system takes."""
    monkeypatch.chdir(tmp_path)
    top = tmp_path / "deep"
    top.mkdir()
    at = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("dddd", dir_fd=at)
        inner = os.open("dddd", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(os.open("model.onnx", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)
    yield top
    subprocess.run(["rm", "-rf", str(top)], check=True)


def test_too_deep_tree_is_neither_source_nor_bundle(
    deep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PACKAGER_STORE", "store")
    Path("bundle.yaml").write_text("name: d\nversion: 1.0.0\nsource: ./deep\n")
    for words, code in ((["lock"], 3), (["init", "./deep", "-o", "x.yaml"], 3), (["inspect", "./deep"], 3)):
        assert main(words) == code
        assert "nested too deeply" in capsys.readouterr().err
    copy.save(bundles.make(Store(Path("made"))), Path("layout"))
    deep.rename("layout/blobs/deep")
    try:
        assert main(["verify", "layout", "--key", "k.pub"]) != 70
        with pytest.raises(WrongContentError, match="nested too deeply"):
            dict(walk_regular(Path("layout")))
    finally:
        Path("layout/blobs/deep").rename(deep)
