# SPDX-License-Identifier: Apache-2.0
"""One small network as a source, and what the steps make of it: computed once, used by every test here."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from packager.steps import compile, export, measure  # noqa: A004

LEVEL = {"opset": 18, "ir": 8, "seed": 0}


@dataclass(frozen=True)
class Exported:
    """A source, the tree of its graph, and the facts."""

    source: Path
    params: Mapping[str, Any]
    tree: Path
    facts: Mapping[str, Any]

    def measured(self, tree: Path, path: str, runtime: str = "onnxruntime") -> Any:
        known = {"interface": self.facts["interface"], "ranges": self.facts["ranges"]}
        params = {**self.params, **known, "runtime": runtime, "device": "cpu", "path": path}
        with tempfile.TemporaryDirectory() as out:
            return measure.run({"source": self.source, "artefact": tree}, Path(out), params)

    def compiled(self, out: Path, calibration: Path | None = None, **params: Any) -> Any:
        out.mkdir(exist_ok=True)
        target = {"runtime": "onnxruntime", "device": "cpu", "precision": "fp16", "path": "model/model.onnx"}
        known = {**LEVEL, **target, "versions": ">=1", "interface": self.facts.get("interface")}
        inputs = {"graph": self.tree} | ({"calibration": calibration} if calibration else {})
        return compile.run(inputs, out, {**known, **params})


def network() -> torch.nn.Module:
    """A classifier of 8×8 images: convolution, normalisation, attention-free, two outputs."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(512, 10),
        torch.nn.LayerNorm(10),
        torch.nn.Softmax(-1),
    ).eval()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    source = tmp_path_factory.mktemp("source")
    dims = ({0: torch.export.Dim.AUTO},)
    torch.export.save(torch.export.export(network(), (torch.randn(4, 1, 8, 8),), dynamic_shapes=dims), source / "m.pt2")
    inputs = {"image": {"dtype": "float32", "shape": ["batch", 1, 8, 8], "range": [0, 1]}}
    params = {"kind": "pt2", "payload": "m.pt2", "inputs": inputs, "dynamic": {"batch": [1, 16]}, **LEVEL}
    tree = tmp_path_factory.mktemp("graph")
    return Exported(source, params, tree, export.run({"source": source}, tree, {**params, "outputs": ["scores"]}))


Worker = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session")
def worker() -> Worker:
    """Return a function that starts a Python process with exactly the given environment."""

    def start(code: str, *arguments: str | Path, cwd: Path, env: Mapping[str, str]) -> subprocess.Popen[str]:
        everything = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), **env}
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=cwd, env=everything, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start
