# SPDX-License-Identifier: Apache-2.0
"""A process that runs the model and nothing else: `workers` starts it, gives it runs, and replaces it when it dies.

It opens the artefact, says what it found, and answers runs one after the other. It ends when the line to the process
that serves does, in the middle of a run as well, so that it outlives nobody. Signals that ask a service to stop are
meant for that process: a drain needs the workers until its end.
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

_ADJUSTMENT = Path("/proc/self/oom_score_adj")
_SACRIFICE = 100  # of 1000: when memory is short the kernel takes a worker before the process that serves


def main(words: list[str]) -> None:
    """Serve one channel.

    `words`: descriptors of its socket and of both memories; runtime, artefact, threads, device, huge pages.
    """
    line, asked, told = map(int, words[:3])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        _ADJUSTMENT.write_text(str(min(1000, int(_ADJUSTMENT.read_text()) + _SACRIFICE)))
    connection = socket.socket(fileno=line)
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    with suppress(OSError, EOFError):  # who serves is gone
        _work(Receiver(connection, io.FileIO(asked)), Sender(connection, io.FileIO(told, "r+")), *words[3:])
    # Not a return: native threads of a runtime may crash while an interpreter is taken down, and nothing is to save.
    os._exit(0)


def _end_with(line: socket.socket) -> None:
    """End the process when the other end of `line` is closed, whatever else it is doing."""
    poller = select.poll()
    poller.register(line, 0)  # an end is always told
    poller.poll()
    os._exit(0)


def _work(
    receiver: Receiver, sender: Sender, runtime: str, artefact: str, threads: str, device: str, huge_pages: str
) -> None:
    try:
        session = open_artefact(runtime, Path(artefact), int(threads), device)
    except StartError as error:
        sender.send({"error": error.message, "hint": error.hint}, [])
        return
    sender.send(_about(session), [])
    if huge_pages == "1":
        start_collapse()
    while True:
        _answer(session, receiver, sender)


def _answer(session: Session, receiver: Receiver, sender: Sender) -> None:
    head, feeds = receiver.receive()
    sender.trim()
    try:
        results, said = session.run(dict(zip(head["names"], feeds, strict=True))), {}
    except Exception as error:  # every runtime has its own exceptions; who asked is told
        results, said = [], {"error": f"{type(error).__name__}: {str(error).strip()}"}
    sender.send(said, results)


def _about(session: Session) -> dict[str, Any]:
    return {
        "inputs": list(map(_described, session.inputs)),
        "outputs": list(map(_described, session.outputs)),
        "provider": session.provider,
        "version": session.version,
    }


def _described(port: Port) -> list[Any]:
    return [port.name, port.dtype, list(port.shape)]


if __name__ == "__main__":
    main(sys.argv[1:])
