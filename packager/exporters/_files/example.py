# SPDX-License-Identifier: Apache-2.0
"""Read the tensors of the input example that MLflow logged with a model."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.exporters import Feeds
from packager.exporters._files import mlflow
from packager.recipe.lengths import Measured

TITLE = "logged example"


def read_tensors(source: Path, interface: JSON) -> Feeds | None:
    """Return the example in the tree `source` as inputs of `interface`, None without one that fits it.

    Read from the JSON that MLflow writes for one array or for arrays by name. One fits if its names, ranks and lengths
    are what the interface takes, and if no number changes in the type of its input.
    """
    path = mlflow.find_example(source)
    if path is None:
        return None
    try:
        value = json.loads(path.read_bytes())
        given = value["inputs"] if isinstance(value, dict) and "inputs" in value else value
        ports = interface["inputs"]
        named = given if isinstance(given, dict) else {ports[0]["name"]: given} if len(ports) == 1 else {}
        if set(named) != {port["name"] for port in ports}:
            return None
        found = {port["name"]: _array(named[port["name"]], port) for port in ports}
        return found if _fits(found, interface) else None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def _array(value: Any, port: JSON) -> Any:
    numpy = importlib.import_module("numpy")
    written = numpy.array(value, dtype="object" if port["dtype"] == "string" else None)
    if port["dtype"] == "string":
        if not all(isinstance(item, str) for item in written.ravel()):
            raise ValueError("a text is no text")
        return written
    array = written.astype(port["dtype"])
    if written.dtype.kind not in "biuf" or (array.dtype.kind != "f" and not (array == written).all()):
        raise ValueError("a number changes in its type")
    return array


def _fits(found: Mapping[str, Any], interface: JSON) -> bool:
    lengths: dict[str, int] = {}
    for port in interface["inputs"]:
        shape = found[port["name"]].shape
        if len(shape) != len(port["shape"]):
            return False
        for axis, length in zip(port["shape"], shape, strict=True):
            wanted = lengths.setdefault(axis, length) if isinstance(axis, str) else axis
            if wanted != length or not length:
                return False
    spans = {name: Measured.from_json(span) for name, span in interface["dimensions"].items() if name in lengths}
    tied = all(
        lengths[name] == span.tied[0] * lengths.get(span.tied[1], 0) for name, span in spans.items() if span.tied
    )
    return tied and all(lengths[name] in span.limit for name, span in spans.items())
