# SPDX-License-Identifier: Apache-2.0
"""One model compiled for four runtimes, through the command line: what is promised, measured, said, and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packager.runtimes import _gpu
from safetensors.numpy import load_file

from tests.e2e.conftest import Project
from tests.e2e.test_failures import clear

pytestmark = [
    pytest.mark.skipif(bool(_gpu.list_capabilities()), reason="these tests say what a host without a GPU does"),
]

RECIPE = """
name: net
version: 1.0.0
source: model.onnx
inputs: {image: {dtype: float32, shape: [batch, 1, 8, 8], range: [0, 1]}}
dynamic: {batch: [1, 64]}
calibration: images.npz
tolerance: {int8: {atol: 0.05, rtol: 0.05}}
runs-on:
  onnxruntime: {versions: ">=1.17", precision: [fp32, int8], devices: [cpu]}
  openvino: ">=2024.6"
  tensorrt-rtx: {versions: "1.7.*", devices: sm_86, precision: fp16}
"""


def write_model(folder: Path) -> None:
    """A convolution, a pool and a product with seeded weights, and data to calibrate it on."""
    import onnx
    from onnx import numpy_helper

    text = """<ir_version: 8, opset_import: ["" : 18]>
net (float[batch, 1, 8, 8] image) => (float[batch, 10] scores) {
    a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w)
    b = Relu (a)
    c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
    d = Flatten (c)
    scores = Gemm (d, m)
}"""
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(text)
    for name, shape in (("w", (8, 1, 3, 3)), ("m", (128, 10))):
        model.graph.initializer.append(numpy_helper.from_array(random.normal(0, 0.2, shape).astype("float32"), name))
    onnx.save(model, folder / "model.onnx")
    rows = random.random((64, 1, 8, 8), dtype="float32")
    rows[0], rows[1] = 0, 1
    np.savez(folder / "images.npz", image=rows)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("targets")
    (root / "project").mkdir()
    write_model(root / "project")
    project = Project(root / "project", root / "store")
    project.write(RECIPE)
    project.run("lock")
    return project


@pytest.fixture(scope="module")
def built(net: Project) -> Any:
    return net.run("build", "--locked", "--json")


@pytest.fixture(scope="module")
def tree(net: Project, built: Any) -> Path:
    net.run("keygen", "release")
    net.run("sign", "net:1.0.0", "--key", "release.pem")
    assert "only allowed formats" in net.run("verify", "net:1.0.0", "--key", "release.pub").stdout
    net.run("unpack", "net:1.0.0", "tree", "--key", "release.pub")
    return net.folder / "tree"


def test_what_could_not_run_here_is_a_warning(built: Any) -> None:
    assert built["verdict"]["ok"]
    (finding,) = built["verdict"]["findings"]
    assert finding["level"] == "warning" and "`tensorrt-rtx-sm_86-fp16` was not measured here" in finding["message"]
    assert built["targets"] == [
        "onnxruntime-cpu-fp32",
        "onnxruntime-cpu-int8",
        "openvino-cpu-fp32",
        "tensorrt-rtx-sm_86-fp16",
    ]


def test_the_contract_says_what_each_artefact_is(tree: Path) -> None:
    targets = json.loads((tree / "contract.json").read_bytes())["targets"]
    about = {name: target["artefact"] for name, target in targets.items()}
    assert {name: (entry["reproducibility"], entry["needs"]) for name, entry in about.items()} == {
        "onnxruntime-cpu-fp32": ("bitwise", {}),
        "onnxruntime-cpu-int8": ("recorded", {}),
        "openvino-cpu-fp32": ("bitwise", {}),
        "tensorrt-rtx-sm_86-fp16": ("recorded", {"gpu": "sm_86"}),
    }
    engine = about["tensorrt-rtx-sm_86-fp16"]
    assert engine["header"]["gpus"] == ["sm_86"] and engine["toolchain"]["tensorrt-rtx"] == engine["header"]["version"]
    assert about["onnxruntime-cpu-int8"]["calibration"].startswith("sha256:")
    assert about["onnxruntime-cpu-fp32"]["toolchain"] == {}
    assert all((tree / target["path"]).is_file() for target in targets.values())


def test_reference_inputs_travel_and_outputs_do_not(tree: Path) -> None:
    index = json.loads((tree / "vectors" / "index.json").read_bytes())
    assert {row["lengths"]["batch"] for row in index["cases"]} >= {1, 2, 64}
    for row in index["cases"]:
        image = load_file(tree / "vectors" / "inputs" / f"{row['file']}.safetensors")["image"]
        assert image.shape == (row["lengths"]["batch"], 1, 8, 8) and image.min() >= 0 and image.max() <= 1
    assert not list(tree.rglob("outputs*"))


def test_the_same_digest_from_another_directory(net: Project, built: Any, tmp_path: Path) -> None:
    for name in ("bundle.yaml", "bundle.lock", "model.onnx", "images.npz"):
        (tmp_path / "else where").mkdir(exist_ok=True)
        shutil.copy(net.folder / name, tmp_path / "else where" / name)
    other = Project(tmp_path / "else where", tmp_path / "store")
    assert other.run("build", "--locked", "--json", PYTHONHASHSEED="5", TZ="Asia/Tokyo")["digest"] == built["digest"]


def test_a_profile_may_demand_that_everything_was_measured(net: Project, built: Any) -> None:
    (net.folder / "strict.yaml").write_text("rules: [parity, deterministic, measured]\n")
    net.write(RECIPE + "policy: strict.yaml\n")
    done = net.run("build", "--locked", code=1)
    assert "error: target `tensorrt-rtx-sm_86-fp16` was not measured: this host has no NVIDIA GPU" in done.stderr
    assert "no bundle was made" in done.stderr
    net.write(RECIPE)


def test_other_data_makes_another_artefact_and_nothing_else(net: Project, built: Any) -> None:
    """Under another version, because the name of a bundle moves to what was built last."""
    kept = (net.folder / "images.npz").read_bytes()
    net.write(RECIPE.replace("1.0.0", "2.0.0"))
    same = net.run("build", "--locked", "--json")
    assert same["executed"] == 0
    rows = np.load(net.folder / "images.npz")["image"]
    np.savez(net.folder / "images.npz", image=rows[: len(rows) // 2])
    again = net.run("build", "--locked", "--replace", "--json")
    (net.folder / "images.npz").write_bytes(kept)
    net.write(RECIPE)
    assert again["executed"] in (1, 2), "int8 is compiled anew; if its ranges come out the same, that is all"
    assert again["digest"] != same["digest"], "the contract names the data"


def test_an_engine_cannot_be_installed_by_us(net: Project, tree: Path, tmp_path: Path) -> None:
    done = net.run(
        "install", "net:1.0.0", tmp_path / "srv", "--key", "release.pub", "--target", "tensorrt-rtx-sm_86-fp16", code=2
    )
    clear(done, "`packager serve` does not drive", "onnxruntime-cpu-fp32")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("tolerance: {int8: {atol: 0.05, rtol: 0.05}}\n", ""), 2, ("`int8` is promised without a tolerance",)),
        (("images.npz", "other.npz"), 2, ("`other.npz` is not there",)),
        (("calibration: images.npz\n", ""), 4, ("this source offers none", "int8_dynamic")),
        (("devices: sm_86", "devices: sm_90"), 2, ("no target `sm_90`", "sm_121")),
        (("openvino:", "onnx-runtime:"), 2, ("onnx-runtime", "did you mean `onnxruntime`")),
        (
            ('tensorrt-rtx: {versions: "1.7.*"', 'tensorrt: {versions: ">=11"'),
            4,
            ("must be built on the GPU it runs on: this host has no NVIDIA GPU", "remove the target"),
        ),
    ],
)
def test_what_is_refused(change: tuple[str, str], code: int, words: tuple[str, ...], net: Project, built: Any) -> None:
    """In a folder of its own, with the store of the others, so that only what changed runs."""
    folder = net.folder.parent / "refused"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("model.onnx", "images.npz"):
        shutil.copy(net.folder / name, folder / name)
    project = Project(folder, net.store)
    assert change[0] in RECIPE
    project.write(RECIPE.replace(*change))
    clear(project.run("build", code=code), *words)
