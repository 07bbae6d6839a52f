# SPDX-License-Identifier: Apache-2.0
"""Detection sees names and small files, chooses the same kind every time, and says what it looked for."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import yaml

from packager import exporters, plugins
from packager.errors import SourceError

KINDS = plugins.names("exporters")


def read_nothing(path: str) -> bytes:
    raise AssertionError(f"{path} was read")


def mlflow(flavor: str, **table: str) -> bytes:
    return yaml.safe_dump({"flavors": {flavor: table, "python_function": {"data": "somewhere"}}}).encode()


@pytest.mark.parametrize(
    ("paths", "kind", "payload"),
    [
        (["model.onnx"], "onnx", "model.onnx"),
        (["net.onnx", "net.onnx.data"], "onnx", "net.onnx"),
        (["net.pt2"], "pt2", "net.pt2"),
        (["net.pth"], "torch-pickle", "net.pth"),
        (["config.json", "model.safetensors"], "transformers", "."),
        (["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"], "transformers", "."),
        (["config.json", "model.safetensors", "onnx/model.onnx"], "transformers", "."),
    ],
)
def test_plain_sources(paths: list[str], kind: str, payload: str) -> None:
    assert exporters.detect_kind(paths, read_nothing) == (kind, payload)


@pytest.mark.parametrize(
    ("flavor", "table", "paths", "kind", "payload"),
    [
        ("pytorch", {"model_data": "data"}, ["data/model.pt2"], "pt2", "data/model.pt2"),
        ("pytorch", {"model_data": "data"}, ["data/model.pth"], "torch-pickle", "data/model.pth"),
        ("onnx", {"data": "model.onnx"}, ["model.onnx"], "onnx", "model.onnx"),
        ("transformers", {"model_binary": "m"}, ["m/config.json", "m/model.safetensors"], "transformers", "m"),
        (
            "sentence_transformers",
            {},
            ["somewhere/config.json", "somewhere/model.safetensors"],
            "transformers",
            "somewhere",
        ),
    ],
)
def test_mlflow_directories(flavor: str, table: dict[str, str], paths: list[str], kind: str, payload: str) -> None:
    files = {"MLmodel": mlflow(flavor, **table), **dict.fromkeys([*paths, "conda.yaml", "requirements.txt"], b"")}
    assert exporters.detect_kind(files, files.__getitem__) == (kind, payload)


def test_data_comes_before_code_in_any_order() -> None:
    for paths in itertools.permutations(["model.onnx", "model.pt2", "model.pth"]):
        assert exporters.detect_kind(paths, read_nothing) == ("onnx", "model.onnx")


def test_nothing_known_lists_what_was_looked_for() -> None:
    with pytest.raises(SourceError) as caught:
        exporters.detect_kind(["README.md", "weights.h5"], read_nothing)
    assert caught.value.message == "the source holds no model of a known kind, got `README.md`, `weights.h5`"
    assert all(kind in (caught.value.hint or "") for kind in KINDS)


def test_two_candidates_are_no_answer() -> None:
    with pytest.raises(SourceError):
        exporters.detect_kind(["a.onnx", "b.onnx"], read_nothing)


def test_pickled_weights_are_refused_with_the_remedy() -> None:
    with pytest.raises(SourceError) as caught:
        exporters.detect_kind(["config.json", "pytorch_model.bin"], read_nothing)
    assert caught.value.message == "`pytorch_model.bin` is a pickle, expected `model.safetensors`"
    assert "save_pretrained" in (caught.value.hint or "")


@pytest.mark.parametrize("text", [b"\xff\xfe", b"- a\n- b", b"flavors: [", b"flavors: 3\n"])
def test_a_broken_mlmodel_is_a_clear_answer(text: bytes) -> None:
    with pytest.raises(SourceError):
        exporters.detect_kind(["MLmodel"], lambda path: text)


@pytest.mark.parametrize("kind", KINDS)
def test_every_exporter_provides_the_protocol(kind: str) -> None:
    module = exporters.exporter(kind)
    assert module.TOOLCHAIN and module.EXTRA and module.LOOKS_FOR
    assert module.EXECUTES is (kind.endswith("pickle") or kind in ("torchscript", "savedmodel"))


def test_detection_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom packager import exporters\n"
        "exporters.detect_kind(['config.json', 'model.safetensors'], lambda path: b'')\n"
        "print([m for m in ('torch', 'onnx', 'numpy', 'transformers', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
