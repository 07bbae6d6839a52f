# SPDX-License-Identifier: Apache-2.0
"""Keras 3 models (`.keras`): what MLflow writes for keras and tensorflow, and bare files.

The file is data as long as no layer brings code of its own: a `Lambda` does, and Keras refuses it here (`safe_mode`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from packager.exporters import Port, Wishes, _mlflow, _table, _tensorflow

TOOLCHAIN: tuple[str, ...] = _tensorflow.TOOLCHAIN
EXTRA = _tensorflow.EXTRA
EXECUTES = False
LOOKS_FOR = "`model.keras` of MLflow's keras or tensorflow, or one `.keras` file"

_HINT = "save the model again with Keras 3 and layers of its own; a `Lambda` layer holds code and is refused"


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the file: anywhere in what MLflow wrote for keras or tensorflow, else the only one at the root."""
    if _mlflow.MLMODEL in paths:
        ours = _mlflow.flavor("keras", paths, read) or _mlflow.flavor("tensorflow", paths, read)
        found = [path for path in paths if path.endswith(".keras")] if ours else []
    else:
        found = [path for path in paths if path.endswith(".keras") and "/" not in path]
    return found[0] if len(found) == 1 else None


def load(source: Path, payload: str, wishes: Wishes) -> _tensorflow.Function:
    """Open the file. Raises StepError for what Keras cannot read without running code."""
    lib = _tensorflow.library()

    def attempt() -> Any:
        return lib.keras.models.load_model(str(source / payload), compile=False, safe_mode=True)

    model = _table.refused(f"`{payload}` cannot be opened by Keras", attempt, _HINT)
    ports = [_port(lib, index, tensor, len(model.inputs)) for index, tensor in enumerate(model.inputs)]

    def call(*given: Any) -> list[Any]:
        return list(lib.nest.flatten(model(given[0] if len(given) == 1 else list(given), training=False)))

    names = ["output"] if len(model.outputs) == 1 else [f"output_{index}" for index in range(len(model.outputs))]
    return _tensorflow.opened(call, ports, names, model, wishes)


def _port(lib: Any, index: int, tensor: Any, count: int) -> Port:
    name = str(tensor.name or "").partition(":")[0]
    generated = not name or name.startswith("keras_tensor")
    plain = "input" if count == 1 else f"input_{index}"
    return _tensorflow.port(plain if generated else name, lib.TensorSpec(tensor.shape, tensor.dtype))
