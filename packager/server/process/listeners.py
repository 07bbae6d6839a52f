# SPDX-License-Identifier: Apache-2.0
"""Addresses to listen on: find them, hold them, and say why not."""

from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
import stat
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from packager.server.errors import StartError, quote

_BACKLOG = 1024
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER; the socket module has no name for it
_HANDSHAKE_SECONDS = 0.3  # for a client that has begun one; less than the second after which kernels knock again
_QUEUE_SECONDS = 1.0  # for a queue that others fill, and empty as well
_LOOK_SECONDS = 0.001
_INSTRUCTION = struct.Struct("HBBI")
# Classic BPF over the TCP header: drop a segment with SYN and without ACK, take every other. See socket(7), bpf(4).
_KNOCKS = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


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


def deafen(descriptor: int) -> None:
    """Have a listener ignore whoever knocks from now on; handshakes that have begun come to their end.

    The kernel of who knocks does so again after a second. By then another process may be the one that listens: closing
    the listener at once would reset whom the kernel has connected and nobody accepted yet.
    """
    program = array.array("B", b"".join(_INSTRUCTION.pack(*step) for step in _KNOCKS))
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        listener.setsockopt(
            socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", len(_KNOCKS), program.buffer_info()[0])
        )


async def leave(listeners: Sequence[int], *, ours: bool) -> None:
    """Take no further connection at these listeners; those that the kernel has taken are still accepted.

    `ours`: nobody else has the socket, so it may be made deaf first: whose handshake has begun is taken as well.
    """
    if ours:
        for listener in listeners:
            deafen(listener)
        await asyncio.sleep(_HANDSHAKE_SECONDS)
    end = time.monotonic() + _QUEUE_SECONDS
    while any(map(queued, listeners)) and (ours or time.monotonic() < end):
        await asyncio.sleep(_LOOK_SECONDS)
    silence(listeners)


def queued(descriptor: int) -> int:
    """Return how many connections wait for a listener to accept them."""
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        told = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
    return int(struct.unpack_from("I", told, 24)[0])  # tcpi_unacked, which is that number for a listener


def same(descriptor: int) -> list[int]:
    """Return the descriptors of this process that name the same socket."""
    wanted = os.fstat(descriptor).st_ino
    return [number for number in _descriptors() if _inode(number) == wanted]


def _descriptors() -> list[int]:
    return [int(path.name) for path in Path("/proc/self/fd").iterdir()]


def _inode(descriptor: int) -> int:
    try:
        return os.fstat(descriptor).st_ino
    except OSError:  # the descriptor of the listing itself
        return 0


def silence(descriptors: Iterable[int]) -> None:
    """Make each of these listeners name one that nobody can reach; who watches it notices nothing.

    Closing a server's listener instead would have to be asked of the server, and granian's closes connections that were
    just accepted and have not asked yet.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as silent:
        silent.bind("")  # an abstract name that the kernel chooses: nobody is told
        silent.listen()
        for descriptor in descriptors:
            os.dup2(silent.fileno(), descriptor, inheritable=False)


def held(port: int, *, listening: bool) -> list[int]:
    """Return the descriptors of this process that listen at a TCP port, or that are connected to it."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            if not stat.S_ISSOCK(path.stat().st_mode):
                continue
            with socket.socket(fileno=os.dup(int(path.name))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.getsockname()[1] == port:
                    listens = bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
                    found += [int(path.name)] if listens == listening else []
        except OSError:
            continue  # closed meanwhile
    return found


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
