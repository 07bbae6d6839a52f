# SPDX-License-Identifier: Apache-2.0
"""Repositories of model hubs over HTTP: which files are wanted, and how each is read as a stream.

What may be temporary is tried again, a download continues where its connection broke, and none becomes longer than the
hub said. Words of a hub are never repeated to the terminal.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from packager.canonical import JSON
from packager.errors import IntegrityError, PackagerError, SourceError
from packager.events import OnEvent
from packager.files import storage_errors
from packager.sources import IGNORED, byte_counter
from packager.types import Blob, check_path, check_paths

SIZE, FILES = 1 << 40, 10_000  # bytes and files of one model
_SMALL, _ANSWER = 64 << 20, 64 << 20  # bytes of a file whose size is not known; of a hub's answer
_CONNECTIONS = 8
_ATTEMPTS = 4
_LONGEST_WAIT = 30  # seconds that a hub may have us wait
_BUSY = (429, 500, 502, 503, 504)
_OTHER_WEIGHTS = (
    *(".bin", ".h5", ".msgpack", ".ot", ".onnx", ".onnx_data", ".gguf", ".ggml", ".pth", ".pt", ".ckpt"),
    *(".tflite", ".mlmodel", ".npz", ".pkl"),
)
_OTHER_FOLDERS = frozenset({"onnx", "openvino", "coreml", "original"})
_SIGNATURES = (".sig", ".sigstore", ".sigstore.json")
_NEVER = IGNORED | {".gitattributes", ".gitignore"}


def wanted_files(paths: Sequence[str]) -> list[str]:
    """Return the files that a bundle can be made from: not the same weights once more in other formats."""
    kept = [path for path in paths if _NEVER.isdisjoint(path.split("/"))]
    roots = {path for path in kept if "/" not in path}
    signed = any(path.endswith(_SIGNATURES) for path in roots)  # a signature is of every file
    if signed or "config.json" not in roots or not any(path.endswith(".safetensors") for path in roots):
        return kept
    return [
        path
        for path in kept
        if not path.lower().endswith(_OTHER_WEIGHTS) and path.partition("/")[0] not in _OTHER_FOLDERS
    ]


def check_listing(name: str, listed: Mapping[str, int]) -> None:
    """Raise SourceError where the files of a repository, path to size in bytes, are none or too many or too large."""
    check_paths(listed)
    if not listed:
        raise SourceError(f"`{name}` holds no files at this revision", hint="name another revision: `…@v1`")
    if len(listed) > FILES or sum(listed.values()) > SIZE:
        raise SourceError(f"`{name}` holds more than {FILES} files or {SIZE >> 40} TiB")


@contextlib.contextmanager
def open_pool() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool that begins nothing more once something failed."""
    pool = ThreadPoolExecutor(_CONNECTIONS)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Response(Protocol):
    """What is used of an HTTP client's answer."""

    status_code: int

    @property
    def headers(self) -> Mapping[str, str]: ...


Opened = contextlib.AbstractContextManager[tuple[Response, Iterator[bytes]]]


class _BusyError(Exception):
    """The hub asks to come back, after so many seconds if it says so."""

    def __init__(self, status: int, after: int | None) -> None:
        super().__init__(status)
        self.status, self.after = status, after


class Repository(ABC):
    """One repository of a hub. `setting` is the variable that names the hub's address."""

    setting: str

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def file_url(self, revision: str, path: str) -> str:
        """Return the address of a file at a revision."""

    @abstractmethod
    def send_request(self, url: str, headers: Mapping[str, str]) -> Opened:
        """Open an answer and the pieces of its body. Raises what the client raises."""

    @abstractmethod
    def explain_refusal(self, response: Response, what: str) -> SourceError:
        """Return what an answer that is no success means, with what to do."""

    def explain_offline(self, error: OSError) -> SourceError | None:
        """Return what it means where the client itself is set not to use a network."""
        return None

    def read_document(self, url: str, what: str) -> JSON:
        """Return a JSON document of the hub. Raises SourceError."""
        try:
            return json.loads(self._retry(lambda: self._read_whole(url, what), what))
        except (ValueError, RecursionError):
            raise self.misunderstood() from None

    def misunderstood(self) -> SourceError:
        """Return the error for an answer that cannot be right."""
        return SourceError(f"what the hub says of `{self.name}` is not understood", hint=f"check {self.setting}")

    def download_all(self, revision: str, files: Mapping[str, Blob], out: Path, on_event: OnEvent) -> None:
        """Write files below `out`, several at once; each must be what it was pinned to. Raises IntegrityError."""
        check_paths(files)
        moved = byte_counter("model", sum(blob.size for blob in files.values()), on_event)

        def write(path: str, blob: Blob) -> None:
            target = out / check_path(path)
            with storage_errors(out):
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb", buffering=0) as sink:
                    got = self.download(revision, path, blob.size, sink, moved)
            if got != blob:
                raise IntegrityError(
                    f"`{path}` of `{self.name}` is not what the lock pinned: expected {blob.digest}, got {got.digest}",
                    subject=path,
                    hint="fetch it again; if it stays so, the hub or what stands between changed it",
                )

        with open_pool() as pool:
            for done in [pool.submit(write, path, blob) for path, blob in files.items()]:
                done.result()

    def download(
        self, revision: str, path: str, size: int | None, sink: BinaryIO, moved: Callable[[int], None]
    ) -> Blob:
        """Write a file and return what came; continues where a connection broke, or begins again where that is refused.

        Stops before it is longer than `size`; without one whatever comes is it, up to 64 MiB.
        """
        url = self.file_url(revision, path)
        digest, done = hashlib.sha256(), 0
        limit = _SMALL if size is None else size

        def attempt() -> None:
            nonlocal digest, done
            with self._open(url, path, start=done) as (response, pieces):
                if done and response.status_code != 206:
                    sink.seek(0)
                    sink.truncate()
                    moved(-done)
                    digest, done = hashlib.sha256(), 0
                for piece in pieces:
                    if done + len(piece) > limit:
                        raise SourceError(f"`{path}` of `{self.name}` is longer than {limit} bytes", hint=_LONGER)
                    digest.update(piece)
                    _write(sink, piece)
                    done += len(piece)
                    moved(len(piece))
            if size is not None and done < size:
                raise EOFError(f"it ended after {done} of {size} bytes")

        self._retry(attempt, path)
        return Blob(f"sha256:{digest.hexdigest()}", done)

    def _read_whole(self, url: str, what: str) -> bytes:
        found = bytearray()
        with self._open(url, what) as (_, pieces):
            for piece in pieces:
                found += piece
                if len(found) > _ANSWER:
                    raise SourceError(f"the hub's answer about `{self.name}` has more than {_ANSWER >> 20} MiB")
        return bytes(found)

    def _retry(self, call: Callable[[], Any], what: str) -> Any:
        """Call; what may be temporary is tried again. Raises SourceError that says what it was at last."""
        again = f"check the network and {self.setting}, and try again"
        for number in range(1, _ATTEMPTS + 1):
            wait = min(2 ** (number - 1), 8) / 4
            try:
                return call()
            except PackagerError:
                raise
            except _BusyError as busy:
                reason = "it has had too many requests" if busy.status == 429 else f"it answers {busy.status}"
                later = f", in {busy.after} s" if busy.after else ""
                problem = SourceError(f"the hub does not serve `{self.name}` now: {reason}", hint=f"try again{later}")
                if busy.after is not None and busy.after > _LONGEST_WAIT:
                    raise problem from None
                wait = max(wait, busy.after or 0)
            except EOFError as error:
                problem = SourceError(f"the download of `{what}` of `{self.name}` broke off: {error}", hint=again)
            except Exception as error:  # those of an HTTP client, whose names depend on its version
                if isinstance(error, OSError) and (offline := self.explain_offline(error)):
                    raise offline from None
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # of a file here: clients raise theirs without a number
                problem = SourceError(
                    f"the hub cannot be reached for `{what}` of `{self.name}`: {type(error).__name__}", hint=again
                )
            if number < _ATTEMPTS:
                time.sleep(wait)
        raise problem

    @contextlib.contextmanager
    def _open(self, url: str, what: str, start: int = 0) -> Iterator[tuple[Response, Iterator[bytes]]]:
        """Yield an answer that is one, and its body. Raises SourceError, _BusyError, or what the client raises."""
        headers = {"accept-encoding": "identity", **({"range": f"bytes={start}-"} if start else {})}
        with self.send_request(url, headers) as (response, pieces):
            if response.status_code in _BUSY:
                after = response.headers.get("retry-after", "")
                raise _BusyError(response.status_code, int(after) if re.fullmatch(r"[0-9]{1,6}", after) else None)
            if response.status_code == 416 and start:
                raise EOFError(f"it ended after {start} bytes")
            if response.status_code not in (200, 206):
                raise self.explain_refusal(response, what)
            yield response, pieces


_LONGER = "lock it again, and look who changed it"


def _write(sink: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[sink.write(view) or 0 :]
