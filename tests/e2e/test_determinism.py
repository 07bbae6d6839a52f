# SPDX-License-Identifier: Apache-2.0
"""One recipe, one lock, one source: one manifest digest, whatever the path, user, clock, locale, umask or CPU flags.

Each build starts from an empty store in a directory of its own. What the caller's environment says about arithmetic
must not reach the worker, so it is varied from outside; a control shows that it would change the bytes.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import CNN_RECIPE, Project, make_model

pytestmark = pytest.mark.cold  # workers run in these tests

PLAIN: dict[str, str] = {}
ODD = {
    "TZ": "Pacific/Kiritimati",
    "LANG": "tr_TR.UTF-8",
    "LC_ALL": "de_DE.UTF-8",
    "PYTHONHASHSEED": "4242",
    "ATEN_CPU_CAPABILITY": "avx2",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4",
    "MKL_CBWR": "AVX512",
    "OMP_NUM_THREADS": "2",
    "SOURCE_DATE_EPOCH": "1",
    "PYTHONDONTWRITEBYTECODE": "",
}
RECIPES = {
    "cnn": CNN_RECIPE,
    "sinus": "name: sinus\nversion: 1.0.0\nsource: ./model/model.pt2\n",
    "encoder": "name: encoder\nversion: 1.0.0\nsource: ./model\n",
}


def place(model: Path, folder: Path, *, backwards: bool) -> None:
    """Copy a model's files in name order or backwards, so that directory order differs."""
    files = sorted(path for path in model.rglob("*") if path.is_file())
    for path in reversed(files) if backwards else files:
        target = folder / path.relative_to(model)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def build(
    root: Path, model: Path, recipe: str, lock: Path | None, extra: dict[str, str], *, odd: bool
) -> tuple[str, Path]:
    """Build from nothing in `root`; return the manifest digest and the written layout."""
    root.mkdir(parents=True)
    project = Project(root, root / "store", extra)
    place(model, root / "model", backwards=odd)
    project.write(recipe)
    if lock is not None:
        shutil.copy(lock, root / "bundle.lock")
    else:
        project.run("lock")
    prefix = _other_user() if odd else ()
    answer = project.run("build", "--locked", "-o", "layout", "--json", prefix=prefix)
    assert answer["executed"] >= 2, "nothing came from a cache"
    return answer["digest"], root / "layout"


def _other_user() -> tuple[str, ...]:
    """Return a prefix that runs a command with another umask and, where the kernel lets us, as another user."""
    mask = ("sh", "-c", 'umask 077; exec "$@"', "sh")
    user = ("unshare", "--user", "--map-user=4321", "--map-group=4321")
    allowed = subprocess.run([*user, "true"], capture_output=True, check=False).returncode == 0
    return (*mask, *user) if allowed else mask


@pytest.mark.parametrize(
    "kind", [kind if kind == "cnn" else pytest.param(kind, marks=pytest.mark.slow) for kind in RECIPES]
)
def test_two_places_one_digest(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model = make_model(kind, tmp_path / "source") if kind == "sinus" else request.getfixturevalue(kind)
    first, layout = build(tmp_path / "a", model, RECIPES[kind], None, PLAIN, odd=False)
    deep = tmp_path / "another place" / "with a longer päth"
    second, other = build(deep / "b", model, RECIPES[kind], tmp_path / "a" / "bundle.lock", ODD, odd=True)
    assert first == second, _difference(layout, other)
    names = [{path.name for path in (root / "blobs" / "sha256").iterdir()} for root in (layout, other)]
    assert names[0] == names[1]


def _difference(one: Path, other: Path) -> str:
    done = subprocess.run(["diff", "-rq", str(one), str(other)], capture_output=True, text=True, check=False)
    return done.stdout


def test_the_environment_would_matter() -> None:
    """The control: without pinning, the same arithmetic gives other bits on this very machine."""
    code = """
import hashlib, numpy
x = numpy.exp(numpy.sin(numpy.arange(4096, dtype=numpy.float32) * 0.01))
print(hashlib.sha256(x.tobytes()).hexdigest())
"""
    answers = set()
    for extra in ({}, {"NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4"}):
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(command, env={**os.environ, **extra}, capture_output=True, text=True, check=True)
        answers.add(done.stdout)
    probe = "from numpy._core._multiarray_umath import __cpu_features__ as f; print(f.get('X86_V3', False))"
    if subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout != "True\n":
        pytest.skip("this CPU has no second instruction set to vary")
    assert len(answers) == 2


def test_file_order_and_time_stamps_do_not_reach_the_single_file(built: Project, tmp_path: Path) -> None:
    files = []
    for number in range(2):
        target = tmp_path / f"{random.Random(number).random()}" / "cnn.bundle.tar"
        built.run("sign", "cnn:1.2.3", "--key", "release.pem", "-o", target, TZ="Asia/Tokyo" if number else "UTC")
        files.append(target.read_bytes())
    assert files[0] == files[1]
