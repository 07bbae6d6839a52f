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
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packager.canonical import JSON
from packager.errors import IntegrityError, MissingToolError, SourceError, UsageError
from packager.events import OnEvent
from packager.files import ignore_count
from packager.sources import Pin, Settings, _hub, redact_address
from packager.types import Blob

EXTRA: str | None = "hub"

_SCHEME = "hf://"
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REF = re.compile(rf"hf://({_PART}/{_PART}|{_PART})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,200}}))?")
_COMMIT, _HEX = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


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
    hub = _Repository(name, settings.timeout)
    about = hub.about(revision)
    commit, listed = _read(about, name, revision)
    small = [path for path, (blob, _) in listed.items() if blob is None]
    with _hub.open_pool() as pool:
        hashed = dict(zip(small, pool.map(lambda path: hub.small(commit, path, listed[path][1]), small), strict=True))
    files = {path: blob or hashed[path] for path, (blob, _) in listed.items()}
    rows = {path: [files[path].digest, files[path].size] for path in sorted(files)}
    return Pin("huggingface", f"{_SCHEME}{name}@{commit}", {"name": name, "version": commit, "files": rows})


def fetch(pin: Pin, settings: Settings, out: Path, on_event: OnEvent) -> Mapping[str, Blob]:
    """Download every file of the pinned commit; each must be what was pinned."""
    files = {path: Blob(digest, size) for path, (digest, size) in pin.details["files"].items()}
    name, _, commit = pin.uri.removeprefix(_SCHEME).rpartition("@")
    _Repository(name, settings.timeout).download_all(commit, files, out, on_event)
    return files


# what the hub says of a repository


def _read(about: JSON, name: str, revision: str) -> tuple[str, dict[str, tuple[Blob | None, str]]]:
    """Return the commit, and of every file that is wanted its blob, or None and its git object id."""
    try:
        called, commit = about["id"], about["sha"]
        rows = {row["rfilename"]: row for row in about["siblings"]}
        known = isinstance(called, str) and _COMMIT.fullmatch(commit) is not None
        listed = {path: _described(rows[path]) for path in _hub.wanted_files(list(rows))} if known else {}
    except (KeyError, TypeError, ValueError, AttributeError):
        known = False
    if not known:
        raise SourceError(f"what the hub says of `{name}` is not understood", hint="check HF_ENDPOINT")
    if called != name:
        where = f"write `hf://{called}`" if _REF.fullmatch(f"hf://{called}") else "look it up on the hub"
        raise SourceError(f"`{name}` has moved on the hub", hint=f"{where}, if that is the publisher you mean")
    if _COMMIT.fullmatch(revision) and commit != revision:
        raise SourceError(f"the hub answers with commit {commit} for {revision} of `{name}`", hint="check HF_ENDPOINT")
    _hub.check_listing(name, {path: blob.size if blob else 0 for path, (blob, _) in listed.items()})
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


# requests


class _Repository(_hub.Repository):
    """One repository of the hub that `huggingface_hub` is set to."""

    setting = "HF_ENDPOINT"

    def __init__(self, name: str, timeout: int) -> None:
        super().__init__(name)
        self._timeout = timeout
        self._library = _library("huggingface_hub")
        self._endpoint = _library("huggingface_hub.constants").ENDPOINT.rstrip("/")
        self._headers = _library("huggingface_hub.utils").build_hf_headers(library_name="packager")

    def about(self, revision: str) -> JSON:
        """Return what the hub says of the repository at a revision."""
        url = f"{self._endpoint}/api/models/{self.name}/revision/{quote(revision, safe='')}?blobs=true"
        return self.read_document(url, revision)

    def file_url(self, revision: str, path: str) -> str:
        return f"{self._endpoint}/{self.name}/resolve/{revision}/{quote(path)}"

    def small(self, commit: str, path: str, object_id: str) -> Blob:
        """Hash a file that git holds itself; its object id says whether it is that of the commit."""
        kept = io.BytesIO()
        got = self.download(commit, path, None, kept, ignore_count)
        data = kept.getvalue()
        if hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() != object_id:
            raise IntegrityError(
                f"`{path}` of `{self.name}` is not that of commit {commit}", subject=path, hint="lock it again"
            )
        return got

    @contextlib.contextmanager
    def send_request(self, url: str, headers: Mapping[str, str]) -> Iterator[tuple[_hub.Response, Iterator[bytes]]]:
        session, sent = self._library.get_session(), {**self._headers, **headers}
        with session.stream("GET", url, headers=sent, timeout=self._timeout, follow_redirects=True) as response:
            yield response, response.iter_bytes()

    def explain_offline(self, error: OSError) -> SourceError | None:
        if type(error).__name__ != "OfflineModeIsEnabled":
            return None
        return SourceError("the hub is not contacted: HF_HUB_OFFLINE is set", hint="unset it")

    def explain_refusal(self, response: _hub.Response, what: str) -> SourceError:
        status, code = response.status_code, response.headers.get("x-error-code", "")
        name, has_token = self.name, "authorization" in self._headers
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


_GATED = "accept them on the hub's page of the model, and set HF_TOKEN to a token of that account"
_PRIVATE = "check the name; for a private model set HF_TOKEN"


def _library(name: str) -> Any:
    """Import a part of the hub's client, and keep it from writing what a hub says to the terminal."""
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError:
        raise MissingToolError("huggingface_hub", "hub") from None
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    return found
