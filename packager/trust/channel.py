# SPDX-License-Identifier: Apache-2.0
"""Fetch a trust file through The Update Framework (TUF), from a folder or a URL: `tuf+file:///…`, `tuf+https://…`.

TUF adds freeze protection to a signed trust file: the repository's timestamp expires within days. Its metadata is kept
in `folder`, so that an older repository is refused. The fetched file is still checked like every trust file
(`trust.file.accept`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packager import canonical
from packager.errors import (
    MalformedError,
    MissingToolError,
    OutdatedError,
    PackagerError,
    RolledBackError,
    SourceError,
    TrustFileError,
    UsageError,
    WrongContentError,
)
from packager.files import storage_errors
from packager.trust.file import MAX_FILE

SCHEME = "tuf+"
_EXAMPLE = "write for example tuf+file:///media/usb/channel#acme.trust, or tuf+https://host/channel#acme.trust"


def fetch(location: str, root: bytes, folder: Path) -> bytes:
    """Return the target that `location` names: a repository and, after `#`, the name of the trust file in it.

    `root` is the first root metadata, distributed with the trust file; `folder` keeps the metadata, one folder for each
    repository. Raises RolledBackError, OutdatedError, TrustFileError, WrongContentError or MalformedError for what TUF
    refuses, SourceError when the repository does not answer.
    """
    parts = urlsplit(location.removeprefix(SCHEME))
    if not location.startswith(SCHEME) or parts.scheme not in ("file", "https", "http") or not parts.fragment:
        raise UsageError(f"`{location}` names no TUF repository and target", hint=_EXAMPLE)
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost"):
        raise UsageError(f"`{location}` is without TLS", hint="use tuf+https://")
    base = parts._replace(fragment="").geturl().rstrip("/")
    here = folder / canonical.sha256(base.encode())[7:23]
    with storage_errors(folder):
        (here / "targets").mkdir(parents=True, exist_ok=True)
    client = _library("tuf.ngclient")
    fetcher = _folder_fetcher(Path(unquote(parts.path))) if parts.scheme == "file" else None
    try:
        updater = client.Updater(
            str(here),
            f"{base}/metadata/",
            str(here / "targets"),
            f"{base}/targets/",
            fetcher,
            client.UpdaterConfig(max_root_rotations=64, targets_max_length=MAX_FILE),
            bootstrap=_known(here, root),
        )
        target = updater.get_targetinfo(parts.fragment)
        if target is None:
            raise UsageError(f"the repository has no target `{parts.fragment}`", hint=_EXAMPLE)
        return Path(updater.download_target(target)).read_bytes()
    except _failures() as error:
        raise _translated(error, base) from error


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingToolError("tuf", "tuf") from error


def _known(here: Path, root: bytes) -> bytes:
    """Return the newest root that was accepted here, else the first one."""
    path = here / "root.json"
    return path.read_bytes() if path.exists() else root


def _folder_fetcher(folder: Path) -> Any:
    """Return a fetcher that reads files below `folder`, without a network."""
    fetching, errors = _library("tuf.ngclient.fetcher"), _library("tuf.api.exceptions")
    inside = folder.resolve()

    base: Any = fetching.FetcherInterface

    class FolderFetcher(base):  # type: ignore[misc]
        def _fetch(self, url: str) -> Iterator[bytes]:
            path = Path(unquote(urlsplit(url).path)).resolve()
            if not path.is_relative_to(inside) or not path.is_file():
                raise errors.DownloadHTTPError(f"`{path.name}` is not there", 404)
            with path.open("rb") as file:
                while data := file.read(1 << 16):
                    yield data

    return FolderFetcher()


def _failures() -> tuple[type[Exception], ...]:
    errors = _library("tuf.api.exceptions")
    return errors.RepositoryError, errors.DownloadError


def _translated(error: Exception, base: str) -> PackagerError:
    errors = _library("tuf.api.exceptions")
    reason = f"the channel `{base}` is refused: {error!s:.200}"
    if isinstance(error, errors.ExpiredMetadataError):
        return OutdatedError(
            reason, hint="fetch the channel again; if it stays expired, an attacker may be withholding the current one"
        )
    if isinstance(error, errors.BadVersionNumberError):
        return RolledBackError(reason)
    if isinstance(error, errors.UnsignedMetadataError):
        return TrustFileError(reason)
    if isinstance(error, errors.LengthOrHashMismatchError | errors.DownloadLengthMismatchError):
        return WrongContentError(reason, subject=base)
    if isinstance(error, errors.DownloadError):
        return SourceError(f"the channel `{base}` does not answer: {error!s:.200}")
    return MalformedError(reason, subject=base)
