# SPDX-License-Identifier: Apache-2.0
"""Send a release its own reference vectors before it gets traffic.

The release's own server, interpreter and artefact answer on a loopback port of its own. Every answer must have the
outputs, types and sizes of the contract and finite numbers, and must come out the same twice, within the tolerance of
the target. Whether the model is *right* is not judged here: that is what its signed conformance report says.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO

from packager import canonical
from packager.bundle.bundle import Bundle
from packager.contract.contract import Contract
from packager.deploy.renderers.triton import Vector, encode_vectors
from packager.errors import NegativeAnswerError, UsageError
from packager.knobs.knobs import Resolved
from packager.server.process import listeners

_PATIENCE = 120  # seconds for a model to load and warm up
_OWN = ("server.", "tls.", "log.")  # knobs of the site's place, which the canary does not take
_FLOATS = {"FP16": "e", "FP32": "f", "FP64": "d"}
_SIZES = {
    "BOOL": 1,
    "INT8": 1,
    "UINT8": 1,
    "INT16": 2,
    "UINT16": 2,
    "FP16": 2,
    "INT32": 4,
    "UINT32": 4,
    "FP32": 4,
    "INT64": 8,
    "UINT64": 8,
    "FP64": 8,
}
_NAMES = {"bool": "BOOL", "string": "BYTES", "float16": "FP16", "float32": "FP32", "float64": "FP64"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server speaks the Open Inference Protocol over HTTP."""

    host: str
    port: int
    tls: bool = False

    @staticmethod
    def parse(url: str) -> Endpoint:
        """Read `http://host:port` or `https://host:port`. Raises UsageError."""
        found = re.fullmatch(r"(https?)://([A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:]{2,45}\])(?::([0-9]{1,5}))?/?", url)
        if found is None:
            raise UsageError(f"`{url:.100}` is no address of a server", hint="expected http://host:port")
        tls = found[1] == "https"
        return Endpoint(found[2].strip("[]"), int(found[3] or (443 if tls else 80)), tls)

    def call(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[int, bytes, str | None]:
        """Return status, body and the length of the header of a binary answer. Raises OSError."""
        kind = http.client.HTTPSConnection if self.tls else http.client.HTTPConnection
        connection = kind(self.host, self.port, timeout=_PATIENCE)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.getheader("Inference-Header-Content-Length")
        except http.client.HTTPException as error:
            raise OSError(f"no HTTP: {error!r}") from error
        finally:
            connection.close()


def try_release(bundle: Bundle, command: Sequence[str], knobs: Resolved, target: str) -> int:
    """Start a server with `command`, send all vectors twice, stop it; return how many were sent.

    Raises NegativeAnswerError with the reason.
    """
    with _serving(command, knobs) as endpoint:
        return try_model(endpoint, bundle, bundle.name, knobs, target)


def try_model(endpoint: Endpoint, bundle: Bundle, model: str, knobs: Resolved, target: str) -> int:
    """Send all vectors twice to a model of a server; return how many were sent. Raises NegativeAnswerError."""
    contract = bundle.contract
    cases = fitting_vectors(bundle, knobs)
    for name, case in cases:
        first, second = (ask(endpoint, model, case) for _ in range(2))
        check(name, first, second, contract, contract.targets[target].tolerance)
    return len(cases)


def fitting_vectors(bundle: Bundle, knobs: Resolved) -> list[tuple[str, Vector]]:
    """Return the reference inputs of a bundle, by name, that a site with these knobs takes."""
    return [(name, case) for name, case in encode_vectors(bundle) if _fits(case, bundle.contract, knobs)]


def _fits(case: Vector, contract: Contract, knobs: Resolved) -> bool:
    """Tell whether the site takes batches of this size."""
    most = knobs.values.get("batch.max")
    named = any(port.shape and isinstance(port.shape[0], str) for port in contract.inputs)
    return most is None or not named or all(not shape or shape[0] <= most for _, shape, _ in case.values())


@contextmanager
def _serving(command: Sequence[str], knobs: Resolved) -> Iterator[Endpoint]:
    values = {name: value for name, value in knobs.values.items() if not name.startswith(_OWN)}
    ours, theirs = socket.socketpair()  # when this process is killed, the line ends and so does the server
    with ours, tempfile.TemporaryFile() as log:
        with theirs, listeners.open_listener("127.0.0.1", 0) as listener:
            port, passed = listener.getsockname()[1], (listener.fileno(), theirs.fileno())
            document = canonical.dump({"digest": knobs.digest, "values": {**values, "server.port": port}}).decode()
            words = [*command, f"--knobs={document}", f"--inherited={passed[0]},{passed[1]}"]
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={}, pass_fds=passed)
        try:
            endpoint = Endpoint("127.0.0.1", port)
            _wait(process, endpoint, log)
            yield endpoint
        finally:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], endpoint: Endpoint, log: IO[bytes]) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            if endpoint.call("GET", "/v2/health/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    log.seek(0)
    rows = log.read().decode("utf-8", "replace").strip().splitlines()
    raise NegativeAnswerError(f"the canary does not become ready: {' '.join(rows[-2:])[:600] or 'it says nothing'}")


Answer = Mapping[str, tuple[str, Sequence[int], bytes]]  # output -> datatype, shape, bytes


def ask(endpoint: Endpoint, model: str, case: Vector) -> Answer:
    """Send one case in the binary form of the protocol. Raises NegativeAnswerError if it is refused or not
    understood.
    """
    body, headers = encode_request(case)
    try:
        status, data, length = endpoint.call("POST", f"/v2/models/{model}/infer", body, headers)
    except OSError as error:
        raise NegativeAnswerError(f"the canary does not answer: {error}") from None
    if status != 200:
        raise NegativeAnswerError(f"the canary refuses a reference vector: {data[:300].decode('utf-8', 'replace')}")
    return read_answer(data, int(length) if length and length.isdecimal() else len(data))


def encode_request(case: Vector) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of an inference request in the binary form of the protocol."""
    inputs = [
        {
            "name": name,
            "datatype": protocol_name(dtype),
            "shape": list(shape),
            "parameters": {"binary_data_size": len(raw)},
        }
        for name, (dtype, shape, raw) in case.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    body = head + b"".join(raw for _, _, raw in case.values())
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return body, headers


def protocol_name(dtype: str) -> str:
    """Return the protocol's name of a dtype."""
    return _NAMES.get(dtype, dtype.upper())


def read_answer(data: bytes, length: int) -> Answer:
    """Split an answer into its outputs. Raises NegativeAnswerError."""
    try:
        position, found = length, {}
        for output in json.loads(data[:length])["outputs"]:
            size = output["parameters"]["binary_data_size"]
            found[output["name"]] = (output["datatype"], output["shape"], data[position : position + size])
            position += size
    except (ValueError, KeyError, TypeError) as error:
        raise NegativeAnswerError(f"the canary's answer is not understood: {error!r}") from None
    return found


def check(
    case: str, first: Answer, second: Answer, contract: Contract, tolerance: Mapping[str, Mapping[str, float]]
) -> None:
    """Hold two answers to the same question against the contract and each other. Raises NegativeAnswerError."""
    ports = {port.name: port for port in contract.outputs}
    if set(first) != set(ports):
        raise NegativeAnswerError(f"vector `{case}`: expected outputs {sorted(ports)}, got {sorted(first)}")
    for name, (kind, shape, raw) in first.items():
        port = ports[name]
        fits = len(shape) == len(port.shape) and all(
            size == expected for size, expected in zip(shape, port.shape, strict=True) if isinstance(expected, int)
        )
        if kind != protocol_name(port.dtype) or not fits:
            wanted = f"{protocol_name(port.dtype)} {list(port.shape)}"
            raise NegativeAnswerError(f"vector `{case}`: output `{name}`: expected {wanted}, got {kind} {shape}")
        if kind in _SIZES and len(raw) != math.prod(shape) * _SIZES[kind]:
            raise NegativeAnswerError(f"vector `{case}`: output `{name}`: its bytes do not fit its shape")
        _compare(f"vector `{case}`: output `{name}`", kind, raw, second[name][2], tolerance.get(name, {}))


def _compare(subject: str, kind: str, raw: bytes, again: bytes, bound: Mapping[str, float]) -> None:
    if kind not in _FLOATS:
        if raw != again:
            raise NegativeAnswerError(f"{subject}: two answers to one question differ")
        return
    size = len(raw) // _SIZES[kind]
    values = struct.unpack(f"<{size}{_FLOATS[kind]}", raw)
    if not all(map(math.isfinite, values)):
        raise NegativeAnswerError(f"{subject} holds NaN or infinity")
    if raw == again:
        return
    if len(raw) != len(again):
        raise NegativeAnswerError(f"{subject}: two answers to one question differ in size")
    atol, rtol = bound.get("atol", 0.0), bound.get("rtol", 0.0)
    for one, other in zip(values, struct.unpack(f"<{size}{_FLOATS[kind]}", again), strict=True):
        if not abs(one - other) <= atol + rtol * abs(one):
            raise NegativeAnswerError(f"{subject}: two answers to one question differ: {one!r} and {other!r}")
