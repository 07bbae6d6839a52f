# SPDX-License-Identifier: Apache-2.0
"""Every hostile sample ends in one clear error of its own, with the right exit code, and no payload ever runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from packager.errors import SourceError
from tests.conftest import Run
from tests.hostile.samples import SAMPLES

HEAVY = {
    "pt2-with-a-pickle",
    "torch-legacy-allowed",
    "skops-bomb",
    "skops-distribution",
    "safetensors-huge-header",
    "pickle-named-safetensors",
}  # their libraries take seconds to load
WORKER = [name for name, sample in SAMPLES.items() if name.startswith("onnx") and sample.code == 4]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "PWNED"


def marked(name: str) -> object:
    slow = name in HEAVY or (name in WORKER and name != "onnx-terabyte")
    return pytest.param(name, marks=pytest.mark.slow) if slow else name


@pytest.mark.parametrize("name", map(marked, SAMPLES))
def test_it_is_refused_before_anything_runs(packager: Run, tmp_path: Path, canary: Path, name: str) -> None:
    sample = SAMPLES[name]
    (tmp_path / "model").mkdir()
    source = sample.write(tmp_path / "model", str(canary))
    (tmp_path / "bundle.yaml").write_text(f"name: m\nversion: 1.0.0\nsource: {source}\n{sample.recipe}")
    done = packager("build", code=sample.code)
    errors = [row for row in done.stderr.splitlines() if row.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert sample.words in errors[0], done.stderr
    assert "Traceback" not in done.stderr
    assert not canary.exists()
    assert not list((tmp_path / "store").glob("v1/bundles/*/*"))
    assert not (tmp_path / "bundle.lock").exists() or sample.code == 4


OPENERS = {
    "pickle-os-system": "import pickle; pickle.load(open(f, 'rb'))",
    "pickle-eval": "import pickle; pickle.load(open(f, 'rb'))",
    "pickle-runpy": "import pickle; pickle.load(open(f, 'rb'))",
    "pickle-getattr": "import pickle; pickle.load(open(f, 'rb'))",
    "pickle-broken-tail": "import pickle; pickle.load(open(f, 'rb'))",
    "pickle-object-array": "import numpy; numpy.load(f, allow_pickle=True)",
    "pickle-named-onnx": "import pickle; pickle.load(open(f, 'rb'))",
    "pickle-in-zip": "import torch; torch.load(f, weights_only=False)",
    "pickle-bad-crc": "import torch; torch.load(f, weights_only=False)",
    "torch-save": "import torch; torch.load(f, weights_only=False)",
    "torch-legacy": "import torch; torch.load(f, weights_only=False)",
    "pt2-with-a-pickle": "import torch; torch.export.load(f)",
}


@pytest.mark.parametrize(
    "name", [n if "torch" not in OPENERS[n] else pytest.param(n, marks=pytest.mark.slow) for n in OPENERS]
)
def test_the_payloads_are_live(tmp_path: Path, canary: Path, name: str) -> None:
    """The control: opened without care, each of them runs; else the test above would prove nothing."""
    (tmp_path / "model").mkdir()
    SAMPLES[name].write(tmp_path / "model", str(canary))
    file = next(path for path in (tmp_path / "model").iterdir() if path.suffix != ".py")
    subprocess.run([sys.executable, "-c", f"f = {str(file)!r}; {OPENERS[name]}"], capture_output=True, check=False)
    assert canary.exists()


def test_every_sample_says_why() -> None:
    assert all(sample.why for sample in SAMPLES.values())
    assert len({sample.why for sample in SAMPLES.values()}) >= len(SAMPLES) - 1
    assert SourceError.code == 3
