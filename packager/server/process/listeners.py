# SPDX-License-Identifier: Apache-2.0
"""Listening sockets: open them, stop accepting on them without a reset, and explain why an address is not available."""

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
_HANDSHAKE_SECONDS = 0.3  # for handshakes in progress; less than the second after which kernels send a SYN again
_QUEUE_SECONDS = 1.0  # for an accept queue that other processes fill, and empty as well
_POLL_SECONDS = 0.001
_INSTRUCTION = struct.Struct("HBBI")
# Classic BPF over the TCP header: drop a segment with SYN and without ACK, take every other. See socket(7), bpf(4).
_SYN_FILTER = (
    (0x30, 0, 0, 13),
    (0x54, 0, 0, 0x12),
    (0x15, 0, 1, 0x02),
    (0x06, 0, 0, 0),
    (0x06, 0, 0, 0xFFFFFFFF),
)


def check_port_free(host: str, port: int) -> str:
    """Return the numeric address of `host` if `port` is free there. Raises StartError.

    granian listens with SO_REUSEPORT, with which a second server would silently take half of the connections of a
    first; a socket without it, bound for a moment, finds out.
    """
    with _bind(host, port) as probe:
        return str(probe.getsockname()[0])


def open_listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens there. Raises StartError."""
    listener = _bind(host, port)
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        raise address_error(host, port, error) from None
    listener.setblocking(False)
    return listener


def reserve_port(host: str, port: int) -> socket.socket:
    """Return a socket that keeps a port from other users, while processes of this user may share it.

    Raises StartError.
    """
    check_port_free(host, port)
    return _bind(host, port, shared=True)


def drop_new_connections(descriptor: int) -> None:
    """Drop new SYNs on a listening socket; let handshakes in progress complete.

    A client's kernel sends the SYN again after a second. By then another process may listen. Closing the listener at
    once would reset connections that the kernel has completed and no process has accepted yet.
    """
    program = array.array("B", b"".join(_INSTRUCTION.pack(*step) for step in _SYN_FILTER))
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        listener.setsockopt(
            socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", len(_SYN_FILTER), program.buffer_info()[0])
        )


async def stop_accepting(listeners: Sequence[int], *, exclusive: bool) -> None:
    """Take no further connection on these listeners; those in the accept queue are still accepted.

    `exclusive`: no other process has the socket, so that SYNs may be dropped first and handshakes in progress complete.
    """
    if exclusive:
        for listener in listeners:
            drop_new_connections(listener)
        await asyncio.sleep(_HANDSHAKE_SECONDS)
    end = time.monotonic() + _QUEUE_SECONDS
    while any(map(accept_queue_length, listeners)) and (exclusive or time.monotonic() < end):
        await asyncio.sleep(_POLL_SECONDS)
    detach_listeners(listeners)


def accept_queue_length(descriptor: int) -> int:
    """Return how many connections wait for a listener to accept them."""
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
    return int(struct.unpack_from("I", info, 24)[0])  # tcpi_unacked, which is that number for a listener


def duplicates_of(descriptor: int) -> list[int]:
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


def detach_listeners(descriptors: Iterable[int]) -> None:
    """Replace each descriptor (dup2) with an unreachable socket, so that the event loop stops accepting.

    granian has no call that stops accepting, and closing its listener closes connections that were just accepted and
    have not sent a request yet.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as unreachable:
        unreachable.bind("")  # an abstract name that the kernel chooses and that is published nowhere
        unreachable.listen()
        for descriptor in descriptors:
            os.dup2(unreachable.fileno(), descriptor, inheritable=False)


def sockets_on_port(port: int, *, listening: bool) -> list[int]:
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


def _bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # One listener has one address: of a name with several, clients most likely try the IPv4 one.
        family, kind, number, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        bound = socket.socket(family, kind, number)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        raise address_error(host, port, error) from None
    return bound


def address_error(host: str, port: int, error: OSError) -> StartError:
    """Return the error of an address that cannot be bound."""
    hint = None
    if error.errno == errno.EADDRINUSE:
        hint = f"`ss -ltnp sport = :{port}` shows the process that has it; or choose another `--port`"
    elif error.errno == errno.EACCES:
        hint = "ports below 1024 need a privilege; choose a higher `--port`"
    return StartError(f"cannot listen on {quote(f'{host}:{port}')}: {error.strerror}", code=3, hint=hint)
