# SPDX-License-Identifier: Apache-2.0
"""A package index on this machine (PEP 503) that opens to whoever has a token in the path, or a password. Real files,
real hashes; what it answers can be changed while it runs.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "tok3nZq81LmPw07Xr"  # in the path
PASSWORD = "s3cret-Passw0rd"


def wheel(name: str, version: str, *, requires: tuple[str, ...] = (), text: str = "") -> bytes:
    """Return a small real wheel of one module."""
    module = name.replace("-", "_")
    about = f"{module}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
    files = {
        f"{module}.py": text,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: MIT\n{needs}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path, content in files.items():
            archive.writestr(zipfile.ZipInfo(path), content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{path},sha256={digest},{len(content)}\n")
        archive.writestr(zipfile.ZipInfo(f"{about}/RECORD"), "".join([*rows, f"{about}/RECORD,,\n"]))
    return data.getvalue()


@dataclass
class PackageIndex:
    """What it holds: files by name, and which of them are yanked, with the reason. `port` is where it is."""

    files: dict[str, bytes] = field(default_factory=dict)
    yanked: dict[str, str] = field(default_factory=dict)
    password: bool = False  # ask for one besides
    asked: list[str] = field(default_factory=list)
    port: int = 0

    def add(self, name: str, version: str, **content: object) -> str:
        file = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        self.files[file] = wheel(name, version, **content)  # type: ignore[arg-type]
        return file

    def address(self, token: str = TOKEN, login: str = "") -> str:
        return f"http://{login}127.0.0.1:{self.port}/{token}/simple"

    def answer(self, path: str, login: str | None) -> tuple[int, str, bytes]:
        """Return status, kind and body."""
        token, _, rest = path.partition("?")[0].strip("/").partition("/")
        wanted = "Basic " + base64.b64encode(f"ada:{PASSWORD}".encode()).decode()
        if token != TOKEN or (self.password and login != wanted):
            return 401, "text/plain", b""
        kind, _, what = rest.partition("/")
        if kind == "files" and what in self.files:
            return 200, "application/octet-stream", self.files[what]
        found = [file for file in sorted(self.files) if _project(file) == what.strip("/")]
        if kind != "simple" or not found:
            return 404, "text/plain", b""
        return 200, "text/html", "".join(map(self._link, found)).encode()

    def _link(self, file: str) -> str:
        digest = hashlib.sha256(self.files[file]).hexdigest()
        yanked = f' data-yanked="{self.yanked[file]}"' if file in self.yanked else ""
        return f'<a href="/{TOKEN}/files/{file}#sha256={digest}"{yanked}>{file}</a>\n'


def _project(file: str) -> str:
    return re.sub(r"[-_.]+", "-", file.split("-")[0]).lower()


@contextlib.contextmanager
def serving() -> Iterator[PackageIndex]:
    """Run an index on a free port."""
    index = PackageIndex()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            index.asked.append(self.path)
            status, kind, body = index.answer(self.path, self.headers.get("Authorization"))
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="packages"')
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
