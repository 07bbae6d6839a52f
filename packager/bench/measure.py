# SPDX-License-Identifier: Apache-2.0
"""Measure an installation: start its server, send its own reference inputs, stop it; once for each round.

Cold start is the time from starting `packager serve` until the server is ready; memory is the proportional set size
(PSS) of all of its processes after the load, in bytes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packager.bench.load import Load, run_load
from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.deploy.canary import Endpoint, encode_request, fitting_vectors
from packager.deploy.installation import Installation
from packager.errors import StepError, UsageError
from packager.knobs.knobs import Override, Resolved

_START = 180.0  # seconds for a server to become ready
_STOP = 30.0
_POLL = 0.01
_SECRET = ("auth.tokens", "tls.certificate")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a measurement does: numbers of clients, seconds of load at each, and how many rounds."""

    clients: tuple[int, ...] = (1, 2, 4, 8, 16)
    seconds: float = 3.0
    rounds: int = 5


@dataclass(frozen=True, slots=True)
class Subject:
    """An installation with knobs over its own, and the requests that it gets."""

    label: str
    directory: Path
    bundle: Bundle
    target: str
    knobs: Resolved
    requests: tuple[bytes, ...]
    rows: int

    @property
    def about(self) -> JSON:
        """What it is, as one document."""
        return {
            "label": self.label,
            "name": self.bundle.name,
            "version": self.bundle.version,
            "digest": self.bundle.digest,
            "target": self.target,
            "rows": self.rows,
            "knobs": self.knobs.changed,
        }


@dataclass(frozen=True, slots=True)
class Round:
    """One round: seconds of the cold start, bytes after the load, and the loads by number of clients."""

    cold_start: float
    memory: int
    loads: Mapping[int, Load]


def open_subject(label: str, directory: Path, values: Mapping[str, str], rows: int | None = None) -> Subject:
    """Open an installation to be measured, with `values` of knobs over its own and requests of `rows` rows.

    Without `rows`, requests have the fewest rows of its reference inputs. Raises UsageError.
    """
    from packager.bundle.knobs import KnobSources
    from packager.deploy.install import read_config

    found = Installation.open(directory)
    if not found.is_supervised:
        raise UsageError(f"`{directory}` was installed by an older packager", hint="install the bundle again")
    sources = KnobSources(after=tuple(Override(name, text, "--set") for name, text in values.items()))
    bundle, knobs = found.bundle, found.resolve_knobs(sources)
    if named := [name for name in _SECRET if name in knobs.values]:
        raise UsageError(
            f"`{directory}` sets `{named[0]}`: it cannot be measured", hint="install it without, elsewhere"
        )
    counted = [(_rows(case), name, case) for name, case in fitting_vectors(bundle, knobs)]
    if not counted:
        raise UsageError(f"`{bundle.name}:{bundle.version}` has no reference inputs that fit its knobs")
    wanted = min(counted)[0] if rows is None else rows
    chosen = [case for size, _, case in counted if size == wanted]
    if not chosen:
        sizes = ", ".join(map(str, sorted({size for size, _, _ in counted})))
        raise UsageError(f"no reference input has {rows} rows", hint=f"there are inputs of {sizes}")
    requests = tuple(_http(bundle.name, *encode_request(case)) for case in chosen)
    return Subject(label, directory, bundle, str(read_config(found.release)["target"]), knobs, requests, wanted)


def _rows(case: Mapping[str, tuple[str, Sequence[int], bytes]]) -> int:
    return max((shape[0] for _, shape, _ in case.values() if shape), default=1)


def _http(model: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
    return head.encode() + body


def measure_round(subject: Subject, plan: Plan) -> Round:
    """Start the server of a subject, put every load on it, and stop it. Raises StepError."""
    with _serving(subject) as (process, port, cold_start):
        loads = {count: run_load(port, subject.requests, count, plan.seconds) for count in plan.clients}
        return Round(cold_start, _memory(process.pid), loads)


@contextlib.contextmanager
def _serving(subject: Subject) -> Iterator[tuple[subprocess.Popen[bytes], int, float]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    turned = {**subject.knobs.changed, "server.host": "127.0.0.1", "server.port": port}
    turned.pop("server.grpc_port", None)
    words = [word for name, value in turned.items() for word in ("--set", f"{name}={_text(value)}")]
    command = [sys.executable, "-P", "-m", "packager", "serve", str(subject.directory.absolute()), *words]
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait(process, Endpoint("127.0.0.1", port), began)
            yield process, port, time.perf_counter() - began
        except StepError as error:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
            raise StepError(error.message, hint=error.hint, log=log.read().decode("utf-8", "replace")) from None
        finally:
            process.terminate()
            try:
                process.wait(_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], endpoint: Endpoint, began: float) -> None:
    while time.perf_counter() - began < _START:
        if process.poll() is not None:
            raise StepError(f"the server ended with status {process.returncode}")
        with contextlib.suppress(OSError):
            if endpoint.call("GET", "/v2/health/ready")[0] == 200:
                return
        time.sleep(_POLL)
    raise StepError(f"the server was not ready after {_START:.0f} s")


def _text(value: JSON) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _memory(pid: int) -> int:
    """Return the bytes of a process and its descendants: proportional where the kernel says so, else resident."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    total, left = 0, [pid]
    while left:
        one = left.pop()
        left += parents.get(one, [])
        with contextlib.suppress(OSError):
            rows = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += sum(int(row.split()[1]) << 10 for row in rows if row.startswith("Pss:"))
    return total
