# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol v2 over HTTP, as a client speaks it: JSON, binary tensors, Triton's shared memory.

Each thread has a separate connection. What a server refuses (4xx) is RefusedError; anything else that is no answer is a
ServerFaultError: a server must never answer 5xx to what a client sent.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from suite.adapter import AdapterError, RefusedError
from suite.contract import DTYPES, Contract


class ServerFaultError(AdapterError):
    """The server failed: 5xx, a broken connection, an answer that is not of the protocol."""


class UnsupportedError(Exception):
    """A channel cannot carry the request, such as NaN in JSON: not the server's fault."""


class Http:
    """One model on one server."""

    def __init__(self, settings: Mapping[str, Any], model: str, contract: Contract, seconds: float = 60.0) -> None:
        parts = urlsplit(settings["http"])
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"`{settings['http']}` is not an http(s) address")
        self.model, self.contract, self.seconds = model, contract, seconds
        self.binary = bool(settings.get("binary", True))
        self.headers = dict(settings.get("headers") or {})
        self._parts, self._ca = parts, settings.get("ca")
        self._local = threading.local()
        self._all: list[http.client.HTTPConnection] = []

    @property
    def base(self) -> str:
        """The path of the model."""
        return f"/v2/models/{quote(self.model, safe='')}"

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            context = ssl.create_default_context(cafile=self._ca)
            return http.client.HTTPSConnection(host, port, timeout=self.seconds, context=context)
        return http.client.HTTPConnection(host, port, timeout=self.seconds)

    def exchange(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send one request on this thread's connection; return status, headers (lower case) and body.

        Raises ServerFaultError when there is no answer.
        """
        fresh = getattr(self._local, "connection", None) is None
        try:
            return self._exchange(method, path, body, headers or {})
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if fresh:
                raise ServerFaultError(f"no answer to {method} {path}: {error or type(error).__name__}") from None
            return self.exchange(method, path, body, headers)  # a kept connection may have been closed meanwhile

    def _exchange(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        if getattr(self._local, "connection", None) is None:
            self._local.connection = self._connect()
            self._all.append(self._local.connection)
        connection = self._local.connection
        connection.request(method, self._parts.path.rstrip("/") + path, body, {**self.headers, **headers})
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, data

    def close(self) -> None:
        """Close this thread's connection."""
        connection, self._local.connection = getattr(self._local, "connection", None), None
        if connection is not None:
            connection.close()

    def disconnect(self) -> None:
        """Close the connections of all threads: servers that drain wait for idle ones."""
        while self._all:
            self._all.pop().close()

    def abandon(self, feeds: Mapping[str, Any]) -> None:
        """Send an inference request and hang up without waiting for the answer."""
        body, headers = self.encode(feeds)
        connection = self._connect()
        try:
            connection.request(
                "POST", f"{self._parts.path.rstrip('/')}{self.base}/infer", body, {**self.headers, **headers}
            )
        finally:
            connection.close()

    def infer(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs by name. Raises RefusedError, ServerFaultError, UnsupportedError."""
        body, headers = self.encode(feeds)
        return self.post(body, headers)

    def post(self, body: bytes, headers: Mapping[str, str], path: str | None = None) -> dict[str, Any]:
        """Send a body to the inference path and read the outputs."""
        status, fields, data = self.exchange("POST", path or f"{self.base}/infer", body, headers)
        if 400 <= status < 500:
            raise RefusedError(_message(data), status)
        if status != 200:
            raise ServerFaultError(f"HTTP {status}: {_message(data)}")
        try:
            return self._decode(fields, data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServerFaultError(f"the answer is not of the protocol: {error!r:.200}") from None

    def document(self, path: str) -> Any:
        """GET a JSON document. Raises RefusedError, ServerFaultError."""
        status, _, data = self.exchange("GET", path)
        if 400 <= status < 500:
            raise RefusedError(_message(data), status)
        try:
            return json.loads(data) if status == 200 else self._fault(status, data)
        except ValueError:
            raise ServerFaultError(f"`{path}` is not JSON: {data[:100]!r}") from None

    def _fault(self, status: int, data: bytes) -> None:
        raise ServerFaultError(f"HTTP {status}: {_message(data)}")

    def encode(self, feeds: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
        """Return body and headers of an inference request."""
        items, tails = [], []
        for name, array in feeds.items():
            item: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype(array)}
            if self.binary:
                raw = to_bytes(array)
                item["parameters"] = {"binary_data_size": len(raw)}
                tails.append(raw)
            else:
                item["data"] = _listed(array)
            items.append(item)
        document: dict[str, Any] = {"id": "1", "inputs": items}
        if not self.binary:
            return json.dumps(document).encode(), {"Content-Type": "application/json"}
        document["parameters"] = {"binary_data_output": True}
        head = json.dumps(document).encode()
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        return head + b"".join(tails), headers

    def _decode(self, fields: Mapping[str, str], data: bytes) -> dict[str, Any]:
        length = fields.get("inference-header-content-length")
        at = len(data) if length is None else int(length)
        outputs = {}
        for item in json.loads(data[:at])["outputs"]:
            size = (item.get("parameters") or {}).get("binary_data_size")
            if size is None:
                outputs[item["name"]] = from_list(item["data"], item["datatype"], item["shape"])
            else:
                outputs[item["name"]] = from_bytes(data[at : at + size], item["datatype"], item["shape"])
                at += size
        return outputs


class Shared:
    """The same model, with the inputs in a file of /dev/shm that the server maps (Triton's extension)."""

    def __init__(self, http_client: Http) -> None:
        self._http = http_client
        self._count = 0

    def infer(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs by name."""
        if not feeds:
            raise UnsupportedError("a shared memory region cannot be empty")
        self._count += 1
        region = f"conform-{threading.get_native_id()}-{self._count}"
        region_file = Path("/dev/shm") / region
        raws = {name: to_bytes(array) for name, array in feeds.items()}
        try:
            region_file.write_bytes(b"".join(raws.values()))
            self._control(
                region, "register", {"key": f"/{region}", "offset": 0, "byte_size": region_file.stat().st_size}
            )
            return self._http.post(*self._request(region, feeds, raws))
        finally:
            with contextlib.suppress(AdapterError, RefusedError):
                self._control(region, "unregister", {})
            region_file.unlink(missing_ok=True)

    def _control(self, region: str, verb: str, document: Mapping[str, Any]) -> None:
        path = f"/v2/systemsharedmemory/region/{region}/{verb}"
        status, _, data = self._http.exchange("POST", path, json.dumps(document).encode())
        if status != 200:
            raise ServerFaultError(f"HTTP {status} on {verb} of shared memory: {_message(data)}")

    def _request(
        self, region: str, feeds: Mapping[str, Any], raws: Mapping[str, bytes]
    ) -> tuple[bytes, dict[str, str]]:
        items, offset = [], 0
        for name, array in feeds.items():
            parameters = {
                "shared_memory_region": region,
                "shared_memory_offset": offset,
                "shared_memory_byte_size": len(raws[name]),
            }
            offset += len(raws[name])
            items.append(
                {"name": name, "shape": list(array.shape), "datatype": datatype(array), "parameters": parameters}
            )
        head = json.dumps({"inputs": items, "parameters": {"binary_data_output": True}}).encode()
        return head, {"Inference-Header-Content-Length": str(len(head))}


def datatype(array: Any) -> str:
    """Return the protocol's name of an array's dtype."""
    names = {name: code for code, name in DTYPES.items()}
    return "BYTES" if array.dtype.kind in "OUS" else names[array.dtype.name]


def to_bytes(array: Any) -> bytes:
    """Return the elements in row-major order; texts with their length before them."""
    if array.dtype.kind not in "OUS":
        return np.ascontiguousarray(array).tobytes()
    items = (item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist())
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)


def from_bytes(raw: bytes, code: str, shape: Any) -> Any:
    """Undo `to_bytes`. Raises ValueError."""
    if code != "BYTES":
        return np.frombuffer(raw, DTYPES[code]).reshape(shape).copy()
    items, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        items.append(raw[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return np.array(items, dtype=object).reshape(shape)


def _listed(array: Any) -> list[Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnsupportedError("JSON carries neither NaN nor infinities")
    return [item.decode() if isinstance(item, bytes) else item for item in array.reshape(-1).tolist()]


def from_list(data: Any, code: str, shape: Any) -> Any:
    """Return the array of a JSON list, flat or nested. Raises ValueError."""
    if code == "BYTES":
        return np.array(data, dtype=object).reshape(shape)
    array = np.array(data, dtype=np.float64 if code.startswith("FP") else DTYPES[code])
    if array.size != math.prod(shape):
        raise ValueError(f"{array.size} elements for shape {shape}")
    return array.astype(DTYPES[code]).reshape(shape)


def _message(data: bytes) -> str:
    try:
        value = json.loads(data)
    except ValueError:
        return data[:300].decode("utf-8", "replace").strip()
    if isinstance(value, dict):
        return str(value.get("error") or value.get("detail") or value.get("message") or value)[:500]
    return str(value)[:500]
