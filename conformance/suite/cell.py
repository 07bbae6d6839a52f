# SPDX-License-Identifier: Apache-2.0
"""One cell, as plain data: what is judged, how it is reached, and by which bounds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Cell:
    """The members are those of the cell file; ../README.md describes each. Paths are absolute."""

    name: str
    bundle: Mapping[str, Any]
    target: str
    runtime: str
    version: str
    device: str
    contract: Path
    vectors: Path
    scratch: Path
    files: Mapping[str, str] = field(default_factory=dict)
    adapter: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    model: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    library: str = ""
    channels: tuple[str, ...] = ("adapter",)
    endpoints: Mapping[str, Any] = field(default_factory=dict)
    level: int = 5
    seconds: float = 300.0
    memory: int = 0
    ratio: float = 5.0
    knobs: Mapping[str, Any] = field(default_factory=dict)
    deviations: Mapping[str, str] = field(default_factory=dict)


def read(path: Path) -> Cell:
    """Read a cell file. Raises ValueError naming what is wrong with it."""
    try:
        value = json.loads(path.read_bytes())
        places = {key: Path(value[key]) for key in ("contract", "vectors", "scratch")}
        places["model"] = Path(value["model"]) if value.get("model") else None  # type: ignore[assignment]
        lists = {"adapter": tuple(value.get("adapter") or ()), "channels": tuple(value.get("channels") or ("adapter",))}
        return Cell(**{**value, **places, **lists})
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"`{path}` is not a cell file: {error}") from None
