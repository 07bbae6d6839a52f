# SPDX-License-Identifier: Apache-2.0
"""Models on ModelScope: `modelscope://org/name`, `modelscope://org/name@revision`.

The hub's listing names no commit of a branch, but the SHA-256 of every file: the pin holds the revision as it was
written and those. A revision that moves after `lock` is noticed by its bytes; a tag or a commit does not move. A
download is read as a stream, over redirects, continued where it broke off, and refused unless every byte is as pinned.
Of a repository with safetensors beside its `config.json` the same weights in other formats are left out, as from other
hubs.

Endpoint and token are those of `modelscope_hub` (`MODELSCOPE_ENDPOINT`, `MODELSCOPE_API_TOKEN`, what `ms login` saved).
A token is sent to the hub alone, not to where it redirects.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packager.canonical import JSON
from packager.errors import MissingToolError, SourceError, UsageError
from packager.events import OnEvent
from packager.files import ignore_count
from packager.sources import Pin, Settings, _hub, redact_address
from packager.types import Blob

EXTRA: str | None = "hub"

_SCHEME = "modelscope://"
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REF = re.compile(rf"modelscope://({_PART}/{_PART})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,200}}))?")
_HEX = re.compile(r"[0-9a-f]{64}")
_TRUNCATED = 3000  # the hub's listing ends there without a word
_PIECE = 64 << 10  # bytes; what came before a connection broke is kept


def matches(ref: str) -> bool:
    """True for `modelscope://…`."""
    return ref.startswith(_SCHEME)


def resolve(ref: str, settings: Settings) -> Pin:
    """Return the revision (`master` if there is none) with the SHA-256 of every file that it holds now."""
    found = _REF.fullmatch(ref)
    if found is None:
        raise UsageError(
            f"`{redact_address(ref)}` is not a model on ModelScope",
            hint="write `modelscope://org/name@revision`; the revision is a commit, a tag or a branch",
        )
    name, revision = found[1], found[2] or "master"
    hub = _Repository(name, settings.timeout)
    listed = _read(hub, revision)
    unhashed = [path for path, (digest, _) in listed.items() if digest is None]
    with _hub.open_pool() as pool:
        hashed = dict(
            zip(unhashed, pool.map(lambda path: hub.hash_file(revision, path, listed[path][1]), unhashed), strict=True)
        )
    rows = {path: [digest or hashed[path], size] for path, (digest, size) in sorted(listed.items())}
    return Pin("modelscope", f"{_SCHEME}{name}@{revision}", {"name": name, "version": revision, "files": rows})


def fetch(pin: Pin, settings: Settings, out: Path, on_event: OnEvent) -> Mapping[str, Blob]:
    """Download every file of the pin; each must have the bytes that were pinned."""
    files = {path: Blob(digest, size) for path, (digest, size) in pin.details["files"].items()}
    name, _, revision = pin.uri.removeprefix(_SCHEME).partition("@")
    _Repository(name, settings.timeout).download_all(revision, files, out, on_event)
    return files


def _read(hub: _Repository, revision: str) -> dict[str, tuple[str | None, int]]:
    """Return digest (None where the hub states none) and size in bytes of every file that is wanted."""
    answer = hub.list_files(revision)
    try:
        entries = answer["Data"]["Files"]
        rows = {row["Path"]: row for row in entries if row["Type"] != "tree"}
        listed = {path: _describe(rows[path]) for path in _hub.wanted_files(list(rows))}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise hub.misunderstood() from None
    if len(entries) >= _TRUNCATED:
        raise SourceError(
            f"`{hub.name}` holds {_TRUNCATED} files or more: the hub does not list them all",
            hint="download it with `modelscope_hub`, and name the directory as the source",
        )
    _hub.check_listing(hub.name, {path: size for path, (_, size) in listed.items()})
    return listed


def _describe(row: JSON) -> tuple[str | None, int]:
    """Return digest and size of a file. Raises ValueError."""
    stated, size = row.get("Sha256"), row["Size"]
    if type(size) is not int or size < 0 or (stated and not _HEX.fullmatch(stated)):
        raise ValueError("blob")
    return (f"sha256:{stated}" if stated else None), size


class _Repository(_hub.Repository):
    """One repository of the hub that `modelscope_hub` is set to."""

    setting = "MODELSCOPE_ENDPOINT"

    def __init__(self, name: str, timeout: int) -> None:
        super().__init__(name)
        self._timeout = timeout
        config = _library("modelscope_hub.config").get_default_config()
        default = _library("modelscope_hub.constants").DEFAULT_ENDPOINT
        self._endpoint: str = (config.endpoint or default).rstrip("/")
        self._token: str | None = config.token

    def list_files(self, revision: str) -> JSON:
        """Return the hub's listing of a revision."""
        url = f"{self._address}/files?Revision={quote(revision, safe='')}&Recursive=True"
        return self.read_document(url, revision)

    def hash_file(self, revision: str, path: str, size: int) -> str:
        """Download a file and return its digest."""
        return self.download(revision, path, size, io.BytesIO(), ignore_count).digest

    @property
    def _address(self) -> str:
        return f"{self._endpoint}/api/v1/models/{self.name}/repo"

    def file_url(self, revision: str, path: str) -> str:
        return f"{self._address}?Revision={quote(revision, safe='')}&FilePath={quote(path, safe='')}"

    @contextlib.contextmanager
    def send_request(self, url: str, headers: Mapping[str, str]) -> Iterator[tuple[_hub.Response, Iterator[bytes]]]:
        requests = _library("requests")
        sent = {**headers, "user-agent": "packager"}
        with requests.Session() as session:
            if self._token:  # older endpoints read the cookie, newer ones the header; no redirection takes them along
                sent |= {"authorization": f"Bearer {self._token}", "cookie": f"m_session_id={self._token}"}
            with session.get(url, headers=sent, timeout=self._timeout, stream=True) as response:
                yield response, response.iter_content(_PIECE)

    def explain_refusal(self, response: _hub.Response, what: str) -> SourceError:
        status, name = response.status_code, self.name
        if status in (401, 403) and self._token:
            return SourceError(
                f"`{name}` may not be read with this token",
                hint="accept its terms on the hub's page of the model, or set MODELSCOPE_API_TOKEN to another",
            )
        if status in (401, 403, 404):
            return SourceError(
                f"`{name}` has no `{what}`, is not on the hub, or is private",
                hint="check name and revision; for a private model set MODELSCOPE_API_TOKEN",
            )
        return SourceError(f"the hub answers {status} for `{name}`", hint=f"check {self.setting}, and try again")


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise MissingToolError("modelscope_hub", "hub") from None
