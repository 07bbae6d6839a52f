# SPDX-License-Identifier: Apache-2.0
"""TensorFlow SavedModel directories: bare ones, and those inside MLflow's tensorflow and keras flavors.

The signature `serving_default` is exported. A SavedModel is a program whose operators can read and write files, so a
recipe must allow it; `.keras` files need no such permission.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from packager.errors import StepError
from packager.exporters import Wishes, _table, _tensorflow

TOOLCHAIN: tuple[str, ...] = _tensorflow.TOOLCHAIN
EXTRA = _tensorflow.EXTRA
EXECUTES = True
IS = "a SavedModel, a program that may read and write files"
LOOKS_FOR = "one `saved_model.pb`"

_SIGNATURE = "serving_default"


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the path of the only `saved_model.pb`, wherever it lies."""
    found = [path for path in paths if path.rpartition("/")[2] == "saved_model.pb"]
    return found[0] if len(found) == 1 else None


def load(source: Path, payload: str, wishes: Wishes) -> _tensorflow.Function:
    """Open the directory. Raises StepError when it has no signature to serve."""
    lib, folder = _tensorflow.library(), (source / payload).parent
    model = _table.refused(
        f"`{payload}` cannot be opened by TensorFlow",
        lambda: lib.saved_model.load(str(folder)),
        "save the model again with the locked version of TensorFlow",
    )
    if _SIGNATURE not in model.signatures:
        known = ", ".join(f"`{name}`" for name in sorted(model.signatures)) or "none"
        raise StepError(
            f"expected the signature `{_SIGNATURE}`, got {known}", hint="save it with `signatures=` or `model.export`"
        )
    function = model.signatures[_SIGNATURE]
    stated = function.structured_input_signature[1]
    inputs, outputs = sorted(stated), sorted(function.structured_outputs)

    def call(*given: Any) -> list[Any]:
        answers = function(**dict(zip(inputs, given, strict=True)))
        return [answers[name] for name in outputs]

    ports = [_tensorflow.port(name, stated[name]) for name in inputs]
    return _tensorflow.opened(call, ports, outputs, model, wishes)
