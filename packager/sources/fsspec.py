# SPDX-License-Identifier: Apache-2.0
"""Models in object stores and behind any other fsspec address: `s3://bucket/path`, `gs://…`, `az://…`, `https://…`.

An address that ends like a model of one file is that file (an ONNX graph brings its external data), any other is
everything below it. The pin holds what the store calls the version of every object (version id, ETag, generation); an
object that changed since is refused, or, where the store keeps versions, read as it was. The digest of the content is
in the lock's tree. Credentials and endpoints come from where the store's own client looks for them (`AWS_…`, …).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from packager import canonical
from packager.canonical import JSON
from packager.error_causes import first_line
from packager.errors import (
    IntegrityError,
    MissingToolError,
    SourceError,
    StorageError,
    UsageError,
    did_you_mean,
    install,
)
from packager.events import OnEvent
from packager.files import storage_errors, write_all
from packager.formats.onnx_files import external_data
from packager.sources import IGNORED, LOOSE_FILES, SINGLE_FILES, Pin, Settings, byte_counter, redact_address
from packager.types import check_path, check_paths

EXTRA: str | None = "s3"

_T = TypeVar("_T")
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://([^/].*)")
_OTHERS = {
    "oci",
    "bentoml",
    "hf",
    "modelscope",
    "sqlite",
    # what fsspec reads on this machine, or wraps around something else
    "file",
    "local",
    "memory",
    "dir",
    "root",
    "asynclocal",
    "async_wrapper",
    "asyncwrapper",
    "data",
    "generic",
    "blockcache",
    "cached",
    "filecache",
    "simplecache",
    "reference",
    "zip",
    "tar",
    "libarchive",
    "dask",
    "jlab",
}
_SIZE, _FILES = 1 << 40, 100_000  # bytes and objects of one model
_PIECE = 16 << 20  # bytes of one request
_CONNECTIONS = 8
_ATTEMPTS = 4
_VERSIONS = ("VersionId", "version_id", "generation")
_TAGS = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "Content-MD5",
    "Digest",
    "checksum",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "updated",
    "mtime",
)


def matches(ref: str) -> bool:
    """True for `scheme://…` of anything that no other source speaks; never with a password inside."""
    found = _URL.fullmatch(ref)
    return found is not None and found[1] not in _OTHERS and not re.match(r"[^/:]*:[^/@]*@", found[2])


def resolve(ref: str, settings: Settings) -> Pin:
    """List what is there now, and which version of it."""
    with _connected(ref, settings) as bucket:
        names = bucket.names()
        check_paths(names[:_FILES])
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            found = dict(zip(names[:_FILES], pool.map(bucket.identity, names[:_FILES]), strict=True))
    if not found:
        raise SourceError(f"there is nothing at `{redact_address(ref)}`", hint="check bucket, path and permissions")
    if len(names) > _FILES or sum(int(item["size"]) for item in found.values()) > _SIZE:
        raise SourceError(f"`{redact_address(ref)}` holds more than {_FILES} objects or {_SIZE >> 40} TiB")
    digest = canonical.sha256(canonical.dump(found))
    return Pin("fsspec", f"{redact_address(ref)}@{digest}", {"objects": found})


def fetch(pin: Pin, settings: Settings, out: Path, on_event: OnEvent) -> None:
    """Download every object as it was pinned, in pieces and in parallel."""
    objects: Mapping[str, JSON] = pin.details["objects"]
    check_paths(objects)
    report = byte_counter("model", sum(int(item["size"]) for item in objects.values()), on_event)
    with _connected(settings.ref, settings) as bucket:
        pieces = [piece for name, item in sorted(objects.items()) for piece in _pieces(name, int(item["size"]))]
        with storage_errors(out):
            for name, item in objects.items():
                _reserve(out / check_path(name), int(item["size"]))
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            for done in [pool.submit(bucket.piece, out, *piece, objects[piece[0]], report) for piece in pieces]:
                try:
                    done.result()
                except BaseException:
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            list(pool.map(bucket.check, objects.keys(), objects.values()))


def _pieces(name: str, size: int) -> Iterator[tuple[str, int, int]]:
    for start in range(0, size, _PIECE):
        yield name, start, min(start + _PIECE, size)


def _reserve(target: Path, size: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        os.truncate(file.fileno(), size)


class _Bucket:
    """One address of one store."""

    def __init__(self, ref: str, system: Any, root: str) -> None:
        self._ref, self._system = ref, system
        root, mark, query = root.partition("?") if ref.startswith("http") else (root, "", "")
        self._query = mark + query
        self._single = root.lower().endswith((*SINGLE_FILES, *LOOSE_FILES))
        self._root = root.rpartition("/")[0] if self._single else root.rstrip("/")
        self._file = root.rpartition("/")[2]

    def names(self) -> list[str]:
        """Return the paths below the root that belong to the model."""
        if not self._single:
            found = self._ask(lambda: self._system.find(self._root))
            names = [str(path).removeprefix(self._root).lstrip("/") for path in found]
            return sorted(name for name in names if name and IGNORED.isdisjoint(name.split("/")))
        return [self._file, *(self._beside() if self._file.lower().endswith(".onnx") else ())]

    def _beside(self) -> tuple[str, ...]:
        """Return the external data of a graph, which must be read for that."""
        import tempfile

        item = self.identity(self._file)
        with tempfile.TemporaryDirectory() as folder:
            graph = Path(folder) / "model.onnx"
            _reserve(graph, int(item["size"]))
            for _, start, end in _pieces(self._file, int(item["size"])):
                self._write(graph, self._file, start, end, item)
            names = external_data(graph)
        for name in names:
            try:
                check_path(name)
            except IntegrityError as error:
                raise SourceError(
                    f"`{self._file}` keeps weights elsewhere: {error.message}", hint="save it with its data beside it"
                ) from error
        return names

    def identity(self, name: str) -> dict[str, JSON]:
        """Return size and version of one object, as the store states them."""
        info = self._ask(lambda: self._system.info(self._path(name)))
        if info.get("type") != "file" or not isinstance(info.get("size"), int):
            raise SourceError(
                f"`{name}` is not there as a file of known size", hint=f"look below `{redact_address(self._ref)}`"
            )
        known: dict[str, JSON] = {"size": info["size"]}
        version = next((info[key] for key in _VERSIONS if info.get(key) not in (None, "", "null")), None)
        tag = next((info[key] for key in _TAGS if info.get(key)), None)
        if version is not None:
            known["version"] = str(version)
        return known | ({"tag": str(tag).strip('"')} if tag is not None else {})

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}{self._query}"

    def piece(self, out: Path, name: str, start: int, end: int, item: JSON, moved: Callable[[int], None]) -> None:
        """Write one piece of an object to its place."""
        self._write(out / name, name, start, end, item)
        moved(end - start)

    def _write(self, target: Path, name: str, start: int, end: int, item: JSON) -> None:
        more = {"version_id": item["version"]} if self._is_kept(item) else {}
        data = self._ask(lambda: self._system.cat_file(self._path(name), start=start, end=end, **more))
        if len(data) != end - start:
            raise _changed(name, f"expected {end - start} bytes at byte {start}, got {len(data)}")
        with storage_errors(target), target.open("r+b") as file:
            write_all(file.fileno(), data, start)

    def _is_kept(self, item: JSON) -> bool:
        """Say whether the store can return that version whatever came after it: s3fs alone can."""
        return "version" in item and hasattr(self._system, "version_aware")

    def check(self, name: str, item: JSON) -> None:
        """Compare what is there now with the pin: the pieces must all be of one object. A kept version cannot move."""
        if self._is_kept(item):
            return
        now = self.identity(name)
        if now != item:
            raise _changed(name, f"expected {_told(item)}, got {_told(now)}")

    def _ask(self, call: Callable[[], _T]) -> _T:
        """Call the store; what may be temporary is tried again."""
        for attempt in range(1, _ATTEMPTS):
            try:
                return call()
            except (FileNotFoundError, PermissionError, IsADirectoryError, StorageError):
                raise
            except (OSError, TimeoutError):
                time.sleep(0.2 * 2**attempt)
        return call()


def _told(item: JSON) -> str:
    return ", ".join(f"{key} {value!s:.80}" for key, value in sorted(item.items()))


def _changed(name: str, detail: str) -> SourceError:
    return SourceError(
        f"`{name}` changed since it was locked: {detail}", hint="run `packager lock` and review the change"
    )


@contextlib.contextmanager
def _connected(ref: str, settings: Settings) -> Iterator[_Bucket]:
    """Open the store; whatever its client raises becomes a SourceError without addresses that hold secrets."""
    found = _URL.fullmatch(ref)
    scheme = found[1] if found else ""
    with _translated(ref):
        system, root = _library(scheme).url_to_fs(ref, **_patience(scheme, settings.timeout))
        yield _Bucket(ref, system, str(root))


def _library(scheme: str) -> Any:
    try:
        library = importlib.import_module("fsspec")
    except ModuleNotFoundError:
        raise MissingToolError("fsspec", "s3") from None
    known = importlib.import_module("fsspec.registry").known_implementations
    if scheme not in known:
        raise UsageError(f"addresses that start with `{scheme}://` are not known", hint=did_you_mean(scheme, known))
    return importlib.import_module("fsspec.core") if library else library


def _patience(scheme: str, timeout: int) -> dict[str, Any]:
    """Return the options for retries and timeouts of a client, where it has them."""
    common: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme not in ("s3", "s3a"):
        return common
    limits = {"connect_timeout": timeout, "read_timeout": 6 * timeout, "retries": {"max_attempts": 2}}
    return {**common, "config_kwargs": limits}


@contextlib.contextmanager
def _translated(ref: str) -> Iterator[None]:
    where = redact_address(ref)
    try:
        yield
    except (SourceError, IntegrityError, UsageError, StorageError, MissingToolError):
        raise
    except ImportError as error:
        hint = install("objects") if "s3fs" in str(error) else f"{error}"[:200]
        raise SourceError(f"reading `{where}` needs a package that is not installed", hint=hint) from error
    except FileNotFoundError:
        raise SourceError(f"`{where}` is not there, or no longer", hint="check bucket, path and endpoint") from None
    except PermissionError as error:
        raise SourceError(
            f"`{where}` may not be read: {_line(error)}", hint="check the credentials of the store's client"
        ) from None
    except Exception as error:  # each client has its own tree of exceptions
        raise SourceError(
            f"`{where}` cannot be read: {type(error).__name__}: {_line(error)}",
            hint="check the address, the endpoint and the credentials",
        ) from None


def _line(error: Exception) -> str:
    """Return the first line of a foreign message, without credentials and signatures."""
    return re.sub(r"//[^/@\s]*@|\?\S+", lambda found: "//" if found[0][0] == "/" else "", first_line(error))[:200]
