# SPDX-License-Identifier: Apache-2.0
"""Parse references to bundles in registries."""

from __future__ import annotations

import ipaddress
import re

from packager.errors import UsageError
from packager.records import dataclass
from packager.types import DIGEST

SCHEME = "oci://"
_HOST = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:[0-9]{1,5})?")
_NAME = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")  # distribution-spec 1.1
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Reference:
    """One artifact of a repository, or with neither tag nor digest the repository."""

    host: str
    name: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{SCHEME}{self.host}/{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def is_loopback(self) -> bool:
        """Return whether the host is this machine, by its name alone."""
        host = re.sub(r":[0-9]+$", "", self.host).strip("[]").lower()
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")


def parse(text: str) -> Reference:
    """Parse `oci://host[:port]/name[:tag][@sha256:…]`. Raises UsageError, which names the wrong part."""
    host, slash, rest = text.removeprefix(SCHEME).partition("/")
    path, at, digest = rest.partition("@")
    name, colon, tag = path.partition(":")
    faults = {
        "host": not text.startswith(SCHEME) or not slash or not _HOST.fullmatch(host),
        "name": not _NAME.fullmatch(name) or len(name) > 255,
        "tag": bool(colon) and not TAG.fullmatch(tag),
        "digest": bool(at) and not DIGEST.fullmatch(digest),
    }
    if wrong := [part for part, fault in faults.items() if fault]:
        raise UsageError(
            f"`{text:.300}` is no bundle in a registry: its {wrong[0]} is malformed",
            hint="write oci://host[:port]/name:tag or oci://host/name@sha256:…; names are lower-case",
        )
    return Reference(host, name, tag or None, digest or None)
