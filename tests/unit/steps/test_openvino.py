# SPDX-License-Identifier: Apache-2.0
"""OpenVINO: its IR has the graph's interface and results, the same bytes everywhere, and opens in older versions."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as installed
import pytest
from onnx import TensorProto, helper
from packager.runtimes import openvino
from packager.runtimes.openvino import session

from packager import plugins
from packager.contract import runtime_tables
from packager.errors import StepError, UsageError
from tests.support.environments import python_with, run
from tests.unit.steps.conftest import Exported


def worst(facts: Any) -> float:
    return max(record["max_abs"] for case in facts["cases"] for record in case["outputs"].values())


@pytest.mark.parametrize(("precision", "loss"), [("fp32", 1e-6), ("fp16", 2e-3)])
def test_the_ir_computes_what_the_source_does(precision: str, loss: float, exported: Exported, tmp_path: Path) -> None:
    facts = exported.compiled(tmp_path, runtime="openvino", precision=precision)
    assert facts["path"] == "model.xml" and facts["artefact"]["reproducibility"] == "bitwise"
    assert facts["artefact"]["header"]["ir"] == 11
    assert worst(exported.measured(tmp_path, "model.xml", "openvino")) < loss
    weights = (tmp_path / "model.bin").stat().st_size / exported.facts["graph"]["bytes"]
    assert weights == pytest.approx({"fp32": 1.0, "fp16": 0.5}[precision], abs=0.02)


def test_ir_holds_no_trace_of_its_maker(exported: Exported, tmp_path: Path) -> None:
    for name in ("a", "b"):
        exported.compiled(tmp_path / name, runtime="openvino", precision="fp32")
    data = [(tmp_path / name / "model.xml").read_bytes() for name in ("a", "b")]
    assert data[0] == data[1]
    for trace in (str(tmp_path).encode(), b"OpenVINO Runtime", b"2026", b"/tmp"):
        assert trace not in data[0]


def test_a_graph_that_cannot_be_converted(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(b"nothing")
    broken = Exported(exported.source, exported.params, tmp_path, exported.facts)
    with pytest.raises(StepError, match="OpenVINO cannot convert the graph"):
        broken.compiled(tmp_path / "out", runtime="openvino", precision="fp32")


def test_one_session_serves_many_threads(exported: Exported, tmp_path: Path) -> None:
    exported.compiled(tmp_path, runtime="openvino", precision="fp32")
    opened = session.open_session(tmp_path / "model.xml", threads=1)
    assert opened.version == installed.__version__.partition("-")[0] and opened.provider == "CPU"
    assert [(port.name, port.dtype, port.shape) for port in opened.inputs] == [("image", "float32", (None, 1, 8, 8))]
    feeds = [{"image": np.full((n, 1, 8, 8), n / 10, "float32")} for n in range(1, 9)]
    expected = [opened.run(feed)[0] for feed in feeds]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(50):
            if not np.array_equal(opened.run(feeds[index])[0], expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(feeds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    with pytest.raises(ValueError, match="`image`: expected float32, got float64"):
        opened.run({"image": np.zeros((1, 1, 8, 8))})
    with pytest.raises(ValueError, match="expected device cpu, got npu"):
        session.open_session(tmp_path / "model.xml", threads=1, device="npu")


def _port(name: str, width: int) -> dict[str, Any]:
    return {"name": name, "dtype": "float32", "shape": ["batch", width]}


_CONTRACT = {
    "interface": {
        "inputs": [_port("x", 2)],
        "outputs": [_port("label", 4), _port("probabilities", 4)],
        "dimensions": {"batch": {"min": 1, "max": 8}},
    }
}


def test_outputs_keep_their_names_where_tensors_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling drops a cast that changes nothing, and its tensors then have three names, of which any is the first."""
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["a"], axis=1),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
        helper.make_node("Identity", ["b"], ["probabilities"]),
        helper.make_node("Relu", ["a"], ["c"]),
        helper.make_node("Cast", ["c"], ["label"], to=TensorProto.FLOAT),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in ("label", "probabilities")]
    made = helper.make_model(
        helper.make_graph(nodes, "g", [x], outputs), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(made, tmp_path / "model.onnx")
    contract = tmp_path / "contract.json"
    contract.write_text(json.dumps(_CONTRACT))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "conformance"))
    monkeypatch.setitem(sys.modules, "openvino_telemetry", None)
    adapter = importlib.import_module("packager.runtimes.openvino.adapter")
    core = installed.Core()
    installed.save_model(core.read_model(tmp_path / "model.onnx"), tmp_path / "model.xml", compress_to_fp16=False)
    for name in ("model.onnx", "model.xml"):
        opened = session.open_session(tmp_path / name, threads=1)
        assert [port.name for port in opened.outputs] == ["label", "probabilities"], name
        given = np.array([[-1, 2]], "float32")
        label, probabilities = opened.run({"x": given})
        assert (label.tolist(), probabilities.tolist()) == ([[0, 2, 0, 2]], [[-1, 2, -1, 2]])
        suite = adapter.Adapter()  # that of conformance, which knows nothing of the session
        suite.load({"model": str(tmp_path / name), "contract": str(contract)})
        assert [port["name"] for port in suite.metadata({})["outputs"]] == ["label", "probabilities"], name
        assert {key: value.tolist() for key, value in suite.infer({"x": given}).items()} == {
            "label": label.tolist(),
            "probabilities": probabilities.tolist(),
        }


def test_what_a_range_promises() -> None:
    assert plugins.load("runtimes", "openvino").level_for(">=2024.6") == (18, 8)
    assert openvino.promised(">=2025.1,<2026")[0] == "2025.2.0"
    assert openvino.requirements("==2024.3.*")[0] == "numpy<2"
    assert installed.__version__.partition("-")[0] in runtime_tables.load_shipped("openvino").rows
    with pytest.raises(UsageError, match="no known version of openvino is in `>=2099`"):
        openvino.level_for(">=2099")


RUN = """
import sys, numpy, openvino
core = openvino.Core()
config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
opened = core.compile_model(core.read_model(sys.argv[1]), "CPU", config)
x = numpy.linspace(0, 1, 4 * 64, dtype="float32").reshape(4, 1, 8, 8)
numpy.save(sys.argv[2], opened({"image": x})[0])
print(openvino.__version__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("version", ["2023.3.0", "2024.3.0", "2025.0.0", "2026.0.0"])
def test_measured_versions_open_what_the_newest_writes(version: str, exported: Exported, tmp_path: Path) -> None:
    exported.compiled(tmp_path, runtime="openvino", precision="fp32")
    here = session.open_session(tmp_path / "model.xml", threads=1)
    x = np.linspace(0, 1, 4 * 64, dtype="float32").reshape(4, 1, 8, 8)
    python = python_with(f"openvino=={version}", f"numpy{runtime_tables.load_shipped('openvino').rows[version].numpy}")
    assert run(python, RUN, tmp_path / "model.xml", tmp_path / "y.npy").startswith(version)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), here.run({"image": x})[0], atol=1e-6)
