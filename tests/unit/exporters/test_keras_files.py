# SPDX-License-Identifier: Apache-2.0
"""Files of Keras are judged by their configuration before a library is asked that would run what it names."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import pytest

from packager import exporters
from packager.errors import MissingToolError, StepError
from packager.exporters._tensorflow import keras as _keras
from tests.unit.exporters.conftest import detected, mlmodel, opened

DENSE = {"class_name": "Dense", "config": {"name": "dense", "units": 1}}
LAMBDA = {
    "class_name": "Lambda",
    "config": {"name": "double", "function": ["4wEA", None, None], "function_type": "lambda"},
}
EVIL = [
    (LAMBDA, "`double`, a `Lambda` layer: opening it runs the code inside"),
    ({"class_name": "TimeDistributed", "config": {"layer": LAMBDA}}, "`double`, a `Lambda` layer"),
    (
        {"class_name": "Dense", "config": {"activation": {"class_name": "__lambda__", "config": {"value": "4wEA"}}}},
        "a `Lambda` layer",
    ),
]
H5_ONLY = [
    (
        {"class_name": "Scaled", "module": "mypackage.layers", "config": {}},
        "the class `Scaled`, which Keras does not open by itself",
    ),
    (
        {
            "class_name": "Dense",
            "config": {"activation": {"class_name": "function", "module": "builtins", "config": "eval"}},
        },
        "the class `eval`",
    ),
    (
        {"class_name": "TFOpLambda", "config": {"function": "io.write_file"}},
        "calls `tf.io.write_file`, which may do more",
    ),
    ({"class_name": "TFOpLambda", "config": {"function": "raw_ops.WriteFile"}}, "calls `tf.raw_ops.WriteFile`"),
    ({"class_name": "TFOpLambda", "config": {"function": "load_op_library"}}, "calls `tf.load_op_library`"),
    ({"class_name": "TFOpLambda", "config": {"function": "keras.utils.get_file"}}, "calls `tf.keras.utils.get_file`"),
]
HARMLESS = (
    "math.multiply",
    "nn.relu",
    "__operators__.getitem",
    "concat",
    "compat.v1.nn.conv2d",
    "linalg.matmul",
    "cast",
)


def model(*layers: Any) -> dict[str, Any]:
    return {"class_name": "Sequential", "config": {"name": "model", "layers": list(layers)}}


def h5(path: Path, config: Any, version: str = "2.4.0") -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version
        if config is not None:
            file.attrs["model_config"] = config if isinstance(config, str) else json.dumps(config)
        file.create_group("model_weights")
    return path.parent


def keras(path: Path, config: Any) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.8.0"}))
        archive.writestr("config.json", json.dumps(config))
    return path.parent


def refusal(source: Path) -> StepError:
    with pytest.raises(StepError) as caught:
        opened(source)
    assert not isinstance(caught.value, MissingToolError) and caught.value.hint
    return caught.value


@pytest.mark.parametrize(("layer", "message"), EVIL)
def test_code_in_a_file_is_refused_in_both_forms(layer: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    assert message in refusal(h5(tmp_path / "old" / "m.h5", model(DENSE, layer))).message
    assert message in refusal(keras(tmp_path / "new" / "m.keras", model(DENSE, layer))).message


@pytest.mark.parametrize(("layer", "message"), H5_ONLY)
def test_what_keras_2_would_import_or_call_is_refused(layer: Any, message: str, tmp_path: Path) -> None:
    assert message in refusal(h5(tmp_path / "m.hdf5", model(DENSE, layer))).message


@pytest.mark.parametrize("function", HARMLESS)
def test_functions_that_compute_are_not(function: str, tmp_path: Path) -> None:
    layer = {"class_name": "TFOpLambda", "module": "keras.layers", "config": {"function": function}}
    with pytest.raises(MissingToolError, match="tensorflow"):
        opened(h5(tmp_path / "m.h5", model(DENSE, layer)))


def test_what_holds_no_model_is_named(tmp_path: Path) -> None:
    for name, config, message in (
        ("data.h5", None, "holds no model of Keras: weights without their layers, or data of another program"),
        ("broken.h5", "{", "a broken configuration"),
    ):
        (tmp_path / name).mkdir()
        with pytest.raises(StepError, match=message):
            opened(h5(tmp_path / name / name, config))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "m.h5").write_bytes(b"no HDF5")
    with pytest.raises(StepError, match="is not an HDF5 file, or is damaged"):
        opened(tmp_path / "text")
    (tmp_path / "renamed").mkdir()
    h5(tmp_path / "renamed" / "m.keras", model(DENSE))
    with pytest.raises(StepError) as caught:
        opened(tmp_path / "renamed")
    assert caught.value.hint == "a file in HDF5, the form of Keras 2, must end in `.h5`"


def test_where_they_are_found(tmp_path: Path) -> None:
    def held(*names: str) -> dict[str, bytes]:
        return dict.fromkeys(names, b"")

    for files, expected in (
        (held("model.h5"), ("keras-h5", "model.h5")),
        (held("model.hdf5", "notes.txt2"), ("keras-h5", "model.hdf5")),
        (held("nmp.tflite"), ("tflite", "nmp.tflite")),
        (held("model.onnx", "model.h5"), ("onnx", "model.onnx")),
        (held("config.json", "model.safetensors", "tf_model.h5"), ("transformers", ".")),
    ):
        found = exporters.detect_kind(files, lambda path: b'{"model_type": "bert"}')
        assert found[0] == expected[0], files
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "model.h5").write_bytes(b"")
    mlmodel(tmp_path, {"keras": {"data": "data", "keras_version": "2.4.0"}})
    assert detected(tmp_path) == ("keras-h5", "data/model.h5")


def file(**fields: Any) -> _keras.File:
    return _keras.File("m.keras", **{"config": model(DENSE), "made": "3.8.0", "here": "3.15.1", **fields})


@pytest.mark.parametrize(
    "text",
    [
        "Unknown layer: 'Scaled'. Please ensure you are using a scope",
        "Could not locate class 'Scaled'. Make sure",
        "could not be deserialized properly. Exception encountered: Could not locate class 'Scaled'",
    ],
)
def test_custom_class_is_refused_with_a_remedy(text: str) -> None:
    error = _keras._refusal(file(), ValueError(text))
    assert error.message == "`m.keras` uses the class `Scaled`, which Keras does not open by itself"
    assert "model.export(FOLDER)" in (error.hint or "")


def test_an_older_file_says_that_its_own_version_opens_it() -> None:
    error = _keras._refusal(file(), TypeError("Unrecognized keyword arguments passed to Dense: {'q': None}"))
    assert "cannot be opened by Keras 3.15.1, it was made with 3.8.0: TypeError: Unrecognized" in error.message
    assert (error.hint or "").startswith("write `toolchain: locked` in the recipe")
    same = _keras._refusal(file(here="3.8.1"), TypeError("Unrecognized keyword"))
    assert "locked" not in (same.hint or "")
