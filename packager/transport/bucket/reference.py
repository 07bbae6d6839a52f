# SPDX-License-Identifier: Apache-2.0
"""Parse references to bundles in buckets."""

from __future__ import annotations

import re
from dataclasses import dataclass

from packager.bundle.bundle import Bundle
from packager.errors import UsageError
from packager.names import tag_of
from packager.types import DIGEST

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_REST = re.compile(r"[^\x00-\x20\x7f?#*\[\]\\]+")  # no query, and nothing that a driver may read as a pattern
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")  # as in registries
_SECRET = re.compile(r"//[^/@]*@")


def hide_credentials(address: str) -> str:
    """Return an address without user and password."""
    return _SECRET.sub("//", address)


@dataclass(frozen=True, slots=True)
class Reference:
    """One bundle of a remote file system; without a tag the name of its versions."""

    name: str  # scheme://bucket/name
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        """Return the reference for display: without a password in the address."""
        tag = f":{self.tag}" if self.tag else ""
        return hide_credentials(self.name) + tag + (f"@{self.digest}" if self.digest else "")

    def pinned(self, bundle: Bundle) -> Reference:
        """Return the reference of exactly this `bundle` at this address."""
        return Reference(self.name, self.tag or tag_of(bundle.version), bundle.digest)


def parse(text: str) -> Reference:
    """Parse `scheme://bucket/name[:version][@sha256:…]`. Raises UsageError, which names the wrong part."""
    scheme, _, rest = text.partition("://")
    folder, slash, last = rest.rpartition("/")
    path, at, digest = last.partition("@") if "@sha256:" in last else (last, "", "")
    name, colon, tag = path.partition(":")
    parts = folder.removeprefix("/").split("/")
    faults = {
        "scheme": not _SCHEME.fullmatch(scheme),  # `simplecache::s3` and its like are none
        "place": not slash or not _REST.fullmatch(rest) or bool({"", ".", ".."} & set(parts)),
        "name": not name or name in (".", ".."),
        "version": bool(colon) and not _TAG.fullmatch(tag),
        "digest": bool(at) and not DIGEST.fullmatch(digest),
    }
    if wrong := [part for part, fault in faults.items() if fault]:
        raise UsageError(
            f"`{hide_credentials(text):.300}` is no bundle in a bucket: its {wrong[0]} is malformed",
            hint="write for example s3://bucket/folder/name:version",
        )
    return Reference(f"{scheme}://{folder}/{name}", tag or None, digest or None)


def folder_address(text: str) -> str:
    """Return the address of a folder in an object store, checked, without a slash at its end. Raises UsageError."""
    scheme, _, rest = text.rstrip("/").partition("://")
    host = rest.partition("/")[0]
    if not _SCHEME.fullmatch(scheme) or not _REST.fullmatch(rest) or {"", ".", ".."} & set(rest.split("/")):
        raise UsageError(
            f"`{hide_credentials(text):.300}` is no folder in a bucket", hint="write for example s3://bucket/folder"
        )
    if scheme in ("s3", "s3a") and ":" in host:
        raise UsageError(
            f"`{hide_credentials(text):.300}` names a server, not a bucket",
            hint=f"set AWS_ENDPOINT_URL=http://{host} and write s3://bucket/folder",
        )
    return f"{scheme}://{rest}"
