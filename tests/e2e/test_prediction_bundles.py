# SPDX-License-Identifier: Apache-2.0
"""Prediction against proof with the two verbs: what `compat` says of a bundle is what `conform` finds on real runtimes.

ONNX Runtime, Triton (real servers, each with the ONNX Runtime that NVIDIA's image of that release carries) and OpenVINO.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Project
from tests.support import graphs

pytestmark = pytest.mark.slow
CACHE = Path.home() / ".cache" / "packager-tests"
ONNXRUNTIME = ("1.15.1", "1.16.3", "1.17.3", "1.18.1", "1.20.1", "1.23.2", "1.24.4", "1.31.1")
OPENVINO = ("2024.6.0", "2025.4.1", "2026.4.1")
TRITON = ("2.36.0", "2.39.0", "2.41.0", "2.46.0", "2.51.0")
Made = tuple[str, str, Callable[[], graphs.Graph]]  # the promises that a build accepts, and the source
MAKE: dict[str, Made] = {
    "everywhere": (">=1.15", "", lambda: graphs.convolution(18)),
    "gelu": (">=1.17", "", lambda: graphs.single("Gelu", 20)),
    "texts": (">=1.17", "", graphs.strings_at_20),
    "branch": (">=1.17", "", lambda: graphs.branch(20)),
    "int16": (">=1.23", "", lambda: graphs.quantised(21, "int16")),
}
FOR_OPENVINO: dict[str, Made] = {
    "everywhere": (">=1.15", ">=2024.6", lambda: graphs.convolution(18)),
    "mish": (">=1.17", ">=2024.6", lambda: graphs.single("Mish", 18)),
    "encoder": (">=1.17", ">=2024.6", lambda: graphs.encoder(17)),
    "gathered": (">=1.17", ">=2024.6", graphs.FOR_OPENVINO["Gather"]),
    "branch": (">=1.17", ">=2024.6", lambda: graphs.branch(18)),
    "resized": (">=1.17", ">=2024.6", lambda: graphs.resized(18, mode="nearest")),
    "steps": (">=1.17", ">=2026.4", lambda: graphs.repeated(18)),
    "rows": (">=1.17", ">=2026.4", lambda: graphs.scanned(18)),
}
RECIPE = """
name: {name}
version: 1.0.0
source: net.onnx
runs-on: {{onnxruntime: "{promise}"{more}}}
tolerance: {{default: {{atol: 1.0e-4, rtol: 1.0e-3}}}}
"""


def proven(
    folder: Path, name: str, made: Made, asks: list[str]
) -> tuple[dict[tuple[str, ...], str], dict[tuple[str, ...], str]]:
    """Build one bundle; return what is predicted and what was found, by runtime, version and target."""
    promise, other, make = made
    (folder / name).mkdir(parents=True)
    (folder / name / "net.onnx").write_bytes(make().graph)
    project = Project(folder / name, folder / "store")
    more = f', openvino: "{other}"' if other else ""
    project.write(RECIPE.format(name=name, promise=promise, more=more))
    project.run("build")
    runtimes = [word for ask in asks for word in ("--runtime", ask)]
    said = project.run("compat", f"{name}:1.0.0", *runtimes, "--json", code=None)["cells"]
    found = project.run(
        "conform", f"{name}:1.0.0", *runtimes, "--level", "L3", "--jobs", "2", "--cache", CACHE, "--json", code=None
    )["cells"]
    return (
        {(cell["runtime"], cell["version"], cell["target"]): cell["outcome"] for cell in said},
        {(cell["runtime"], cell["version"], cell["target"]): cell["outcome"] for cell in found},
    )


Confusion = collections.Counter[tuple[str, str, str]]


def compared(folder: Path, bundles: dict[str, Made], asks: list[str]) -> tuple[Confusion, list[tuple[str, ...]]]:
    """Count what was said and found of some bundles, and return where it differs."""
    confusion: Confusion = collections.Counter()
    wrong = []
    for name, made in bundles.items():
        said, found = proven(folder, name, made, asks)
        for (runtime, version, target), outcome in found.items():
            answer = said.get((runtime, version, target))
            if answer is None:  # OpenVINO also reads the canonical graph, of which compat says nothing
                assert runtime == "openvino" and target.startswith("onnxruntime"), (runtime, version, target)
                continue
            confusion[runtime, answer, outcome] += 1
            if (answer, outcome) not in (("ok", "pass"), ("no", "fail")) and answer != "unknown":
                wrong.append((name, runtime, version, target, answer, outcome))
    return confusion, wrong


def show(confusion: Confusion) -> None:
    print(f"\n{'runtime':12} {'compat says':12} {'pass':>5} {'fail':>5} {'skip':>5}")
    for runtime in sorted({runtime for runtime, _, _ in confusion}):
        for answer in ("ok", "no", "unknown"):
            counts = [confusion[runtime, answer, outcome] for outcome in ("pass", "fail", "skip")]
            print(f"{runtime:12} {answer:12} {counts[0]:5} {counts[1]:5} {counts[2]:5}")


def test_what_is_said_of_a_bundle_is_what_happens_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asks = [*(f"onnxruntime=={v}" for v in ONNXRUNTIME), *(f"triton=={v}" for v in TRITON)]
    confusion, wrong = compared(tmp_path, MAKE, asks)
    with capsys.disabled():
        show(confusion)
    assert not wrong
    known = sum(count for (_, answer, _), count in confusion.items() if answer != "unknown")
    assert known >= 60 and confusion["triton", "ok", "pass"] >= 8 and confusion["triton", "no", "fail"] >= 8


def test_what_is_said_of_ir_is_what_happens_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """OpenVINO opens what this build compiled; a Loop of the newest cannot be opened by an old one."""
    confusion, wrong = compared(tmp_path, FOR_OPENVINO, [f"openvino=={v}" for v in OPENVINO])
    with capsys.disabled():
        show(confusion)
    assert not wrong
    assert confusion["openvino", "ok", "pass"] >= 8 and confusion["openvino", "no", "fail"] >= 1
