# SPDX-License-Identifier: Apache-2.0
"""Export, compile and measure on a real network, end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from packager import canonical
from packager.errors import StepError
from packager.graph import canonicalise
from packager.steps import export
from tests.unit.steps.conftest import LEVEL, Exported


def worst(facts: Any) -> float:
    return max(record["max_abs"] for case in facts["cases"] for record in case["outputs"].values())


def test_the_facts_of_an_export(exported: Exported) -> None:
    assert exported.facts["interface"] == {
        "inputs": [{"name": "image", "dtype": "float32", "shape": ["batch", 1, 8, 8]}],
        "outputs": [{"name": "scores", "dtype": "float32", "shape": ["batch", 10]}],
        "dimensions": {"batch": {"min": 1, "max": 16}},
    }
    assert exported.facts["ranges"] == {"image": [0, 1]}
    assert exported.facts["graph"]["opset"] == {"ai.onnx": 18} and exported.facts["graph"]["ir"] == 8
    assert {"Conv", "Gemm", "LayerNormalization"} <= set(exported.facts["graph"]["operators"]["ai.onnx"])
    assert exported.facts["nondeterministic"] == []
    canonical.dump(exported.facts)


def test_graph_holds_no_trace_of_its_author(exported: Exported) -> None:
    data = (exported.tree / "model" / "model.onnx").read_bytes()
    for trace in (b"/tmp", b"/home", b"/root", b"site-packages", b"torch", b".py"):
        assert trace not in data


def test_the_source_and_the_graph_agree(exported: Exported, tmp_path: Path) -> None:
    facts = exported.measured(exported.tree, "model/model.onnx")
    assert {case["lengths"]["batch"] for case in facts["cases"]} >= {1, 2, 11, 16}
    assert 0 < worst(facts) < 1e-6
    assert facts["shortened"] == {}
    canonical.dump(facts)
    assert facts == exported.measured(exported.tree, "model/model.onnx")


def test_a_wrong_weight_shows(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported.tree / "model" / "model.onnx")
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(weights).copy()
    values.flat[0] += 0.1
    weights.raw_data = values.tobytes()
    onnx.save(model, tmp_path / "m.onnx")
    assert worst(exported.measured(tmp_path, "m.onnx")) > 1e-4


def test_half_precision_behind_the_same_interface(exported: Exported, tmp_path: Path) -> None:
    facts = exported.compiled(tmp_path)
    assert facts["path"] == "model.onnx" and facts["clipped"] == 0
    assert 0.5 < facts["graph"]["bytes"] / exported.facts["graph"]["bytes"] < 0.51
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert [(node.name, node.type) for node in session.get_inputs()] == [("image", "tensor(float)")]
    assert 1e-7 < worst(exported.measured(tmp_path, facts["path"])) < 2e-3


def test_half_precision_is_canonical_too(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    exported.compiled(tmp_path / "a")
    exported.compiled(tmp_path / "b")
    data = (tmp_path / "a" / "model.onnx").read_bytes()
    assert data == (tmp_path / "b" / "model.onnx").read_bytes()
    again = canonicalise.canonicalise(onnx.ModelProto.FromString(data), opset=18, ir=8)
    assert again.SerializeToString(deterministic=True) == data


AWKWARD = """
<ir_version: 8, opset_import: ["" : 18]>
net (float[n] x) => (float[n] y, float[n] z)
<float[1] limit = {100000.0}, float[1] one = {1.0}>
{
    a = Mul(x, one)
    low = Min(a, limit)
    high = Max(a, one)
    y = Add(low, high)
    z = CumSum(a, axis)
}
"""


def test_what_the_converter_leaves_broken_is_repaired(tmp_path: Path) -> None:
    """Two operators that stay fp32 share an input: the converter makes one cast per consumer, under one name."""
    model = onnx.parser.parse_model(AWKWARD)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, "int64"), "axis"))
    (tmp_path / "graph" / "model").mkdir(parents=True)
    onnx.save(model, tmp_path / "graph" / "model" / "model.onnx")
    (tmp_path / "out").mkdir()
    facts = Exported(tmp_path, {}, tmp_path / "graph", {}).compiled(tmp_path / "out")
    assert facts["clipped"] == 1
    x = np.array([0.5, 2, -3], "float32")
    y, z = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx")).run(None, {"x": x})
    np.testing.assert_allclose(y, [1.5, 4, -2], atol=1e-3)
    np.testing.assert_allclose(z, [0.5, 2.5, -0.5], atol=1e-3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"precision": "bf16"},
            "onnxruntime compiles fp16, fp32_optimised, int4, int8, int8_dynamic, mixed, got `bf16`",
        ),
        ({"opset": 17}, "the graph needs opset 18, expected at most 17"),
    ],
)
def test_what_cannot_be_compiled(exported: Exported, tmp_path: Path, params: Any, message: str) -> None:
    with pytest.raises(StepError, match=message):
        exported.compiled(tmp_path, **params)


class Picky(torch.nn.Module):
    """Fails for one batch size that the export cannot see."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(4).index_select(0, x[:, 0].long()).sum()


def test_a_source_that_fails_on_promised_inputs_names_them(tmp_path: Path) -> None:
    dims = ({0: torch.export.Dim.AUTO},)
    torch.export.save(torch.export.export(Picky(), (torch.ones(4, 2),), dynamic_shapes=dims), tmp_path / "m.pt2")
    inputs = {"x": {"dtype": "float32", "shape": ["batch", 2], "range": [0, 9]}}
    (tmp_path / "out").mkdir()
    with pytest.raises(StepError, match=r"the source fails on inputs within the promised ranges \(batch=\d+\)"):
        export.run(
            {"source": tmp_path}, tmp_path / "out", {"kind": "pt2", "payload": "m.pt2", "inputs": inputs, **LEVEL}
        )


class Filter(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[x > 0], torch.cat([x, x])


def test_the_stated_shapes_are_those_that_were_seen(tmp_path: Path) -> None:
    dims = ({0: torch.export.Dim.AUTO},)
    torch.export.save(torch.export.export(Filter(), (torch.ones(4, 2),), dynamic_shapes=dims), tmp_path / "m.pt2")
    (tmp_path / "out").mkdir()
    facts = export.run({"source": tmp_path}, tmp_path / "out", {"kind": "pt2", "payload": "m.pt2", **LEVEL})
    assert [output["shape"] for output in facts["interface"]["outputs"]] == [["data_output_0_0"], ["2*batch", 2]]


def test_an_artefact_that_does_not_load(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    with pytest.raises(StepError, match=r"`m\.onnx` does not load in onnxruntime"):
        exported.measured(tmp_path, "m.onnx")


# -- the same bytes wherever they are made

STEP = """
import json, sys
from pathlib import Path
from packager.steps import export
export.run({"source": Path(sys.argv[1])}, Path(sys.argv[2]), json.loads(sys.argv[3]))
"""

POSITIONS = '''
import torch
from torch import nn


class Positions(nn.Module):
    """Sinusoidal positions, computed in `forward`: the exporter folds them into the file."""

    def forward(self, x):
        place = torch.arange(64, dtype=torch.float32)[:, None]
        scale = torch.exp(torch.arange(0, 32, 2, dtype=torch.float32) * (-9.21 / 32))
        return x + torch.cat([torch.sin(place * scale), torch.cos(place * scale)], 1)
'''
CALLERS: list[dict[str, str]] = [
    {
        "ATEN_CPU_CAPABILITY": "avx2",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4",
        "TZ": "Asia/Kathmandu",
        "OMP_NUM_THREADS": "2",
    },
    {"OPENBLAS_CORETYPE": "Haswell", "LC_ALL": "C", "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4", "MKL_CBWR": "AVX2"},
]


def positions(folder: Path) -> Path:
    namespace: dict[str, Any] = {"__name__": "positions"}
    exec(POSITIONS, namespace)
    dims = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(namespace["Positions"](), (torch.randn(2, 64, 32),), dynamic_shapes=dims)
    torch.export.save(program, folder / "m.pt2")
    return folder


@pytest.mark.slow  # a whole build does by default: test_determinism.py
def test_two_processes_write_the_same_bytes(tmp_path: Path, worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another directory, caller, hash seed; and without pinning the caller's settings do reach the file."""
    from packager.sandbox.pinning import pin_numerics

    origin = tmp_path / "origin"
    origin.mkdir()
    positions(origin)
    params = json.dumps({"kind": "pt2", "payload": "m.pt2", **LEVEL})
    runs = [pin_numerics(), {**pin_numerics(), "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo"}]
    if "X86_V3" in supported():
        runs += [{}, {"NPY_ENABLE_CPU_FEATURES": " "}]
    running = []
    for index, environment in enumerate(runs):
        for name, value in CALLERS[index % 2].items():
            monkeypatch.setenv(name, value)
        home = tmp_path / f"home {index}" / ("deep" * index or "flat")
        shutil.copytree(origin, home / "source")
        (home / "out").mkdir()
        running.append((home, worker(STEP, home / "source", home / "out", params, cwd=home, env=environment)))
    graphs = []
    for home, process in running:
        _, log = process.communicate(timeout=300)
        assert process.returncode == 0, log
        graphs.append((home / "out" / "model" / "model.onnx").read_bytes())
    assert graphs[0] == graphs[1]
    if len(graphs) > 2:
        assert graphs[2] != graphs[3], "this test no longer sees what pinning is for"


def supported() -> list[str]:
    """Return what this CPU has of what numpy dispatches on."""
    umath = pytest.importorskip("numpy._core._multiarray_umath")
    return [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name]]
