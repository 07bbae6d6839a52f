# SPDX-License-Identifier: Apache-2.0
"""Models on a Hugging Face hub: `hf://org/name`, `hf://org/name@revision`.

A branch or tag is resolved to its commit once, by `lock`. The pin holds the commit and the SHA-256 of every file: large
ones as the hub states it, small ones hashed here, after their git object id proved them to be of that commit. A
download is read as a stream, over redirects, continued where it broke off, and refused unless every byte is as pinned.
Of a repository with safetensors beside its `config.json` the same weights in other formats are left out, unless it has
a signature (OpenSSF Model Signing), which is of every file.

Endpoint and token are those of `huggingface_hub` (`HF_ENDPOINT`, `HF_TOKEN`, what `hf auth login` saved). A token is
sent to the hub alone, not to where it redirects.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from packager.canonical import JSON
from packager.errors import (
    IntegrityError,
    MissingToolError,
    PackagerError,
    SourceError,
    UsageError,
)
from packager.events import OnEvent
from packager.files import CHUNK, ignore_count, storage_errors
from packager.sources import IGNORED, Pin, Settings, byte_counter, redact_address
from packager.types import Blob, check_path, check_paths

EXTRA: str | None = "hub"

_SCHEME = "hf://"
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REF = re.compile(rf"hf://({_PART}/{_PART}|{_PART})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,200}}))?")
_COMMIT, _HEX = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
_SIZE, _FILES = 1 << 40, 10_000  # bytes and files of one model
_SMALL, _ANSWER = 64 << 20, 64 << 20  # bytes of a file that is not in large storage; of the hub's answer
_CONNECTIONS = 8
_ATTEMPTS = 4
_PATIENCE = 30  # seconds that a hub may have us wait
_BUSY = (429, 500, 502, 503, 504)
_OTHER_WEIGHTS = (
    *(".bin", ".h5", ".msgpack", ".ot", ".onnx", ".onnx_data", ".gguf", ".ggml", ".pth", ".pt", ".ckpt"),
    *(".tflite", ".mlmodel", ".npz", ".pkl"),
)
_OTHER_FOLDERS = frozenset({"onnx", "openvino", "coreml", "original"})
_SIGNATURES = (".sig", ".sigstore", ".sigstore.json")
_NEVER = IGNORED | {".gitattributes", ".gitignore"}


def matches(ref: str) -> bool:
    """True for `hf://…`."""
    return ref.startswith(_SCHEME)


def resolve(ref: str, settings: Settings) -> Pin:
    """Return the commit that the revision names now (`main` if there is none), with the SHA-256 of every file."""
    found = _REF.fullmatch(ref)
    if found is None:
        raise UsageError(
            f"`{redact_address(ref)}` is not a model on a hub",
            hint="write `hf://org/name@revision`; the revision is a commit, a tag or a branch",
        )
    name, revision = found[1], found[2] or "main"
    hub = _Hub(name, settings.timeout)
    about = hub.about(revision)
    commit, listed = _read(about, name, revision)
    small = [path for path, (blob, _) in listed.items() if blob is None]
    with _pool() as pool:
        hashed = dict(zip(small, pool.map(lambda path: hub.small(commit, path, listed[path][1]), small), strict=True))
    files = {path: blob or hashed[path] for path, (blob, _) in listed.items()}
    rows = {path: [files[path].digest, files[path].size] for path in sorted(files)}
    return Pin("huggingface", f"{_SCHEME}{name}@{commit}", {"name": name, "version": commit, "files": rows})


def fetch(pin: Pin, settings: Settings, out: Path, on_event: OnEvent) -> Mapping[str, Blob]:
    """Download every file of the pinned commit; each must be what was pinned."""
    files = {path: Blob(digest, size) for path, (digest, size) in pin.details["files"].items()}
    check_paths(files)
    name, _, commit = pin.uri.removeprefix(_SCHEME).rpartition("@")
    hub = _Hub(name, settings.timeout)
    moved = byte_counter("model", sum(blob.size for blob in files.values()), on_event)

    def write(path: str, blob: Blob) -> None:
        target = out / check_path(path)
        with storage_errors(out):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb", buffering=0) as sink:
                got = hub.download(commit, path, blob.size, sink, moved)
        if got != blob:
            raise IntegrityError(
                f"`{path}` of `{name}` is not what the lock pinned: expected {blob.digest}, got {got.digest}",
                subject=path,
                hint="fetch it again; if it stays so, the hub or what stands between changed it",
            )

    with _pool() as pool:
        for done in [pool.submit(write, path, blob) for path, blob in files.items()]:
            done.result()
    return files


@contextlib.contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool that begins nothing more once something failed."""
    pool = ThreadPoolExecutor(_CONNECTIONS)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# what the hub says of a repository


def _read(about: JSON, name: str, revision: str) -> tuple[str, dict[str, tuple[Blob | None, str]]]:
    """Return the commit, and of every file that is wanted its blob, or None and its git object id."""
    try:
        called, commit = about["id"], about["sha"]
        rows = {row["rfilename"]: row for row in about["siblings"]}
        known = isinstance(called, str) and _COMMIT.fullmatch(commit) is not None
        listed = {path: _described(rows[path]) for path in _wanted(list(rows))} if known else {}
    except (KeyError, TypeError, ValueError, AttributeError):
        known = False
    if not known:
        raise SourceError(f"what the hub says of `{name}` is not understood", hint="check HF_ENDPOINT")
    if called != name:
        where = f"write `hf://{called}`" if _REF.fullmatch(f"hf://{called}") else "look it up on the hub"
        raise SourceError(f"`{name}` has moved on the hub", hint=f"{where}, if that is the publisher you mean")
    if _COMMIT.fullmatch(revision) and commit != revision:
        raise SourceError(f"the hub answers with commit {commit} for {revision} of `{name}`", hint="check HF_ENDPOINT")
    check_paths(listed)
    if not listed:
        raise SourceError(f"`{name}` holds no files at {commit}", hint="name another revision: `hf://org/name@v1`")
    if len(listed) > _FILES or sum(blob.size for blob, _ in listed.values() if blob) > _SIZE:
        raise SourceError(f"`{name}` holds more than {_FILES} files or {_SIZE >> 40} TiB")
    return commit, listed


def _described(row: JSON) -> tuple[Blob | None, str]:
    """Return the blob of a file in large storage, or None and the git object id of a small one. Raises ValueError."""
    large = row.get("lfs")
    if large is None:
        if not _COMMIT.fullmatch(row["blobId"]):
            raise ValueError("git object id")
        return None, row["blobId"]
    if not _HEX.fullmatch(large["sha256"]) or type(large["size"]) is not int or large["size"] < 0:
        raise ValueError("blob")
    return Blob(f"sha256:{large['sha256']}", large["size"]), ""


def _wanted(paths: Sequence[str]) -> list[str]:
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


# requests


class _BusyError(Exception):
    """The hub asks to come back, after so many seconds if it says so."""

    def __init__(self, status: int, after: int | None) -> None:
        super().__init__(status)
        self.status, self.after = status, after


class _Hub:
    """One repository of the hub that `huggingface_hub` is set to."""

    def __init__(self, name: str, timeout: int) -> None:
        self._name, self._timeout = name, timeout
        self._library = _library("huggingface_hub")
        self._endpoint = _library("huggingface_hub.constants").ENDPOINT.rstrip("/")
        self._headers = {
            **_library("huggingface_hub.utils").build_hf_headers(library_name="packager"),
            "accept-encoding": "identity",
        }

    def about(self, revision: str) -> JSON:
        """Return what the hub says of the repository at a revision."""
        url = f"{self._endpoint}/api/models/{self._name}/revision/{quote(revision, safe='')}?blobs=true"
        try:
            return json.loads(self._tried(lambda: self._whole(url, revision), revision))
        except (ValueError, RecursionError):
            raise SourceError(
                f"what the hub says of `{self._name}` is not understood", hint="check HF_ENDPOINT"
            ) from None

    def _whole(self, url: str, what: str) -> bytes:
        found = bytearray()
        with self._opened(url, what) as response:
            for piece in response.iter_bytes(CHUNK):
                found += piece
                if len(found) > _ANSWER:
                    raise SourceError(f"the hub's answer about `{self._name}` has more than {_ANSWER >> 20} MiB")
        return bytes(found)

    def small(self, commit: str, path: str, object_id: str) -> Blob:
        """Hash a file that git holds itself; its object id says whether it is that of the commit."""
        kept = io.BytesIO()
        got = self.download(commit, path, None, kept, ignore_count)
        data = kept.getvalue()
        if hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() != object_id:
            raise IntegrityError(
                f"`{path}` of `{self._name}` is not that of commit {commit}", subject=path, hint="lock it again"
            )
        return got

    def download(self, commit: str, path: str, size: int | None, sink: BinaryIO, moved: Callable[[int], None]) -> Blob:
        """Write a file and return what came; continues where a connection broke, or begins again where that is refused.

        Stops before it is longer than `size`; without one whatever comes is it, up to 64 MiB.
        """
        url = f"{self._endpoint}/{self._name}/resolve/{commit}/{quote(path)}"
        digest, done = hashlib.sha256(), 0
        limit = _SMALL if size is None else size

        def attempt() -> None:
            nonlocal digest, done
            with self._opened(url, path, start=done) as response:
                if done and response.status_code != 206:
                    sink.seek(0)
                    sink.truncate()
                    moved(-done)
                    digest, done = hashlib.sha256(), 0
                for piece in response.iter_bytes():
                    if done + len(piece) > limit:
                        raise SourceError(f"`{path}` of `{self._name}` is longer than {limit} bytes", hint=_LONGER)
                    digest.update(piece)
                    _write(sink, piece)
                    done += len(piece)
                    moved(len(piece))
            if size is not None and done < size:
                raise EOFError(f"it ended after {done} of {size} bytes")

        self._tried(attempt, path)
        return Blob(f"sha256:{digest.hexdigest()}", done)

    def _tried(self, call: Callable[[], Any], what: str) -> Any:
        """Call; what may be temporary is tried again. Raises SourceError that says what it was at last."""
        for number in range(1, _ATTEMPTS + 1):
            wait = min(2 ** (number - 1), 8) / 4
            try:
                return call()
            except PackagerError:
                raise
            except _BusyError as busy:
                reason = "it has had too many requests" if busy.status == 429 else f"it answers {busy.status}"
                later = f", in {busy.after} s" if busy.after else ""
                problem = SourceError(f"the hub does not serve `{self._name}` now: {reason}", hint=f"try again{later}")
                if busy.after is not None and busy.after > _PATIENCE:
                    raise problem from None
                wait = max(wait, busy.after or 0)
            except EOFError as error:
                problem = SourceError(f"the download of `{what}` of `{self._name}` broke off: {error}", hint=_AGAIN)
            except OSError as error:
                if type(error).__name__ == "OfflineModeIsEnabled":
                    raise SourceError("the hub is not contacted: HF_HUB_OFFLINE is set", hint="unset it") from None
                raise
            except Exception as error:  # those of the client below, whose name depends on its version
                problem = SourceError(
                    f"the hub cannot be reached for `{what}` of `{self._name}`: {type(error).__name__}", hint=_AGAIN
                )
            if number < _ATTEMPTS:
                time.sleep(wait)
        raise problem

    @contextlib.contextmanager
    def _opened(self, url: str, what: str, start: int = 0) -> Iterator[Any]:
        """Yield an answer that is one. Raises SourceError, _BusyError, or what the client raises."""
        headers = {**self._headers, **({"range": f"bytes={start}-"} if start else {})}
        session = self._library.get_session()
        with session.stream("GET", url, headers=headers, timeout=self._timeout, follow_redirects=True) as response:
            if response.status_code in _BUSY:
                after = response.headers.get("retry-after", "")
                raise _BusyError(response.status_code, int(after) if re.fullmatch(r"[0-9]{1,6}", after) else None)
            if response.status_code == 416 and start:
                raise EOFError(f"it ended after {start} bytes")
            if response.status_code not in (200, 206):
                raise self._refusal(response, what)
            yield response

    def _refusal(self, response: Any, what: str) -> SourceError:
        """Return what an answer that is no success means. The hub's own words are not repeated."""
        status, code = response.status_code, response.headers.get("x-error-code", "")
        name, has_token = self._name, "authorization" in self._headers
        if code == "GatedRepo":
            return SourceError(f"`{name}` is gated: its terms have to be accepted first", hint=_GATED)
        if code == "RevisionNotFound":
            return SourceError(
                f"`{name}` has no revision `{what}`, or no longer", hint="look it up on the hub and lock it again"
            )
        if code == "EntryNotFound":
            return SourceError(f"`{what}` is not in `{name}`, or no longer", hint="run `packager lock` again")
        if status == 403:
            return SourceError(
                f"`{name}` may not be read with this token", hint="give the token in HF_TOKEN that right"
            )
        if status == 401 and has_token and code != "RepoNotFound":
            return SourceError(f"the hub does not accept the token for `{name}`", hint="set HF_TOKEN to a valid one")
        if status in (401, 404):
            return SourceError(f"`{name}` is not on the hub, or private", hint=_PRIVATE)
        return SourceError(f"the hub answers {status} for `{name}`", hint="check HF_ENDPOINT, and try again")


_AGAIN = "check the network and HF_ENDPOINT, and try again"
_GATED = "accept them on the hub's page of the model, and set HF_TOKEN to a token of that account"
_PRIVATE = "check the name; for a private model set HF_TOKEN"
_LONGER = "lock it again, and look who changed it"


def _write(sink: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[sink.write(view) or 0 :]


def _library(name: str) -> Any:
    """Import a part of the hub's client, and keep it from writing what a hub says to the terminal."""
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError:
        raise MissingToolError("huggingface_hub", "hub") from None
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    return found
