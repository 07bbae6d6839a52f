# SPDX-License-Identifier: Apache-2.0
"""Judge models of Keras and TensorFlow, one JSON line each: `python -m tests.matrix.keras_verdicts FORM:NAME …`.

Runs in an environment with TensorFlow.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from packager.exporters._tensorflow import function

function.library()  # before anything else imports it: it is bound to one thread only once

from tests.matrix import keras_models  # noqa: E402
from tests.matrix.verdicts import Row, judge  # noqa: E402

ASKED: Mapping[str, Mapping[str, Any]] = {"saved:second_signature": {"signature": "second"}}


def fresh(seed: int) -> Callable[[Any], dict[str, Any]]:
    """Return a function that draws five rows, or as many as the model takes, and some length for every other axis."""

    def rows(interface: Any) -> dict[str, Any]:
        random = np.random.default_rng(seed)
        bounds = {name: (span["min"], span["max"]) for name, span in interface["dimensions"].items()}
        lengths = {name: int(random.integers(max(low, 2), min(high, 9) + 1)) for name, (low, high) in bounds.items()}
        return {
            port["name"]: _values(random, port, [lengths.get(a, a) for a in port["shape"]])
            for port in interface["inputs"]
        }

    return rows


def _values(random: Any, port: Any, shape: list[int]) -> Any:
    if port["dtype"].startswith("float"):
        return random.normal(1.0, 2.0, shape).astype(port["dtype"])
    return random.integers(0, 3, shape).astype(port["dtype"])


def verdict(title: str, folder: Path) -> Row:
    form, name = title.split(":")
    try:
        keras_models.main(form, name.removeprefix("second_").replace("signature", "signatures"), folder / "source")
    except Exception as error:  # the library itself does not save it
        return Row("keras", title, "not-made", reason=f"{type(error).__name__}: {error}"[:300])
    return judge("keras", title, folder / "source", folder / "graph", fresh(91), **ASKED.get(title, {}))


if __name__ == "__main__":
    for title in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            print(f"ROW {verdict(title, Path(folder)).line()}", flush=True)
