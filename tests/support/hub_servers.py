# SPDX-License-Identifier: Apache-2.0
"""What the hubs of the tests share: a hub and its CDN on two ports of this machine."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from typing import Any


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers for `hub`; `who` is `hub` or `cdn`."""

    protocol_version = "HTTP/1.1"
    hub: Any
    who: str

    def log_message(self, *_: object) -> None:
        return

    def send_answer(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def break_off(self, data: bytes, after: int) -> None:
        """Promise all of `data`, send its beginning, and end the connection."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:after])
        self.close_connection = True


@contextlib.contextmanager
def serve_hub(hub: Any, handler: type[Handler]) -> Iterator[None]:
    """Serve a hub at `hub.url` and its CDN at `hub.cdn`."""
    servers = [
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Of", (handler,), {"hub": hub, "who": who}))
        for who in ("hub", "cdn")
    ]
    hub.url, hub.cdn = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
