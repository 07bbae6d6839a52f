# SPDX-License-Identifier: Apache-2.0
"""Which addresses of wheels may be written into a lock, and the file names in them."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

PUBLIC_HOST = "files.pythonhosted.org"  # where PyPI keeps its files; a mirror's own address would name a host of ours


def public(address: str, indexes: Iterable[str]) -> str | None:
    """Return `address` without credentials and query if strangers may find it there, else None.

    Strangers find it on PyPI, and on the indexes that the recipe itself names.
    """
    parts = urlsplit(address)
    hosts = {PUBLIC_HOST, *(urlsplit(index).hostname for index in indexes)}
    if parts.scheme not in ("https", "http") or parts.hostname not in hosts:
        return None
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def file_name(address: str) -> str:
    """Return the name of the file at an address or path."""
    return unquote(urlsplit(address).path).rpartition("/")[2]
