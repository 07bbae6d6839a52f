# SPDX-License-Identifier: Apache-2.0
"""What lies between clients and this server: a prefix of its paths, headers of proxies, browsers of other origins.

All of it is off unless the site says so: a header that anybody may send is believed only where a proxy writes it.

Sources: the `X-Forwarded-…` headers as nginx, Envoy and Traefik write them; the Fetch standard, "CORS protocol".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_METHODS = "GET, HEAD, POST"
_ASKED = (
    "accept-encoding, authorization, content-encoding, content-type, inference-header-content-length, traceparent, "
    "x-request-timeout"
)
_SHOWN = "content-encoding, inference-header-content-length, retry-after"
_CACHED_SECONDS = 600
_LONGEST = 200  # characters of what a proxy says, in a log or an address

Fields = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Proxies:
    """`prefix`: what proxies leave before our paths; `forwarded`: believe their headers; `origins`: who may ask.

    Origins are those of pages in browsers, `*` is every one.
    """

    prefix: str = ""
    forwarded: bool = False
    origins: frozenset[str] = frozenset()

    def path(self, path: str) -> str:
        """Return a path as it is here; one without the prefix is taken too: probes come past the proxy."""
        if self.prefix and path.startswith(f"{self.prefix}/"):
            return path[len(self.prefix) :]
        return path

    def client(self, headers: Any, client: str) -> str:
        """Return who asks: the last address that a proxy of ours wrote, else whoever is connected."""
        told = headers.get("x-forwarded-for", "") if self.forwarded else ""
        return told.rpartition(",")[2].strip()[:_LONGEST] or client

    def base(self, headers: Any) -> str:
        """Return the address of this server as its clients see it, relative where nobody says more."""
        if not self.forwarded:
            return self.prefix or "/"
        scheme, host, prefix = (_first(headers, f"x-forwarded-{name}") for name in ("proto", "host", "prefix"))
        before = f"{scheme}://{host}" if scheme in ("http", "https") and host else ""
        return f"{before}{prefix or self.prefix}" or "/"

    def preflight(self, method: str, headers: Any) -> Fields | None:
        """Return the header fields of the answer to a browser that asks whether it may; None: it does not."""
        if method != "OPTIONS" or "access-control-request-method" not in headers or not self._allows(headers):
            return None
        return [
            *self.fields(headers),
            ("access-control-allow-methods", _METHODS),
            ("access-control-allow-headers", _ASKED),
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
        return [("access-control-allow-origin", origin), ("access-control-expose-headers", _SHOWN), *varies]

    def _allows(self, headers: Any) -> bool:
        origin = headers.get("origin")
        return origin is not None and ("*" in self.origins or origin in self.origins)


def _first(headers: Any, name: str) -> str:
    """Return the first value of a header that may have one for each proxy."""
    told: str = headers.get(name, "")
    return told.partition(",")[0].strip()[:_LONGEST]
