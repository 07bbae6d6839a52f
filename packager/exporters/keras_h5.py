# SPDX-License-Identifier: Apache-2.0
"""Keras models in HDF5 (`.h5`, `.hdf5`): what Keras 1 and 2 wrote, and Keras 3 on request.

The library that reads Keras 2 today is `tf_keras`. It runs the code of a `Lambda` layer without consent, and imports
what a configuration names; so the configuration is read first, and refused when it names anything but Keras's own.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from packager.errors import MissingToolError, StepError
from packager.exporters import ExportOptions
from packager.exporters._files import mlflow
from packager.exporters._tensorflow import function, keras

TOOLCHAIN: tuple[str, ...] = ("tf-keras", *function.TOOLCHAIN)
EXTRA = "keras2"
EXECUTES = False
READS_OLDER = ("keras", "tensorflow")  # what Keras wrote itself, by its own promise
LOOKS_FOR = "one `.h5` or `.hdf5` file of Keras"

_ENDINGS = (".h5", ".hdf5")
_WEIGHTS = ("weights.h5", "tf_model.h5", "weights.hdf5")  # as Keras and transformers call what has no layers
_BETTER = (".onnx", ".safetensors")  # the same model in a form that needs no TensorFlow
_CALLS = ("TFOpLambda", "SlicingOpLambda")  # how Keras 2 writes a function of TensorFlow that is called on a tensor
_HARMLESS = re.compile(
    r"(compat\.v1\.)?(math|nn|linalg|image|signal|bitwise|random|keras\.(activations|backend)|__operators__)\.\w+|[a-z0-9_]+"
)
_POWERFUL = frozenset(
    {
        "function",
        "import_graph_def",
        "load_library",
        "load_op_library",
        "map_fn",
        "numpy_function",
        "py_function",
    }
)


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the file: anywhere in what MLflow wrote for keras or tensorflow, else the only one at the root."""
    found = [path for path in paths if path.endswith(_ENDINGS) and not path.endswith(_WEIGHTS)]
    if any(path.endswith(_BETTER) for path in paths):
        return None
    if mlflow.MLMODEL in paths:
        ours = mlflow.read_flavor("keras", paths, read) or mlflow.read_flavor("tensorflow", paths, read)
        found = found if ours else []
    else:
        found = [path for path in found if "/" not in path]
    return found[0] if len(found) == 1 else None


def load(source: Path, payload: str, options: ExportOptions) -> function.Function:
    """Open the file with the Keras of its generation. Raises StepError for one that is no model or brings code."""
    path = source / payload
    file = _described(path, payload)
    keras.refuse_code(file)
    _refuse_imports(file)
    lib = function.library()
    newer = file.made.startswith("3.")
    reader = lib.keras if newer else _legacy()
    described = replace(file, made=file.made if newer else "", here=str(reader.__version__))

    def attempt() -> Any:
        return reader.models.load_model(str(path), compile=False, safe_mode=True)

    return keras.open_model(lib, described, attempt, options)


def _described(path: Path, payload: str) -> keras.File:
    """Read the version and the configuration, which is JSON in an attribute; no layer is made."""
    h5py = importlib.import_module("h5py")
    try:
        with h5py.File(path, mode="r") as file:
            attributes = {
                name: _text(file.attrs[name]) for name in ("model_config", "keras_version") if name in file.attrs
            }
    except OSError:
        raise StepError(f"`{payload}` is not an HDF5 file, or is damaged") from None
    if "model_config" not in attributes:
        raise StepError(
            f"`{payload}` holds no model of Keras: weights without their layers, or data of another program",
            hint="save the whole model (`model.save`), not only its weights",
        )
    try:
        return keras.File(payload, json.loads(attributes["model_config"]), attributes.get("keras_version", ""))
    except ValueError:
        raise StepError(f"`{payload}` holds a broken configuration") from None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _legacy() -> Any:
    try:
        return importlib.import_module("tf_keras")
    except ImportError:
        raise MissingToolError("tf-keras", EXTRA) from None


def _refuse_imports(file: keras.File) -> None:
    """Raise StepError for a configuration that names a module outside of Keras, or a function that could do harm."""
    for part in file.parts():
        config, module = part.get("config"), str(part.get("module") or "keras")
        if part["class_name"] == "function" and isinstance(config, str):
            if not module.startswith(("keras", "tf_keras")):
                raise keras.custom_class_error(file, config)
        elif module.partition(".")[0] not in ("keras", "tf_keras", "builtins"):
            raise keras.custom_class_error(file, str(part["class_name"]))
        called = str(config.get("function", "")) if isinstance(config, dict) else ""
        if part["class_name"] in _CALLS and (not _HARMLESS.fullmatch(called) or called in _POWERFUL):
            raise StepError(
                f"`{file.payload}` calls `tf.{called}`, which may do more than compute",
                hint="save the model without it, or with `model.export(FOLDER)` and register that SavedModel",
            )
