# SPDX-License-Identifier: Apache-2.0
"""An S3-compatible server (moto's, in an environment of its own) as a process of the tests. It keeps all in memory."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.environments import python_with
from tests.support.registry_server import free_port

MOTO = ("moto[server]==5.2.5",)  # the lightest S3 server at hand that knows If-None-Match and If-Match


@dataclass
class ObjectStore:
    """One running server. `environment` is how a command line reaches it, directly or through a proxy."""

    port: int
    log: Path

    def environment(self, port: int | None = None) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
            "AWS_SECRET_ACCESS_KEY": "a/very+secret/word",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def files(self) -> Any:
        """Return the driver's view of it, for looking and damaging."""
        import s3fs

        given = self.environment()
        return s3fs.S3FileSystem(
            key=given["AWS_ACCESS_KEY_ID"],
            secret=given["AWS_SECRET_ACCESS_KEY"],
            use_listings_cache=False,
            client_kwargs={"endpoint_url": given["AWS_ENDPOINT_URL"]},
        )

    def requests(self, start: int = 0) -> list[str]:
        """Return the request lines of the access log from byte `start` on: method, path, status."""
        return [
            row.split('"')[1].removesuffix(" HTTP/1.1") + row.split('"')[2].rstrip(" -\n")
            for row in self.log.read_bytes()[start:].decode("utf-8", "replace").splitlines()
            if row.count('"') >= 2 and "HTTP/1." in row
        ]

    def position(self) -> int:
        return self.log.stat().st_size


@contextlib.contextmanager
def object_store(folder: Path, bucket: str = "models") -> Iterator[ObjectStore]:
    """Run a server with one bucket while the block lasts."""
    folder.mkdir(exist_ok=True)
    made = ObjectStore(free_port(), folder / "log")
    command = [str(python_with(*MOTO)), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(made.port)]
    with made.log.open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", made.port), 1):
                break
            assert process.poll() is None, made.log.read_text()
            time.sleep(0.05)
        made.files().mkdir(bucket)
        yield made
    finally:
        process.terminate()
        process.wait(30)
