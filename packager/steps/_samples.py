# SPDX-License-Identifier: Apache-2.0
"""Read the rows that a recipe names under `samples`, which its model is measured on besides drawn ones.

Tables are Parquet or CSV with a column per input (others are ignored); tensors are `.npz` with an array per input,
`.npy` for the only one, or `.jsonl` with an object per row. Nothing in them is ever unpickled.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from packager import error_causes
from packager.canonical import JSON
from packager.errors import MissingToolError, PackagerError, StepError

_HINT = "`samples:` takes .parquet or .csv (a column per input), .npz or .npy (arrays) or .jsonl (an object per row)"


def read(folder: Path, interface: JSON) -> dict[str, Any]:
    """Return the rows of every input, as arrays whose first axis lists them. Raises StepError for what does not fit."""
    (path,) = folder.iterdir()
    ports = {port["name"]: port for port in interface["inputs"]}
    try:
        found = _READERS[path.suffix](path, ports)
        return {name: _fitted(found[name], port) for name, port in ports.items()}
    except PackagerError:
        raise
    except Exception as error:  # a file of a user: pandas, pyarrow and numpy raise what they like
        reason = error_causes.find_cause_line(str(error))
        raise StepError(f"samples: `{path.name}` cannot be read: {reason:.300}", hint=_HINT) from error


def _table(path: Path, ports: Mapping[str, JSON]) -> dict[str, Any]:
    try:
        pandas = importlib.import_module("pandas")
        frame = pandas.read_parquet(path) if path.suffix == ".parquet" else pandas.read_csv(path)
    except ImportError:
        raise MissingToolError("pandas and pyarrow", "sklearn") from None
    frame.columns = [str(name) for name in frame.columns]
    if len(ports) == 1 and not set(ports) <= set(frame.columns):
        (port,) = ports.values()
        return {port["name"]: frame.to_numpy()}
    missing = [name for name in ports if name not in frame.columns]
    if missing:
        known = ", ".join(f"`{name}`" for name in list(frame.columns)[:12])
        raise StepError(f"samples: `{path.name}` has no column `{missing[0]}`, only {known}", hint=_HINT)
    return {name: frame[name].to_numpy() for name in ports}


def _arrays(path: Path, ports: Mapping[str, JSON]) -> dict[str, Any]:
    numpy = importlib.import_module("numpy")
    if path.suffix == ".npy":
        return {next(iter(ports)): numpy.load(path, allow_pickle=False)}
    with numpy.load(path, allow_pickle=False) as loaded:
        absent = sorted(set(ports) - set(loaded.files))
        if absent:
            raise StepError(f"samples: `{path.name}` has no array `{absent[0]}`", hint=_HINT)
        return {name: loaded[name] for name in ports}


def _lines(path: Path, ports: Mapping[str, JSON]) -> dict[str, Any]:
    numpy = importlib.import_module("numpy")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    kinds = {name: "object" if port["dtype"] == "string" else None for name, port in ports.items()}
    return {name: numpy.array([row[name] for row in rows], dtype=kinds[name]) for name in ports}


_READERS: Mapping[str, Callable[[Path, Mapping[str, JSON]], dict[str, Any]]] = {
    ".parquet": _table,
    ".csv": _table,
    ".npz": _arrays,
    ".npy": _arrays,
    ".jsonl": _lines,
}


def _fitted(values: Any, port: JSON) -> Any:
    """Return rows in the type and rank of an input; a missing text is an empty one."""
    numpy = importlib.import_module("numpy")
    array = numpy.asarray(values)
    if array.ndim == len(port["shape"]) - 1:
        array = array.reshape(*array.shape, 1)
    if array.ndim != len(port["shape"]):
        raise StepError(f"samples: `{port['name']}` has {array.ndim} axes, expected {len(port['shape'])}", hint=_HINT)
    if port["dtype"] == "string":
        return numpy.array([_text(item) for item in array.reshape(-1)], dtype="object").reshape(array.shape)
    if port["dtype"].startswith(("int", "uint")) and array.dtype.kind == "f" and not numpy.isfinite(array).all():
        raise StepError(f"samples: `{port['name']}` misses a value, which {port['dtype']} cannot hold", hint=_HINT)
    return array.astype(port["dtype"])


def _text(item: Any) -> str:
    return "" if item is None or item != item else str(item)
