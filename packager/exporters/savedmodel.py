# SPDX-License-Identifier: Apache-2.0
"""TensorFlow SavedModel directories: bare ones, and those inside MLflow's tensorflow and keras flavors.

The signature that the recipe names is exported, else `serving_default`. A SavedModel is a program whose operators can
read and write files, so a recipe must allow it; `.keras` files need no such permission.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from packager.edits import Edit
from packager.errors import StepError
from packager.exporters import ExportOptions
from packager.exporters._tensorflow import function as _tensorflow

TOOLCHAIN: tuple[str, ...] = _tensorflow.TOOLCHAIN
EXTRA = _tensorflow.EXTRA
EXECUTES = True
READS_OLDER = ("tensorflow",)  # by its own promise every later TensorFlow 2 reads a SavedModel
IS = "a SavedModel, a program that may read and write files"
LOOKS_FOR = "one `saved_model.pb`"
SIGNATURES = True  # a recipe may name one

_SIGNATURE = "serving_default"


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the path of the only `saved_model.pb`, wherever it lies."""
    found = [path for path in paths if path.rpartition("/")[2] == "saved_model.pb"]
    return found[0] if len(found) == 1 else None


def load(source: Path, payload: str, options: ExportOptions) -> _tensorflow.Function:
    """Open the directory at the signature that the recipe names. Raises StepError when it has none to serve."""
    lib, folder = _tensorflow.library(), (source / payload).parent
    model = _tensorflow.explain_failure(
        f"`{payload}` cannot be opened by TensorFlow {lib.__version__}",
        lambda: _opened(lib, folder),
        "save the model again with a current TensorFlow (`model.export`)",
    )
    function = _signature(model.signatures, options.signature)
    stated = function.structured_input_signature[1]
    inputs, outputs = sorted(stated), sorted(function.structured_outputs)

    def call(*given: Any) -> list[Any]:
        answers = function(**dict(zip(inputs, given, strict=True)))
        return [answers[name] for name in outputs]

    ports = [_tensorflow.port(name, stated[name]) for name in inputs]
    return _tensorflow.open_function(call, ports, outputs, model, options)


def _opened(lib: Any, folder: Path) -> Any:
    """Open what was saved, the state of an optimizer of Keras 2 too, which is no part of a signature.

    TensorFlow has no class for it since Keras 3 and opens none of the many models that were saved after training.
    """
    try:
        return lib.saved_model.load(str(folder))
    except AttributeError as error:
        if error.name != "add_slot":
            raise
    _revive_optimizers(lib)
    return lib.saved_model.load(str(folder))


def _revive_optimizers(lib: Any) -> None:
    """Register a class that holds what an optimizer kept for each variable, and does nothing with it."""

    class Slots(lib.Module):
        def add_slot(self, var: Any, slot_name: str, **_: Any) -> Any:
            return lib.Variable(lib.zeros_like(var), trainable=False, name=slot_name)

    loading = lib.__internal__.saved_model.load
    version = loading.VersionedTypeRegistration(
        object_factory=lambda _: Slots(),
        version=2,
        min_producer_version=1,
        min_consumer_version=1,
        setter=lambda *_: None,
    )
    loading.register_revived_type("optimizer", lambda _: False, versions=[version])


def _signature(known: Mapping[str, Any], wanted: str) -> Any:
    """Return the signature the recipe names, else the usual one, else the only one."""
    usable = sorted(name for name in known if not name.startswith("_"))
    name = wanted or (_SIGNATURE if _SIGNATURE in usable or len(usable) != 1 else usable[0])
    if name in usable:
        return known[name]
    listed = ", ".join(f"`{name}`" for name in usable)
    if not usable:
        raise StepError("the SavedModel has no signature", hint="save it with `signatures=` or `model.export`")
    raise StepError(
        f"the SavedModel has no signature `{name}`, only {listed}",
        hint=f"name one of them in the recipe: `export: {{signature: {usable[0]}}}`",
        edits=[Edit(("export", "signature"), usable[0])],
    )
