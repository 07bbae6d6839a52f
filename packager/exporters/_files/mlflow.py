# SPDX-License-Identifier: Apache-2.0
"""Read the `MLmodel` file of an MLflow model directory, without MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from packager.canonical import JSON
from packager.errors import SourceError
from packager.exporters._files import yaml
from packager.exporters._interface.ports import BATCH, Port

MLMODEL = "MLmodel"
_LIMIT = 16 << 20  # real ones hold a signature and some ids; type hints of examples can make them larger
_EXAMPLE_LIMIT = 32 << 20
_LONGEST = 1024  # characters of a name


def read_flavor(name: str, paths: Collection[str], read: Callable[[str], bytes]) -> dict[str, JSON] | None:
    """Return one flavor's table of the `MLmodel` at the root, or None when there is no such file or flavor.

    Texts, numbers and lists of texts only: what is nested deeper does not concern the payload.
    """
    found = read_flavors(paths, read).get(name)
    return yaml.keep_plain_values(found) if isinstance(found, dict) else None


def read_flavors(paths: Collection[str], read: Callable[[str], bytes]) -> dict[str, JSON]:
    """Return the tables of all flavors, by name; empty without an `MLmodel`. Raises SourceError for a broken one."""
    stated = _parse(read(MLMODEL)).get("flavors") if MLMODEL in paths else {}
    return {name: table for name, table in stated.items() if isinstance(name, str)} if isinstance(stated, dict) else {}


@lru_cache(maxsize=2)  # every exporter looks its flavor up
def _parse(data: bytes) -> dict[str, JSON]:
    return yaml.parse_mapping(data, MLMODEL, _LIMIT)


def trusted_types(source: Path, name: str) -> list[str]:
    """Return the types that a flavor's table records as trusted; the author of the model wrote that list."""
    table = read_flavor(
        name, {MLMODEL} if (source / MLMODEL).is_file() else (), lambda path: (source / path).read_bytes()
    )
    recorded = (table or {}).get("skops_trusted_types")
    return [str(item) for item in recorded] if isinstance(recorded, list) else []


def read_signature(source: Path) -> tuple[list[Port], list[str]]:
    """Return the ports and the output names of the tensor signature beside the payload; empty lists when there is none.

    An unnamed tensor has the name "". A length of -1 is a dimension: the first axis is `batch`, any other is named
    after the input and axis, because MLflow does not name them.
    """
    path = source / MLMODEL
    stated = _parse(path.read_bytes()).get("signature") if path.is_file() else None
    if not isinstance(stated, dict):
        return [], []
    inputs = [_port(entry) for entry in _tensors(stated.get("inputs"))]
    return inputs, [_name(entry) for entry in _tensors(stated.get("outputs"))]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a data-frame signature; `dtype` is MLflow's name of it, such as `double`. Unnamed is ""."""

    name: str
    dtype: str


def read_columns(source: Path) -> list[Column]:
    """Return the columns of the data-frame signature beside the payload; empty for tensors and where there is none."""
    path = source / MLMODEL
    stated = _parse(path.read_bytes()).get("signature") if path.is_file() else None
    listed = _entries(stated.get("inputs")) if isinstance(stated, dict) else []
    return [Column(_name(entry), str(entry.get("type"))[:_LONGEST]) for entry in listed if not _is_tensor(entry)]


def _tensors(text: object) -> list[dict[str, JSON]]:
    """Return the tensor entries of one side; column-based signatures describe data frames and say nothing here."""
    return [entry for entry in _entries(text) if _is_tensor(entry)]


def _entries(text: object) -> list[dict[str, JSON]]:
    try:
        entries = json.loads(text) if isinstance(text, str) else []
    except (ValueError, RecursionError):
        raise SourceError(f"the signature in `{MLMODEL}` is not JSON") from None
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _name(entry: dict[str, JSON]) -> str:
    return str(entry.get("name") or "")[:_LONGEST]


def _is_tensor(entry: dict[str, JSON]) -> bool:
    return entry.get("type") == "tensor"


def _port(entry: dict[str, JSON]) -> Port:
    name, spec = _name(entry), entry.get("tensor-spec")
    lengths = spec.get("shape") if isinstance(spec, dict) else None
    dtype = spec.get("dtype") if isinstance(spec, dict) else None
    if (
        not isinstance(dtype, str)
        or not isinstance(lengths, list)
        or not all(type(length) is int for length in lengths)
    ):
        raise SourceError(
            f"the signature in `{MLMODEL}` has a tensor without type and shape", hint="log the model again"
        )
    return Port(name, dtype, tuple(_axis(name, axis, length) for axis, length in enumerate(lengths)))


def _axis(name: str, axis: int, length: int) -> int | str:
    if length >= 0:
        return length
    return BATCH if axis == 0 else f"{name or 'input'}_{axis}"


def find_example(source: Path) -> Path | None:
    """Return the JSON file of the input example that was logged with a model, None without one that can be read."""
    path = source / MLMODEL
    stated = _parse(path.read_bytes()).get("saved_input_example_info") if path.is_file() else None
    name = stated.get("artifact_path") if isinstance(stated, dict) else None
    if not isinstance(name, str) or "/" in name or not name.endswith(".json"):
        return None
    found = source / name
    return found if found.is_file() and not found.is_symlink() and found.stat().st_size <= _EXAMPLE_LIMIT else None
