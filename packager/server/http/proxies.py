# SPDX-License-Identifier: Apache-2.0
"""Reverse proxies and browsers: path prefix, forwarded headers, and CORS.

All of it is off by default: a header that any client may send is trusted only where a proxy writes it.

Sources: the `X-Forwarded-…` headers as nginx, Envoy and Traefik write them; the Fetch standard, "CORS protocol".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_METHODS = "GET, HEAD, POST"
_ALLOWED_HEADERS = (
    "accept-encoding, authorization, content-encoding, content-type, inference-header-content-length, traceparent, "
    "x-request-timeout"
)
_EXPOSED_HEADERS = "content-encoding, inference-header-content-length, retry-after"
_CACHED_SECONDS = 600
_MAX_LENGTH = 200  # characters of a proxy's header, in a log or an address

Fields = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Proxies:
    """`prefix`: what proxies leave before paths; `forwarded`: trust their headers; `origins`: allowed by CORS.

    `*` allows every origin.
    """

    prefix: str = ""
    forwarded: bool = False
    origins: frozenset[str] = frozenset()

    def path(self, path: str) -> str:
        """Return a path without the prefix; a path that lacks it is accepted: probes do not pass the proxy."""
        if self.prefix and path.startswith(f"{self.prefix}/"):
            return path[len(self.prefix) :]
        return path

    def client(self, headers: Any, client: str) -> str:
        """Return the client's address: the last one that a trusted proxy wrote, else the peer's."""
        value = headers.get("x-forwarded-for", "") if self.forwarded else ""
        return value.rpartition(",")[2].strip()[:_MAX_LENGTH] or client

    def base(self, headers: Any) -> str:
        """Return the address of this server as its clients see it, relative if no header gives more."""
        if not self.forwarded:
            return self.prefix or "/"
        scheme, host, prefix = (_first(headers, f"x-forwarded-{name}") for name in ("proto", "host", "prefix"))
        before = f"{scheme}://{host}" if scheme in ("http", "https") and host else ""
        return f"{before}{prefix or self.prefix}" or "/"

    def preflight(self, method: str, headers: Any) -> Fields | None:
        """Return the header fields of the answer to a CORS preflight request; None if it is not an allowed one."""
        if method != "OPTIONS" or "access-control-request-method" not in headers or not self._allows(headers):
            return None
        return [
            *self.fields(headers),
            ("access-control-allow-methods", _METHODS),
            ("access-control-allow-headers", _ALLOWED_HEADERS),
            ("access-control-max-age", str(_CACHED_SECONDS)),
        ]

    def fields(self, headers: Any) -> Fields:
        """Return the header fields that let a page of another origin read an answer."""
        if not self.origins:
            return []
        varies = [("vary", "origin")]
        if not self._allows(headers):
            return varies
        origin = "*" if "*" in self.origins else headers.get("origin")
        return [("access-control-allow-origin", origin), ("access-control-expose-headers", _EXPOSED_HEADERS), *varies]

    def _allows(self, headers: Any) -> bool:
        origin = headers.get("origin")
        return origin is not None and ("*" in self.origins or origin in self.origins)


def _first(headers: Any, name: str) -> str:
    """Return the first value of a header that may have one for each proxy."""
    value: str = headers.get(name, "")
    return value.partition(",")[0].strip()[:_MAX_LENGTH]
