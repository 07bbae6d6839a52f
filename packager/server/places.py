# SPDX-License-Identifier: Apache-2.0
"""Addresses to listen on: find them, hold them, and say why not."""

from __future__ import annotations

import errno
import socket

from packager.server.errors import StartError, quote

_BACKLOG = 1024


def claim(host: str, port: int) -> str:
    """Return the numeric address of `host`, having made sure that `port` is free there. Raises StartError.

    granian listens with SO_REUSEPORT, which lets a second server take half of the connections of a first in
    silence; a listener without it, bound for a moment, finds out.
    """
    with _bound(host, port) as probe:
        return str(probe.getsockname()[0])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there. Raises StartError."""
    listener = _bound(host, port)
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        raise unavailable(host, port, error) from None
    listener.setblocking(False)
    return listener


def reserve(host: str, port: int) -> socket.socket:
    """Return a socket that keeps a port from others, while processes of this user may share it. Raises StartError."""
    claim(host, port)
    return _bound(host, port, shared=True)


def _bound(host: str, port: int, *, shared: bool = False) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # One listener has one address: of a name with several, clients most likely try the IPv4 one.
        family, kind, number, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        place = socket.socket(family, kind, number)
        try:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
            place.bind(address)
        except BaseException:
            place.close()
            raise
    except OSError as error:
        raise unavailable(host, port, error) from None
    return place


def unavailable(host: str, port: int, error: OSError) -> StartError:
    """Return the error of an address that cannot be had."""
    hint = None
    if error.errno == errno.EADDRINUSE:
        hint = f"`ss -ltnp sport = :{port}` shows who has it; or choose another `--port`"
    elif error.errno == errno.EACCES:
        hint = "ports below 1024 need a privilege; choose a higher `--port`"
    return StartError(f"cannot listen on {quote(f'{host}:{port}')}: {error.strerror}", code=3, hint=hint)
