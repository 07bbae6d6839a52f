# SPDX-License-Identifier: Apache-2.0
"""What is known about ONNX Runtime's versions, and what a range of them promises."""

from __future__ import annotations

import onnxruntime as installed
import pytest
from packager.runtimes import onnxruntime
from packaging.version import Version

from packager.contract import runtime_support, runtime_tables
from packager.errors import UsageError
from packager.runtime import load_runtime


def test_plug_in_provides_what_a_build_needs() -> None:
    module = load_runtime("onnxruntime")
    assert module.title == "ONNX Runtime"
    assert "onnxruntime" in module.toolchain
    assert module.is_graph("cpu", "fp32") and not module.is_graph("cpu", "fp16")
    assert module.is_graph("cuda", "fp32")
    with pytest.raises(UsageError, match="no target `npu` with precision `fp32`"):
        module.check_target("npu", "fp32")


def test_the_table_is_ordered_and_complete() -> None:
    found = runtime_tables.load_shipped("onnxruntime").rows
    assert list(found) == sorted(found, key=Version) and len(found) >= 29
    assert all(row.complete and row.complete <= row.opset["ai.onnx"] and row.python for row in found.values())
    assert installed.__version__ in found


@pytest.mark.parametrize(
    ("specifier", "oldest", "newest"),
    [
        (">=1.17", "1.17.0", "1.32.0"),
        (">=1.17,<1.20", "1.17.0", "1.19.2"),
        ("==1.23.*", "1.23.0", "1.23.2"),
        ("==1.17.1", "1.17.0", "1.17.3"),
        ("<1.16", "1.15.0", "1.15.1"),
    ],
)
def test_a_range_is_the_versions_in_it(specifier: str, oldest: str, newest: str) -> None:
    found = [
        row.version for row in runtime_support.list_promised(runtime_tables.load_shipped("onnxruntime"), specifier)
    ]
    assert (found[0], found[-1]) == (oldest, newest)


@pytest.mark.parametrize("version", ["1.15.0", "1.17.1", "1.23.2", "1.31.1", "1.32.0"])
def test_the_level_is_what_the_oldest_reads(version: str) -> None:
    opset, ir = onnxruntime.level_for(f">={version}")
    assert (opset, ir) == (18, 8)
    rows = runtime_support.list_promised(runtime_tables.load_shipped("onnxruntime"), f"=={version}")
    assert all(row.complete and row.ir and opset <= row.complete and ir <= row.ir for row in rows)


def test_requirements_know_what_metadata_forgot() -> None:
    assert onnxruntime.requirements(">=1.17")[:2] == ("numpy", "onnxruntime>=1.17")
    assert onnxruntime.requirements(">=1.15,<1.19")[0] == "numpy<2"
    assert onnxruntime.requirements("==1.19.0")[0] == "numpy"
    assert {line.partition(">")[0] for line in onnxruntime.requirements(">=1.17")[2:]} == {
        "granian",
        "orjson",
        "prometheus-client",
        "grpcio",
        "uvloop",
    }


def test_requirements_follow_the_devices() -> None:
    assert "onnxruntime-gpu[cuda,cudnn]>=1.20" in onnxruntime.requirements(">=1.20", ("cpu", "cuda"))
    assert "onnxruntime>=1.23" in onnxruntime.requirements(">=1.23", ("rtx",))
    assert "onnxruntime-ep-nv-tensorrt-rtx" in onnxruntime.requirements(">=1.23", ("rtx",))


@pytest.mark.parametrize(
    ("specifier", "message", "hint"),
    [
        (">=9", "no known version of onnxruntime is in `>=9`", "known are 1.15.0 to 1.32.0"),
        ("newest", "`newest` is not a version range", ">=1.17"),
    ],
)
def test_a_range_without_versions(specifier: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        onnxruntime.level_for(specifier)
    assert caught.value.message == message and hint in (caught.value.hint or "")
