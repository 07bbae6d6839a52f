# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 connections to a registry and to the storage behind it, kept open between requests.

`http.client` frames requests and responses and `ssl` checks certificates and host names. Here are what they leave out:
connections that are used again, proxies, and a deadline for every response (`deadline`). Redirects, retries and
credentials are the business of `wire`. `urllib3` does all of this too, and takes 30 ms to import (ADR 424).
"""

from __future__ import annotations

import functools
import http.client
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import cast
from urllib.parse import quote, urlsplit

from packager.errors import UsageError
from packager.transport.registry.deadline import Pace, TimedResponse

_BLOCK = 1 << 20
_URL_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"  # that stay as they are in the target of a request; others are escaped


class Response:
    """The response to one request; its connection is used again once the body was read to its end."""

    def __init__(
        self, connections: Connections, key: _Key, connection: http.client.HTTPConnection, *, reusable: bool
    ) -> None:
        self._connections, self._key, self._connection, self._reusable = connections, key, connection, reusable
        self._below = cast(TimedResponse, connection.getresponse())
        self.status, self.headers = self._below.status, _join_repeated(self._below.headers)

    def read(self, limit: int) -> bytes:
        """Return the body, of which at most `limit` bytes are read. Raises IncompleteRead where it is cut off."""
        data = self._below.read(limit)
        if len(data) < limit and self._below.length:
            raise http.client.IncompleteRead(data, self._below.length)
        return data

    def readinto(self, buffer: memoryview) -> int:
        """Read into `buffer`, and return the number of bytes; 0 at the end of the body."""
        return self._below.readinto(buffer)

    def allow_stream(self) -> None:
        """Limit the body by its rate instead of its total time."""
        self._below.stream()

    def release(self) -> None:
        """Keep the connection for the next request if the body was read to its end, else close it."""
        if self._reusable and self._below.isclosed() and not self._below.will_close:
            self._connections.keep(self._key, self._connection)
        else:
            self.close()

    def close(self) -> None:
        """Close the connection."""
        self._below.close()
        self._connection.close()


_Key = tuple[str, str, int, str]  # scheme, host, port, proxy


class Connections:
    """Idle connections by where they lead. Safe to use from several threads."""

    def __init__(
        self,
        context: Callable[[], ssl.SSLContext],
        proxy: Callable[[str, str], str | None],
        pace: Pace,
        *,
        most: int,
        connect_seconds: float,
        read_seconds: float,
    ) -> None:
        """`context` is called for the first connection with TLS; `most` idle connections are kept to each place."""
        self._context, self._proxy, self._respond = (
            functools.cache(context),
            proxy,
            functools.partial(TimedResponse, pace),
        )
        self._most, self._connect_seconds, self._read_seconds = most, connect_seconds, read_seconds
        self._idle: dict[_Key, list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: Iterable[bytes | memoryview] | None
    ) -> Response:
        """Send one request and return the response, headers read. Raises OSError, HTTPException, UsageError."""
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        key = (parts.scheme, host, port, self._proxy(parts.scheme, host) or "")
        target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        if key[-1] and parts.scheme == "http":  # a proxy forwards what is not encrypted, by its whole address
            target = f"http://{parts.netloc.rpartition('@')[2]}{target}"
        connection = self._take(key) or self._open(key)
        try:
            whole = _send(connection, method, quote(target, safe=_URL_CHARACTERS), headers, body)
            return Response(self, key, connection, reusable=whole)
        except BaseException:
            connection.close()
            raise

    def keep(self, key: _Key, connection: http.client.HTTPConnection) -> None:
        """Keep an idle connection."""
        with self._lock:
            idle = self._idle.setdefault(key, [])
            if len(idle) < self._most:
                idle.append(connection)
                return
        connection.close()

    def _take(self, key: _Key) -> http.client.HTTPConnection | None:
        """Return an idle connection that the other side has not closed meanwhile."""
        while True:
            with self._lock:
                idle = self._idle.get(key)
                connection = idle.pop() if idle else None
            if connection is None or not _is_dropped(connection):
                break
            connection.close()
        if connection is not None:
            connection.sock.settimeout(self._read_seconds)
        return connection

    def _open(self, key: _Key) -> http.client.HTTPConnection:
        scheme, host, port, proxy = key
        through = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else None
        if through is not None and through.scheme not in ("http", "https"):
            raise UsageError(f"proxy `{through.scheme}://{through.hostname}` is of no known kind: expected http://…")
        there = (host, port)
        if through is not None:
            there = (through.hostname or "", through.port or (443 if through.scheme == "https" else 80))
        connection: http.client.HTTPConnection
        if through is not None and through.scheme == "https":
            connection = _ThroughTLS(*there, self._context(), self._connect_seconds)
        elif scheme == "https":
            connection = http.client.HTTPSConnection(
                *there, timeout=self._connect_seconds, context=self._context(), blocksize=_BLOCK
            )
        else:
            connection = http.client.HTTPConnection(*there, timeout=self._connect_seconds, blocksize=_BLOCK)
        connection.response_class = self._respond  # type: ignore[assignment]
        if through is not None and scheme == "https":
            connection.set_tunnel(host, port)
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        connection.sock.settimeout(self._read_seconds)
        return connection


class _ThroughTLS(http.client.HTTPConnection):
    """A connection to a proxy that is itself reached with TLS, and through it to a place with or without TLS."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, seconds: float) -> None:
        super().__init__(host, port, timeout=seconds, blocksize=_BLOCK)
        self._context = context

    def connect(self) -> None:
        raw = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = self._context.wrap_socket(raw, server_hostname=self.host)
        if there := self._tunnel_host:  # type: ignore[attr-defined]
            from urllib3.util.ssltransport import SSLTransport  # TLS within TLS, which `ssl` does not do by itself

            self._tunnel()  # type: ignore[attr-defined]
            self.sock = SSLTransport(self.sock, self._context, there)


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: Iterable[bytes | memoryview] | None,
) -> bool:
    """Send a request, and return whether all of it was sent.

    A server may answer and close before it has read the body, for example that it is too large: its answer counts.
    """
    try:
        connection.request(method, target, body=body, headers=dict(headers))
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _join_repeated(headers: http.client.HTTPMessage) -> Mapping[str, str]:
    """Return headers by name in any case; one that is repeated is a list with commas (RFC 9110, 5.3)."""
    for name in {name.lower() for name in headers}:
        values = headers.get_all(name, [])
        if len(values) > 1:
            del headers[name]
            headers[name] = ", ".join(values)
    return cast(Mapping[str, str], headers)


def _is_dropped(connection: http.client.HTTPConnection) -> bool:
    """Return whether an idle connection was closed by the other side, or has bytes that belong to no request."""
    if connection.sock is None:
        return True
    watched = select.poll()
    watched.register(connection.sock, select.POLLIN)
    return bool(watched.poll(0))


def speaks_tls(host: str, port: int, seconds: float) -> bool:
    """Return whether a server speaks TLS, by a handshake that trusts no authority and ends at the certificate.

    True too where nothing can be said, because the connection broke. Loading the authorities takes 20 ms, which a
    registry without TLS on this machine does not need.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        with socket.create_connection((host, port), seconds) as raw, context.wrap_socket(raw, server_hostname=host):
            return True
    except ssl.SSLError as error:
        return isinstance(error, ssl.SSLCertVerificationError)
    except OSError:
        return True
