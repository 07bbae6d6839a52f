# SPDX-License-Identifier: Apache-2.0
"""Adapters beside an installed base: low-rank matrices that one opened graph takes as inputs, chosen by request.

    adapters/NAME.json               {"name", "version", "digest", "base", "file", "sha256"}, put there in one step
    adapters/files/…/*.safetensors   the matrices, float32: `lora.PATH.a` [in, rank] and `lora.PATH.b` [rank, out]

Each record is a whole adapter: one that appears serves the next request, and one that is removed is none for the next.
What an answer uses is in memory, so that it goes on to its end. A record that names another base, a file of another
digest, or matrices that the graph does not take is not served; the log says why, once.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from packager.server.errors import quote
from packager.server.fields import record, text
from packager.server.generation.decoder import Port, Steps, Weights
from packager.server.generation.settings import LORA, MAX_RANK
from packager.server.telemetry.logs import log_event

FILES = "files"
SUFFIX = ".json"
_KEYS = frozenset({"name", "version", "digest", "base", "file", "sha256"})
_FILE = re.compile(rf"{FILES}(/[A-Za-z0-9][A-Za-z0-9._-]*)+\.safetensors")
_MAX_RECORD = 1 << 16
_MAX_FILE = 4 << 30
_TRIES = 3
_SETTLED = 0.1  # seconds after which a change of a folder has another time than the one before


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter, opened: its bundle's identity, and its matrices by the name of their input."""

    name: str
    version: str
    digest: str
    weights: Weights


@dataclass(frozen=True, slots=True)
class _Known:
    """What a record was when it was read, and what it gave; None for one that is not served."""

    stamp: tuple[int, int, int]
    adapter: Adapter | None


class Adapters:
    """The adapters of one base, as its folder has them now. Several threads may use it."""

    def __init__(self, folder: Path | None, base: str, inputs: Sequence[Port]) -> None:
        """Take the folder, the digest of the base, and the inputs of its graph."""
        self._folder, self._base = folder, base
        self._shapes = _shapes(inputs)
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._seen: int | None = None  # the time of the folder when it was read, None where it has to be read again

    def find(self, name: object) -> Adapter | None:
        """Return the adapter of a name, or of `name:version`; None where there is none."""
        for item in self.list() if isinstance(name, str) else ():
            if name in (item.name, f"{item.name}:{item.version}"):
                return item
        return None

    def list(self) -> list[Adapter]:
        """Return what is served now, by name."""
        if self._folder is None or not self._shapes:
            return []
        with self._lock:
            self._refresh(self._folder)
            return [known.adapter for _, known in sorted(self._known.items()) if known.adapter is not None]

    def _refresh(self, folder: Path) -> None:
        try:
            changed = folder.stat().st_mtime_ns
        except OSError:
            self._known = {}
            return
        if changed == self._seen:
            return
        now = time.time_ns()
        found: dict[str, _Known] = {}
        for path in folder.glob(f"*{SUFFIX}"):
            try:
                about = path.stat()
            except OSError:  # removed since it was listed
                continue
            stamp = (about.st_ino, about.st_mtime_ns, about.st_size)
            before = self._known.get(path.stem)
            found[path.stem] = before if before and before.stamp == stamp else _Known(stamp, self._open(path))
        self._known = found
        # Two changes within one tick of the clock leave one time: then the next request looks again.
        self._seen = changed if now - changed > _SETTLED * 1e9 else None

    def _open(self, path: Path) -> Adapter | None:
        """Return the adapter of a record; None for one that is not served, or is gone.

        One that is replaced while it is read is read again: its file goes once the record names another.
        """
        for _ in range(_TRIES):
            try:
                return self._opened(path)
            except FileNotFoundError:
                continue
        return None

    def _opened(self, path: Path) -> Adapter | None:
        try:
            fields = record(orjson.loads(_read(path, _MAX_RECORD)), "the record", _KEYS)
            words = {key: text(fields[key], key) for key in sorted(_KEYS)}
            if words["name"] != path.stem:
                raise ValueError(f"it is called {quote(words['name'])}")
            if words["base"] != self._base:
                raise ValueError(f"it is for the base {quote(words['base'])}, and this is {quote(self._base)}")
            if not _FILE.fullmatch(words["file"]):
                raise ValueError("`file` is no path of an adapter")
            data = _read(path.parent / words["file"], _MAX_FILE)
            if f"sha256:{hashlib.sha256(data).hexdigest()}" != words["sha256"]:
                raise ValueError("its file is damaged")
            weights = read_weights(data, self._shapes)
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            log_event("adapter not served", logging.ERROR, adapter=path.stem, reason=str(error)[:500])
            return None
        log_event("adapter", adapter=words["name"], version=words["version"], digest=words["digest"])
        return Adapter(words["name"], words["version"], words["digest"], weights)


class AdaptedSteps:
    """A decoder that runs with one adapter."""

    def __init__(self, decoder: Steps, weights: Weights) -> None:
        self._decoder, self._weights = decoder, weights
        self.batches = decoder.batches

    def empty(self, batch: int = 1, adapter: Weights | None = None) -> Any:
        """Return the cache of no tokens. Raises ValueError for another adapter."""
        if adapter is not None:
            raise ValueError("one adapter at a time")
        return self._decoder.empty(batch, self._weights)

    def step(self, ids: NDArray[np.int64], cache: Any, mask: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Append tokens to a cache; return their logits."""
        return self._decoder.step(ids, cache, mask)

    def leave(self, cache: Any) -> None:
        """Forget a cache that no step follows for."""
        self._decoder.leave(cache)


def open_weights(path: Path, inputs: Sequence[Port]) -> Weights:
    """Return the matrices of a file for a graph with these inputs. Raises ValueError, OSError."""
    return read_weights(_read(path, _MAX_FILE), _shapes(inputs))


def _shapes(inputs: Sequence[Port]) -> dict[str, tuple[int | str | None, ...]]:
    return {port.name: port.shape for port in inputs if port.name.startswith(LORA)}


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"`{path.name}` is larger than {most} bytes")
    return data


def read_weights(data: bytes, shapes: Mapping[str, Sequence[int | str | None]]) -> Weights:
    """Return the matrices of a file for every input of `shapes`; those that it lacks are zero. Raises ValueError.

    All have one rank: inputs are `.a` [in, rank] and `.b` [rank, out].
    """
    found = _tensors(data)
    if not found:
        raise ValueError("it changes no layer")
    if unknown := sorted(set(found) - set(shapes)):
        raise ValueError(f"the base takes no {quote(unknown[0])}")
    ranks = {array.shape[1 if name.endswith(".a") else 0] for name, array in found.items() if array.ndim == 2}
    rank = min(ranks, default=0)
    if len(ranks) != 1 or not 1 <= rank <= MAX_RANK:
        raise ValueError(f"expected one rank from 1 to {MAX_RANK}, got {sorted(ranks)}")
    made: dict[str, NDArray[np.float32]] = {}
    for name, shape in shapes.items():
        wanted = tuple(size if isinstance(size, int) else rank for size in shape)
        array = found.get(name)
        if array is None:
            made[name] = np.zeros(wanted, np.float32)
            continue
        if array.shape != wanted:
            raise ValueError(f"{quote(name)} is {list(array.shape)}, expected {list(wanted)}")
        if not np.isfinite(array).all():
            raise ValueError(f"{quote(name)} holds values that are no numbers")
        made[name] = array
    return made


def _tensors(data: bytes) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of a safetensors file, which are float32 here. Raises ValueError."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ValueError("the header is longer than the file")
    header: Any = orjson.loads(data[8 : 8 + length])
    body = memoryview(data)[8 + length :]
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    return {name: _tensor(entry, body) for name, entry in header.items() if name != "__metadata__"}


def _tensor(entry: Any, body: memoryview) -> NDArray[np.float32]:
    fields = record(entry, "a tensor", {"dtype", "shape", "data_offsets"})
    shape, offsets = fields["shape"], fields["data_offsets"]
    whole = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
    if not whole or not all(type(number) is int and 0 <= number < 1 << 40 for number in (*shape, *offsets)):
        raise ValueError("a length or offset is not a number")
    start, end = offsets
    if fields["dtype"] != "F32" or end > len(body) or end - start != 4 * math.prod(shape):
        raise ValueError("a tensor is not float32, or not within the file")
    return np.frombuffer(body[start:end], "<f4").reshape(shape)
