# SPDX-License-Identifier: Apache-2.0
"""Open Keras models: their inputs and outputs, and the reasons to refuse one. Runs in the worker only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from packager import error_causes
from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters import ExportOptions, Port
from packager.exporters._tensorflow import function

_UNKNOWN = re.compile(r"(?:Could not locate class|Unknown (?:layer|object)|Unrecognized keyword .* class):? '?(\w+)'?")
_CODE = ("Lambda", "__lambda__")
_EXPORT = "save it with `model.export(FOLDER)`, which needs no code to open, and register that SavedModel"
_LAMBDA = "replace it by layers of Keras, or save the model with `model.export(FOLDER)` and register that SavedModel"
_OTHERWISE = f"save the model again with a current Keras, or {_EXPORT}"


@dataclass(frozen=True, slots=True)
class File:
    """A file of Keras: what it is called, its configuration (None if it cannot be read) and what wrote and reads it."""

    payload: str
    config: JSON
    made: str = ""
    here: str = ""

    def parts(self) -> Iterator[dict[str, JSON]]:
        """Yield every object of the configuration that names a class, the outermost first."""
        return _parts(self.config)


def _parts(value: JSON) -> Iterator[dict[str, JSON]]:
    if isinstance(value, dict):
        if "class_name" in value:
            yield value
        for member in value.values():
            yield from _parts(member)
    elif isinstance(value, list):
        for member in value:
            yield from _parts(member)


def open_model(lib: Any, file: File, load: Callable[[], Any], options: ExportOptions) -> function.Function:
    """Return the model that `load` opens as a function. Raises StepError for one that needs code, or has no inputs."""
    try:
        model = load()
    except Exception as error:  # Keras raises of any class
        raise _refusal(file, error) from error
    if not getattr(model, "inputs", None):
        raise StepError(
            f"the model in `{file.payload}` does not say what it takes",
            hint="give it an `Input`, or call it once on data, and save it again",
        )
    ports = [_port(lib, index, tensor, len(model.inputs)) for index, tensor in enumerate(model.inputs)]

    structure = _structure(model)

    def call(*given: Any) -> list[Any]:
        return list(lib.nest.flatten(model(lib.nest.pack_sequence_as(structure, given), training=False)))

    names = ["output"] if len(model.outputs) == 1 else [f"output_{index}" for index in range(len(model.outputs))]
    return function.open_function(call, ports, names, model, options)


def _structure(model: Any) -> Any:
    """Return the inputs as the model takes them: a tensor, a list or a dictionary; a stack of layers may not say."""
    try:
        return model.input
    except (AttributeError, ValueError):
        return model.inputs[0] if len(model.inputs) == 1 else model.inputs


def refuse_code(file: File) -> None:
    """Raise StepError for a model with a `Lambda` layer: it holds Python code, which opening would run."""
    found = next((part for part in file.parts() if part["class_name"] in _CODE), None)
    if found is not None:
        named = f"`{_name(found)}`, a `Lambda` layer" if _name(found) else "a `Lambda` layer"
        raise StepError(f"`{file.payload}` holds {named}: opening it runs the code inside", hint=_LAMBDA)


def _name(part: dict[str, JSON]) -> str:
    config = part.get("config")
    return str(config.get("name") or "") if isinstance(config, dict) else ""


def _refusal(file: File, error: Exception) -> StepError:
    """Say what a model needs that Keras does not have: a custom class, another version."""
    unknown = _UNKNOWN.search(str(error))
    if name := unknown[1] if unknown else _custom(file):
        return custom_class_error(file, name)
    what = f"`{file.payload}` cannot be opened by Keras {file.here}"
    if file.made and file.made.split(".")[:2] != file.here.split(".")[:2]:
        return StepError(
            f"{what}, it was made with {file.made}: {error_causes.find_cause(error)}",
            hint=f"write `toolchain: locked` in the recipe, which opens it with its own version; or {_OTHERWISE}",
        )
    return StepError(f"{what}: {error_causes.find_cause(error)}", hint=_OTHERWISE)


def custom_class_error(file: File, name: str) -> StepError:
    """Return the refusal of a class that is not Keras's own."""
    return StepError(f"`{file.payload}` uses the class `{name}`, which Keras does not open by itself", hint=_EXPORT)


def _custom(file: File) -> str:
    """Return the name of the first class that the file registers from outside of Keras."""
    for part in file.parts():
        if "module" in part and not str(part["module"] or "").startswith(("keras", "builtins", "tf_keras")):
            return str(part["class_name"])
    return ""


def _port(lib: Any, index: int, tensor: Any, count: int) -> Port:
    name = str(tensor.name or "").partition(":")[0]
    generated = not name or name.startswith("keras_tensor")
    plain = "input" if count == 1 else f"input_{index}"
    return function.port(plain if generated else name, lib.TensorSpec(tensor.shape, tensor.dtype))
