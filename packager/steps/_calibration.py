# SPDX-License-Identifier: Apache-2.0
"""Data for calibrating int8: arrays whose first axis lists samples, one per input.

They come from a file of the recipe (`.npz`, `.npy`, `.jsonl`), read without ever unpickling, or from the source's own
samples. Sample rows are cut into batches that the interface accepts.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packager import error_causes, exporters
from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters import ExportOptions

MAX_ROWS = 4096  # more change no range that matters, and cost a run each
_BATCH = 16
_HINT = (
    "`calibration:` takes .npz (one array per input), .npy (for one input) or .jsonl (one object of inputs per line)"
)


def _rows(inputs: Mapping[str, Path], params: Mapping[str, JSON]) -> dict[str, Any]:
    """Return the samples of every input, as arrays. Raises StepError for what does not fit the interface."""
    ports = {port["name"]: port for port in params["interface"]["inputs"]}
    found = _read(inputs["calibration"], ports) if "calibration" in inputs else _offered(inputs["source"], params)
    if set(found) != set(ports):
        raise StepError(f"calibration: expected the inputs {_listed(ports)}, got {_listed(found)}", hint=_HINT)
    fitted = {name: _fitted(found[name], ports[name]) for name in ports}
    counts = {len(values) for values in fitted.values()}
    if len(counts) != 1 or not counts.pop():
        raise StepError("calibration: expected the same number of samples for every input, and at least one")
    return {name: values[:MAX_ROWS] for name, values in fitted.items()}


def cut_batches(inputs: Mapping[str, Path], params: Mapping[str, JSON]) -> list[dict[str, Any]]:
    """Return the samples in batches that the first axis of the inputs allows. Raises StepError for misfits."""
    found = list(_cut(_rows(inputs, params), params["interface"]))
    if not found:
        raise StepError("calibration: expected at least one full batch of samples", hint=_HINT)
    return found


def _cut(found: Mapping[str, Any], interface: JSON) -> Iterator[dict[str, Any]]:
    """Yield the samples in batches; what does not fill a fixed one is left."""
    first = {port["shape"][0] for port in interface["inputs"]}
    fixed = [axis for axis in first if isinstance(axis, int)]
    limits = [interface["dimensions"][axis]["max"] for axis in first if isinstance(axis, str)]
    size = fixed[0] if fixed else min([_BATCH, *limits])
    total = len(next(iter(found.values())))
    for start in range(0, total - size + 1 if fixed else total, size):
        yield {name: values[start : start + size] for name, values in found.items()}


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name:.60}`" for name in sorted(names)[:8]) or "none"


def _offered(source: Path, params: Mapping[str, JSON]) -> dict[str, Any]:
    opened = exporters.exporter(params["kind"]).load(source, params["payload"], ExportOptions.from_params(params))
    found = {name: rows for name, rows in exporters.samples_of(opened).items() if hasattr(rows, "shape")}
    if not found:
        raise StepError(
            "int8 needs data to be calibrated on, and this source offers none",
            hint=f"{_HINT}; or promise `int8_dynamic`, which needs none",
        )
    return found


def _read(folder: Path, ports: Mapping[str, JSON]) -> dict[str, Any]:
    (path,) = folder.iterdir()
    try:
        return _lines(path, ports) if path.suffix == ".jsonl" else _arrays(path, ports)
    except (ValueError, OSError, KeyError, TypeError, EOFError) as error:
        reason = error_causes.find_cause_line(str(error))
        raise StepError(f"calibration data `{path.name}` cannot be read: {reason:.200}", hint=_HINT) from error


def _arrays(path: Path, ports: Mapping[str, JSON]) -> dict[str, Any]:
    numpy = importlib.import_module("numpy")
    loaded = numpy.load(path, allow_pickle=False)
    if path.suffix == ".npz":
        return {name: loaded[name] for name in loaded.files}
    if len(ports) != 1:
        raise ValueError(f"a .npy file holds one input, the model has {len(ports)}")
    return {next(iter(ports)): loaded}


def _lines(path: Path, ports: Mapping[str, JSON]) -> dict[str, Any]:
    numpy = importlib.import_module("numpy")
    read = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    return {name: numpy.array([row[name] for row in read], _dtype(ports[name])) for name in ports}


def _dtype(port: JSON) -> str:
    return "object" if port["dtype"] == "string" else str(port["dtype"])


def _fitted(values: Any, port: JSON) -> Any:
    """Return the samples of an input in its own type. A whole batch axis in front is what every shape starts with."""
    numpy = importlib.import_module("numpy")
    array = numpy.asarray(values)
    wanted = port["shape"]
    fits = array.ndim == len(wanted) and all(
        isinstance(axis, str) or axis == size for axis, size in zip(wanted[1:], array.shape[1:], strict=True)
    )
    kinds = "OU" if port["dtype"] == "string" else "fiub"
    if array.dtype.kind not in kinds or not fits:
        got = f"{array.dtype.name}{list(array.shape)}"
        raise StepError(
            f"calibration of `{port['name']}`: expected {port['dtype']}{wanted} with samples along the first axis, "
            f"got {got}"
        )
    return array.astype(_dtype(port))
