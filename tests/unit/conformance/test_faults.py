# SPDX-License-Identifier: Apache-2.0
"""The suite as strangers run it: a cell file, an adapter program, pytest. Every planted fault is caught by its level."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from packager.lock import environments
from packager.runtime import load_conformance

sys.path.insert(0, str(Path(__file__).parents[3] / "conformance"))

from suite import processes

HERE = Path(__file__).parent
SUITE = Path(__file__).parents[3] / "conformance"
TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}


def write_model(folder: Path) -> None:
    """An MLP with two outputs of one shape, so that swapping them shows in their numbers alone."""
    random = np.random.default_rng(1)
    weights = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("a", (8, 16)), ("c", (16, 4)), ("d", (16, 4)))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("MatMul", ["t", "c"], ["y"]),
        helper.make_node("MatMul", ["t", "d"], ["z"]),
    ]
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", s]) for n, s in (("x", 8), ("y", 4), ("z", 4))
    ]
    graph = helper.make_graph(nodes, "mlp", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    item = {"dtype": "float32"}
    contract = {
        "format": 1,
        "interface": {
            "inputs": [{"name": "x", **item, "shape": ["batch", 8]}],
            "outputs": [{"name": name, **item, "shape": ["batch", 4]} for name in ("y", "z")],
            "dimensions": {"batch": {"min": 1, "max": 16}},
        },
        "targets": {"cpu": {"runtime": "onnxruntime", "tolerance": {"y": TOLERANCE, "z": TOLERANCE}}},
    }
    (folder / "contract.json").write_text(json.dumps(contract))


def digest(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


class Bench:
    """A model, its vectors, and a way to judge an adapter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_model(folder)
        (folder / "vectors").mkdir()
        cell = self.cell("reference", [sys.executable, str(HERE / "faulty.py"), "none"])
        self.run(sys.executable, "-m", "suite.vectors", cell, folder / "vectors")

    def run(self, *command: Any) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}  # of the tests' own run
        environment = {**kept, "PYTHONPATH": str(SUITE)}
        done = subprocess.run(
            list(map(str, command)), env=environment, capture_output=True, text=True, check=False, cwd=self.folder
        )
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return done

    def cell(self, name: str, adapter: list[str], **more: Any) -> Path:
        scratch = self.folder / name.replace(" ", "-")
        scratch.mkdir(exist_ok=True)
        files = {str(self.folder / file): digest(self.folder / file) for file in ("model.onnx", "contract.json")}
        value = {
            "name": name,
            "bundle": {"name": "mlp", "version": "1.0.0", "digest": "sha256:" + "0" * 64},
            "target": "cpu",
            "runtime": "onnxruntime",
            "version": onnxruntime.__version__,
            "device": "cpu",
            "contract": str(self.folder / "contract.json"),
            "vectors": str(self.folder / "vectors"),
            "model": str(self.folder / "model.onnx"),
            "scratch": str(scratch),
            "files": files,
            "adapter": adapter,
            "environment": {"PATH": os.environ["PATH"], "PYTHONPATH": str(SUITE), "HOME": str(scratch)},
            "library": "onnxruntime",
            **more,
        }
        path = scratch / "cell.json"
        path.write_text(json.dumps(value))
        return path

    def judge(self, program: str, fault: str, command: list[str] | None = None, **more: Any) -> Any:
        adapter = command or [sys.executable, str(HERE / f"{program}.py"), *fault.split()]
        cell = self.cell(f"{program} {fault}", adapter, **more)
        result = cell.parent / "result.json"
        suite = SUITE / "suite"
        done = self.run(
            sys.executable,
            "-P",
            "-m",
            "pytest",
            "-q",
            "-c",
            os.devnull,
            "--rootdir",
            suite,
            "-p",
            "suite.plugin",
            "-p",
            "no:cacheprovider",
            "--import-mode=importlib",
            suite,
            "--cell",
            cell,
            "--result",
            result,
        )
        verdict = json.loads(result.read_text())
        assert (done.returncode == 1) == any(check["outcome"] in ("fail", "known") for check in verdict["checks"])
        return verdict


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("faults"))


def failed(verdict: Any) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for check in verdict["checks"]:
        if check["outcome"] == "fail":
            found.setdefault(check["level"], []).append(check["name"])
    return found


def test_a_faultless_library_passes_every_level(bench: Bench) -> None:
    verdict = bench.judge("faulty", "none")
    assert verdict["outcome"] == "pass", verdict["reason"]
    assert set(verdict["levels"].values()) == {"pass"}
    assert verdict["identity"]["version"] == onnxruntime.__version__ and verdict["identity"]["pid"] > 1
    assert verdict["measures"]["drift"]["adapter"]["y"] == {"max_abs": 0.0, "bitwise": True}


# fault -> (level that must catch it, more members of the cell)
CAUGHT: dict[str, tuple[int, dict[str, Any]]] = {
    "other version": (1, {"level": 3}),
    "another process": (1, {"level": 3}),
    "falls back to CPU": (1, {"level": 3, "device": "cuda"}),
    "lies about the device": (1, {"level": 3, "device": "cuda"}),
    "drops a dimension": (2, {"level": 3}),
    "casts to fp16": (3, {"level": 3}),
    "first row for all rows": (3, {"level": 3}),
    "ignores batch order": (3, {"level": 3}),
    "normalises over the batch": (3, {"level": 3}),
    "swaps outputs": (3, {"level": 3}),
    "a bit of noise": (3, {"level": 3}),
    "poisoned by NaN": (3, {"level": 3}),
    "crashes on NaN": (3, {"level": 3}),
    "swallows unknown inputs": (4, {"level": 4}),
    "leaks 1 MB per request": (4, {"level": 4}),
    "ignores its knobs": (4, {"level": 4, "knobs": {"runtime.threads": 2}}),
    "ten times slower": (5, {"level": 5}),
}


FAST = {"falls back to CPU", "casts to fp16", "leaks 1 MB per request"}


@pytest.mark.parametrize("fault", [f if f in FAST else pytest.param(f, marks=pytest.mark.slow) for f in CAUGHT])
def test_a_fault_is_caught_by_its_level(bench: Bench, fault: str) -> None:
    level, more = CAUGHT[fault]
    verdict = bench.judge("faulty", fault, **more)
    found = failed(verdict)
    assert verdict["outcome"] == "fail"
    assert min(found) == level, found
    if level <= 1:
        assert all(word in ("fail", "skip") for word in list(verdict["levels"].values())[2:]), "later levels are moot"


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cuda", "tensorrt", "rtx", "sm_86", "ampere_plus"])
def test_no_name_of_a_gpu_can_be_claimed_without_its_driver(bench: Bench, device: str) -> None:
    verdict = bench.judge("faulty", "lies about the device", device=device, level=1)
    assert verdict["outcome"] == "fail" and "no process has mapped `libcuda.so`" in verdict["reason"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "level"),
    [
        ("metadata lies", 2),
        ("500 for bad input", 4),
        ("refuses without a word", 4),
        ("answers anything", 4),
        ("mixes up clients", 4),
        ("never ready", 4),
        ("must be killed", 4),
    ],
)
def test_a_servers_fault_is_caught_by_its_level(bench: Bench, fault: str, level: int) -> None:
    verdict = bench.judge("faulty_server", fault, channels=["http"], level=4)
    assert verdict["outcome"] == "fail" and min(failed(verdict)) == level, failed(verdict)


def test_a_faultless_server_passes(bench: Bench) -> None:
    verdict = bench.judge("faulty_server", "none", channels=["http"], level=4)
    assert verdict["outcome"] == "pass", failed(verdict)


def test_impossible_cell_is_skipped_and_never_passes(bench: Bench) -> None:
    verdict = bench.judge("faulty", "no device")
    assert (verdict["outcome"], verdict["reason"]) == ("skip", "no such device: driver not found")
    assert "pass" not in {check["outcome"] for check in verdict["checks"] if check["level"] > 0}


def test_hanging_runtime_is_ended_and_named(bench: Bench) -> None:
    verdict = bench.judge("faulty", "hangs", seconds=5, level=1)
    assert verdict["outcome"] == "fail" and "no answer to `infer` within 5 s" in verdict["reason"]
    assert not processes.family(verdict["identity"]["pid"])


@pytest.mark.slow
def test_known_deviation_excuses_nothing_else(bench: Bench) -> None:
    excuse = {"test_requests_leave_no_memory_behind": "it leaks", "test_reference_vectors[adapter-batch=1]": "it casts"}
    leak = bench.judge("faulty", "leaks 1 MB per request", level=4, deviations=excuse)
    assert leak["outcome"] == "pass"
    assert [check["reason"][:9] for check in leak["checks"] if check["outcome"] == "known"] == ["it leaks:"]
    assert bench.judge("faulty", "casts to fp16", level=3, deviations=excuse)["outcome"] == "fail", "never numbers"


def test_a_changed_file_fails_before_anything_runs(bench: Bench) -> None:
    changed = {str(bench.folder / "contract.json"): "sha256:" + "1" * 64}
    verdict = bench.judge("faulty", "none", files=changed, level=2)
    assert verdict["outcome"] == "fail" and verdict["levels"]["L0"] == "fail" and verdict["levels"]["L2"] == "skip"


def environment_of(runtime: str, version: str, cache: Path | None = None) -> str:
    """Build the environment of a runtime, once per user or in a separate cache."""
    lines = load_conformance(runtime).requirements(version, "3.11")
    place = cache or Path.home() / ".cache" / "packager-tests" / "environments"
    return str(environments.ensure_environment(lines, "3.11", place))


def triton(bench: Bench, name: str, numpy: str | None = None, **options: str) -> Any:
    """Judge Triton 2.51, with another numpy forced into its environment against the requirements of its packages."""
    python = environment_of("triton", "2.51.0", bench.folder / "environments" if numpy else None)
    if numpy:
        uv = importlib.import_module("uv").find_uv_bin()
        forced = [uv, "pip", "install", "--quiet", "--python", python, "--no-deps", f"numpy=={numpy}"]
        subprocess.run(forced, check=True, capture_output=True)
    adapter = [python, str(SUITE.parent / "runtimes" / "triton" / "adapter.py")]
    return bench.judge(
        "triton", name, command=adapter, runtime="triton", version="2.51", channels=["http"], level=3, options=options
    )


@pytest.mark.slow
def test_tritons_silently_wrong_numbers_under_numpy_2_are_caught_by_l3(bench: Bench) -> None:
    verdict = triton(bench, "unguarded", "2.2.6", model=str(HERE / "triton_numpy2.py"))
    assert verdict["levels"] == {"L0": "pass", "L1": "pass", "L2": "pass", "L3": "fail"}, verdict["reason"]
    assert "out of tolerance" in verdict["reason"] and verdict["identity"]["numpy"] == "2.2.6"


@pytest.mark.slow
def test_our_triton_model_refuses_numpy_2_at_load(bench: Bench) -> None:
    verdict = triton(bench, "guarded", "2.2.6")
    assert verdict["outcome"] == "fail" and verdict["levels"]["L1"] == "fail"
    assert triton(bench, "right")["outcome"] == "pass"


@pytest.mark.slow
def test_a_real_silent_fall_back_to_the_cpu_is_caught(bench: Bench) -> None:
    """onnxruntime-gpu lists CUDA, and without a GPU runs on the CPU without a word."""
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU: nothing falls back")
    python = environment_of("onnxruntime-gpu", "1.31.1")
    more = {"runtime": "onnxruntime-gpu", "version": "1.31.1", "device": "cuda", "level": 3}
    verdict = bench.judge(
        "faulty", "unguarded CUDA", command=[python, str(HERE / "faulty.py"), "unguarded", "CUDA"], **more
    )
    assert verdict["outcome"] == "fail" and "silent fall-back" in verdict["reason"]
    adapter = SUITE.parent / "runtimes" / "onnxruntime" / "adapter.py"
    options = {"provider": "CUDAExecutionProvider"}
    honest = bench.judge("guarded", "CUDA", command=[python, str(adapter)], options=options, **more)
    assert honest["outcome"] == "skip" and "cannot be used on this machine" in honest["reason"]
