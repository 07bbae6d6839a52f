# SPDX-License-Identifier: Apache-2.0
"""The worker process, which only runs the model; `pool` starts it, sends it runs, and replaces it when it dies.

It opens the artefact, describes its ports, and performs one run after another. It ends when the channel to the server
process closes, in the middle of a run as well, so that it never outlives that process. It ignores signals that stop a
service, which are for the server process: a drain needs the workers until its end.
"""

from __future__ import annotations

import io
import os
import select
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from packager.server.errors import StartError
from packager.server.execution.huge_pages import start_collapse
from packager.server.execution.session import Port, Session, open_artefact
from packager.server.execution.shared_memory import Receiver, Sender

_OOM_FILE = Path("/proc/self/oom_score_adj")
_OOM_SCORE = 100  # of 1000: when memory is short the kernel kills a worker before the server process


def main(words: list[str]) -> None:
    """Serve one channel.

    `words`: descriptors of its socket and of both memories; runtime, artefact, threads, device, huge pages.
    """
    channel, inbound, outbound = map(int, words[:3])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        _OOM_FILE.write_text(str(min(1000, int(_OOM_FILE.read_text()) + _OOM_SCORE)))
    connection = socket.socket(fileno=channel)
    threading.Thread(target=_exit_with, args=(connection,), daemon=True).start()
    with suppress(OSError, EOFError):  # the server process is gone
        _serve(Receiver(connection, io.FileIO(inbound)), Sender(connection, io.FileIO(outbound, "r+")), *words[3:])
    # Not a return: native threads of a runtime may crash while the interpreter shuts down, and nothing is to be saved.
    os._exit(0)


def _exit_with(channel: socket.socket) -> None:
    """Exit when the other end of `channel` is closed, whatever else the process is doing."""
    poller = select.poll()
    poller.register(channel, 0)  # POLLHUP is always reported
    poller.poll()
    os._exit(0)


def _serve(
    receiver: Receiver, sender: Sender, runtime: str, artefact: str, threads: str, device: str, huge_pages: str
) -> None:
    try:
        session = open_artefact(runtime, Path(artefact), int(threads), device)
    except StartError as error:
        sender.send({"error": error.message, "hint": error.hint}, [])
        return
    sender.send(_describe_session(session), [])
    if huge_pages == "1":
        start_collapse()
    while True:
        _answer(session, receiver, sender)


def _answer(session: Session, receiver: Receiver, sender: Sender) -> None:
    header, feeds = receiver.receive()
    sender.trim()
    try:
        results, answer = session.run(dict(zip(header["names"], feeds, strict=True))), {}
    except Exception as error:  # every runtime raises other exceptions; the message goes to the client
        results, answer = [], {"error": f"{type(error).__name__}: {str(error).strip()}"}
    sender.send(answer, results)


def _describe_session(session: Session) -> dict[str, Any]:
    return {
        "inputs": list(map(_describe_port, session.inputs)),
        "outputs": list(map(_describe_port, session.outputs)),
        "provider": session.provider,
        "version": session.version,
    }


def _describe_port(port: Port) -> list[Any]:
    return [port.name, port.dtype, list(port.shape)]


if __name__ == "__main__":
    main(sys.argv[1:])
