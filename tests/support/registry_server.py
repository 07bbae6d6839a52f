# SPDX-License-Identifier: Apache-2.0
"""A real registry (Debian's docker-registry) as a process of the tests, and a proxy in front of it that breaks things.

Everything listens on 127.0.0.1 and ends with the test; processes are ended by their own id.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

CONFIG = """version: 0.1
log: {{level: warn, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}, cache: {{blobdescriptor: inmemory}}}}
http:
  addr: 127.0.0.1:{port}
  secret: a fixed one, so that sessions survive a restart
{more}"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Row:
    """One line of the registry's access log; `sent` counts the bytes of the answer's body."""

    method: str
    path: str
    status: int
    sent: int


@dataclass
class Registry:
    """One running docker-registry."""

    program: str
    folder: Path
    more: str = ""
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        config = self.folder / "config.yml"
        config.write_text(CONFIG.format(root=self.folder / "data", port=self.port, more=self.more))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([self.program, "serve", str(config)], stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self.process
        self.process.send_signal(number)
        self.process.wait()

    def restart(self) -> None:
        self.stop(signal.SIGKILL)
        self.start()

    def rows(self, start: int = 0) -> list[Row]:
        """Return the access log from byte `start` of the log file on."""
        text = (self.folder / "log").read_bytes()[start:].decode("utf-8", "replace")
        found = re.findall(r'"([A-Z]+) (\S+) HTTP/[\d.]+" (\d+) (\d+)', text)
        return [Row(method, path, int(status), int(sent)) for method, path, status, sent in found]

    def position(self) -> int:
        return (self.folder / "log").stat().st_size

    def blobs(self, name: str) -> set[str]:
        """Return the digests of the blobs that repository `name` holds, read from its disk."""
        links = self.folder / f"data/docker/registry/v2/repositories/{name}/_layers/sha256"
        return {f"sha256:{path.name}" for path in links.iterdir()} if links.is_dir() else set()

    def ready(self, url: str) -> bool:
        with contextlib.suppress(OSError):
            return bool(urllib.request.urlopen(url, timeout=5).status == 200)
        return False


@contextlib.contextmanager
def registry(program: str, folder: Path, more: str = "") -> Iterator[Registry]:
    """Run a registry while the block lasts."""
    made = Registry(program, folder, more)
    made.start()
    try:
        yield made
    finally:
        made.stop()


class Proxy:
    """Forwards bytes until stopped. `arm` fires an action once so many bytes were forwarded, in any direction."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.host = f"127.0.0.1:{self.port}"
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._passed, self._after, self._action = 0, -1, (lambda: None)
        self._flip, self.rate = -1, 0.0
        self.fired = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, after: int, action: Callable[[], None]) -> None:
        """Call `action` when `after` more bytes have passed."""
        with self._lock:
            self._passed, self._after, self._action = 0, after, action
            self.fired.clear()

    def start_count(self) -> None:
        """Cut what is left of earlier transfers and count from zero: `passed` is what later ones move."""
        self.cut()
        self.arm(-1, lambda: None)

    @property
    def passed(self) -> int:
        """Bytes that passed since the last `arm` or `start_count`, in both directions, their headers included."""
        with self._lock:
            return self._passed

    def flip(self, after: int) -> None:
        """Change one bit of the byte that is `after` bytes away, on its way to the client."""
        with self._lock:
            self._flip = after

    def cut(self) -> None:
        """Reset every connection, as a cable pulled out does sooner or later."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # the registry is away: so is the answer
                client.close()
                continue
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            for source, sink, down in ((client, server, False), (server, client, True)):
                with contextlib.suppress(OSError):  # cut already
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pump, args=(source, sink, down, pair), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, down: bool, pair: tuple[socket.socket, ...]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(self._passing(data, down))
                if self.rate:
                    time.sleep(len(data) / self.rate)
            sink.shutdown(socket.SHUT_WR)
            return
        for end in pair:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _passing(self, data: bytes, down: bool) -> bytes:
        action = None
        with self._lock:
            self._passed += len(data)
            if 0 <= self._after <= self._passed:
                action, self._after = self._action, -1
            if down and self._flip >= 0:
                if self._flip < len(data):
                    changed = bytearray(data)
                    changed[self._flip] ^= 4
                    data = bytes(changed)
                self._flip -= len(data)
        if action:
            action()
            self.fired.set()
        return data
