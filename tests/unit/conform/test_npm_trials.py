# SPDX-License-Identifier: Apache-2.0
"""The program that tries graphs under node reads arrays of every type and sees what differs; packages are pinned.

A package that gives back what it is given stands for ONNX Runtime here; `tests/matrix/test_predictions.py` runs the
real ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from packager.runtimes import _npm
from packager.runtimes._trials import Trial, pack_arrays

from packager.errors import SourceError, StepError
from packager.lock import npm_environments

NODE = shutil.which("node")
ECHO = """
class Tensor { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } }
class Session {
  constructor(graph) { this.graph = graph; this.outputNames = []; }
  async run(feeds) {
    if (String(this.graph) === "die") process.abort();
    this.outputNames = Object.keys(feeds);
    return feeds;
  }
  async release() {}
}
exports.Tensor = Tensor;
exports.InferenceSession = {
  async create(bytes) {
    const graph = Buffer.from(bytes).toString();
    if (graph === "refuse") throw new Error("NOT_IMPLEMENTED: \\n  no kernel");
    return new Session(graph);
  },
};
"""
ARRAYS = {
    **{name: np.array([[1, 2, 3]], name) for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32")},
    "int64": np.array([-(2**40) - 1, 2**53 + 1]),
    "uint64": np.array([2**63 + 1], "uint64"),
    "float16": np.array([0.1, -65504, 6e-8, np.inf, np.nan], "float16"),
    "float32": np.array([[0.1], [np.nan], [-np.inf]], "float32"),
    "float64": np.array(0.1),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 3), "float32"),
    "string": np.array([["a", "Üb"], ["東京", ""]]),
}


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if NODE is None:
        pytest.skip("node is not installed")
    root = tmp_path_factory.mktemp("npm")
    package = root / "node_modules" / "onnxruntime-node"
    package.mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"name": package.name, "version": "9.9.9", "main": "main.js"}))
    (package / "main.js").write_text(ECHO)
    (root / "bin").mkdir()
    (root / "bin" / "node").symlink_to(NODE)
    return root / "bin" / "node"


def trial(given: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], graph: bytes = b"g") -> Trial:
    numbered = {str(index): array for index, array in enumerate(expected.values())}
    return Trial(graph, pack_arrays(given), pack_arrays(numbered), 1e-4)


def test_arrays_of_every_type_come_through(echo: Path) -> None:
    said = _npm.run_trials(echo, [trial({name: array}, {name: array}) for name, array in ARRAYS.items()])
    assert dict(zip(ARRAYS, said, strict=True)) == dict.fromkeys(ARRAYS, "ok")
    assert _npm.run_trials(echo, [trial(ARRAYS, ARRAYS)]) == ["ok"]
    facts = _npm.read_facts(echo)
    assert (facts["package"], facts["version"]) == ("onnxruntime-node", "9.9.9")


def test_what_differs_is_seen(echo: Path) -> None:
    one = np.array([1.0, 2.0], "float32")
    pairs = [
        (one, np.array([1.0, 2.001], "float32")),
        (one, np.array([1.0, np.nan], "float32")),
        (np.array([np.nan], "float32"), np.array([1], "float32")),
        (one, one.astype("float64")),
        (one, one.reshape(1, 2)),
        (np.array([2**53 + 1]), np.array([2**53])),
        (np.array(["a"]), np.array(["b"])),
        (np.array([0.1], "float16"), np.array([0.2], "float16")),
        (np.array([True]), np.array([False])),
    ]
    said = _npm.run_trials(echo, [trial({"x": given}, {"x": wanted}) for given, wanted in pairs])
    assert all(text.startswith("differs: output 0") for text in said), said
    assert _npm.run_trials(echo, [trial({"x": one}, {"x": one, "y": one})]) == ["differs: 1 outputs"]


def test_a_refusal_is_one_line_and_a_death_is_one_graphs(echo: Path) -> None:
    one = {"x": np.ones(1)}
    said = _npm.run_trials(echo, [trial(one, one, b"refuse"), trial(one, one, b"die"), trial(one, one), Trial(b"g")])
    assert said == ["NOT_IMPLEMENTED: no kernel", "died: signal 6", "ok", "ok"]


@pytest.mark.parametrize("package", ["ort", "ort@latest", "ort@^1.2.3", "../ort@1.2.3", "-g@1.2.3", "a b@1.2.3"])
def test_a_package_is_pinned(package: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no pinned package"):
        npm_environments.ensure_packages(package, tmp_path)


def test_without_npm_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StepError, match="`node` is needed here") as caught:
        npm_environments.ensure_packages("onnxruntime-node@1.30.0", tmp_path)
    assert "npm" in (caught.value.hint or "")


def test_a_package_that_cannot_be_had_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """npm says why, in one line."""
    for name, text in (("node", "exit 0"), ("npm", "echo 'npm error 404\n not there' >&2; mkdir -p $9/half; exit 1")):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(SourceError, match=r"cannot install ort@9\.9\.9: npm error 404 not there"):
        npm_environments.ensure_packages("ort@9.9.9", tmp_path / "cache")
    assert not [*(tmp_path / "cache").rglob("node")]
