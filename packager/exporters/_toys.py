# SPDX-License-Identifier: Apache-2.0
"""Small models, one of each family, written by the family's own library, to try a locked toolchain on.

Runs in the worker, in the environment that is tried. A kind without a row here is tried by its imports alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.exporters._tensorflow import function

Toy = tuple[Callable[[Path], None], Mapping[str, JSON]]  # what writes it into a folder, and what a recipe would say


def toy_writer(kind: str) -> Toy | None:
    """Return what writes a model of `kind`."""
    return _TOYS.get(kind.replace("_", "-"))


def _rows() -> tuple[Any, Any]:
    numpy = importlib.import_module("numpy")
    rows = numpy.random.RandomState(0).randn(40, 3)
    return rows, (rows[:, 0] > 0).astype("int64")


def _estimator() -> Any:
    """A pipeline that ends in trees: their layout is what has changed most often."""
    compose = importlib.import_module("sklearn.pipeline").make_pipeline
    scaler = importlib.import_module("sklearn.preprocessing").StandardScaler()
    forest = importlib.import_module("sklearn.ensemble").RandomForestClassifier(2, max_depth=3, random_state=0)
    return compose(scaler, forest).fit(*_rows())


def _skops(folder: Path) -> None:
    (folder / "model.skops").write_bytes(importlib.import_module("skops.io").dumps(_estimator()))


def _pickled(folder: Path) -> None:
    importlib.import_module("joblib").dump(_estimator(), folder / "model.pkl")


def _xgboost(folder: Path) -> None:
    lib = importlib.import_module("xgboost")
    rows, labels = _rows()
    made = lib.train({"objective": "binary:logistic", "nthread": 1}, lib.DMatrix(rows, labels), 2)
    made.save_model(str(folder / "model.json"))


def _catboost(folder: Path) -> None:
    lib = importlib.import_module("catboost")
    rows, labels = _rows()
    made = lib.CatBoostClassifier(iterations=2, thread_count=1, logging_level="Silent", allow_writing_files=False)
    made.fit(rows, labels).save_model(str(folder / "model.cbm"))


def _lightgbm(folder: Path) -> None:
    lib = importlib.import_module("lightgbm")
    rows, labels = _rows()
    params = {"objective": "binary", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 2}
    lib.train(params, lib.Dataset(rows, labels), 2).save_model(str(folder / "model.lgb"))


def _network(keras: Any) -> Any:
    return keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2, activation="relu")])


def _keras(folder: Path) -> None:
    _network(function.library().keras).save(str(folder / "model.keras"))


def _keras_h5(folder: Path) -> None:
    function.library()
    _network(importlib.import_module("tf_keras")).save(str(folder / "model.h5"))


def _module(lib: Any) -> Any:
    class Affine(lib.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.weight = lib.constant([1.0, 2.0]), lib.Variable(lib.ones((3, 2)))

        @lib.function(input_signature=[lib.TensorSpec([None, 3], lib.float32, "x")])
        def __call__(self, x: Any) -> Any:
            return {"y": lib.matmul(x, self.weight) + self.shift}

    return Affine()


def _saved_model(folder: Path) -> None:
    lib = function.library()
    module = _module(lib)
    lib.saved_model.save(module, str(folder), signatures=module.__call__)


def _tflite(folder: Path) -> None:
    lib = function.library()
    module = _module(lib)
    call = module.__call__.get_concrete_function()
    (folder / "model.tflite").write_bytes(lib.lite.TFLiteConverter.from_concrete_functions([call], module).convert())


def _linear() -> tuple[Any, Any, Any]:
    lib = importlib.import_module("torch")
    return lib, lib.nn.Linear(3, 2).eval(), lib.ones(2, 3)


def _pt2(folder: Path) -> None:
    lib, layer, rows = _linear()
    shapes = ({0: lib.export.Dim("batch", min=1, max=8)},)
    lib.export.save(lib.export.export(layer, (rows,), dynamic_shapes=shapes), str(folder / "model.pt2"))


def _torchscript(folder: Path) -> None:
    lib, layer, _ = _linear()
    lib.jit.save(lib.jit.script(layer), str(folder / "model.ts"))


def _torch_pickle(folder: Path) -> None:
    lib, layer, _ = _linear()
    lib.save(layer, str(folder / "model.pth"))


def _transformers(folder: Path) -> None:
    lib = importlib.import_module("transformers")
    config = lib.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=16,
    )
    lib.BertModel(config).eval().save_pretrained(str(folder))


_MATRIX: Mapping[str, JSON] = {"inputs": {"x": {"dtype": "float32", "shape": ["batch", 3]}}}
_TOYS: Mapping[str, Toy] = {
    "catboost": (_catboost, {}),
    "keras": (_keras, {}),
    "keras-h5": (_keras_h5, {}),
    "lightgbm": (_lightgbm, {}),
    "pt2": (_pt2, {}),
    "savedmodel": (_saved_model, {}),
    "sklearn": (_skops, {}),
    "sklearn-pickle": (_pickled, {}),
    "tflite": (_tflite, {}),
    "torch-pickle": (_torch_pickle, _MATRIX),
    "torchscript": (_torchscript, _MATRIX),
    "transformers": (_transformers, {"dynamic": {"batch": [1, 4], "sequence": [1, 16]}}),
    "xgboost": (_xgboost, {}),
}
