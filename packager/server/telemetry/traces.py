# SPDX-License-Identifier: Apache-2.0
"""Send spans of inference requests to an OpenTelemetry collector, in OTLP's JSON over HTTP.

OpenTelemetry's packages are not used: they would come into every installation's lock. A request whose `traceparent` is
sampled is always a span of that trace, others with a probability. Spans wait in a bounded queue and are sent by a
separate thread; a collector that is slow or unreachable costs spans and nothing else.

Sources: OTLP 1.x (`opentelemetry-proto`, `trace.proto`, JSON mapping); W3C Trace Context, level 1.
"""

from __future__ import annotations

import http.client
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from packager.server.telemetry.logs import log_event

_PARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_MAX_QUEUED = 4096
_MAX_BATCH = 512
_PAUSE_SECONDS = 1.0
_TIMEOUT_SECONDS = 5.0
_WARNING_INTERVAL = 60.0  # between two warnings
_SERVER, _ERROR = 2, 2  # SpanKind and StatusCode


@dataclass(frozen=True, slots=True)
class Collector:
    """Where spans go; `ratio`: the fraction of requests to trace, besides those of sampled traces, 0 to 1."""

    host: str
    port: int
    ratio: float


@dataclass(frozen=True, slots=True)
class Span:
    """A request that has begun."""

    trace: str
    parent: str
    began: int


class Tracer:
    """Makes and sends spans; without a collector it makes none."""

    def __init__(self, collector: Collector | None, attributes: Mapping[str, str]) -> None:
        self._collector = collector
        self._attributes = [_attribute(key, value) for key, value in attributes.items()]
        self._waiting: queue.Queue[dict[str, Any]] = queue.Queue(_MAX_QUEUED)
        self._warned_at = -_WARNING_INTERVAL
        if collector is not None:
            threading.Thread(target=self._work, name="traces", daemon=True).start()

    def begin(self, parent: str | None) -> Span | None:
        """Begin the span of a request with this `traceparent`; None if it is not recorded."""
        if self._collector is None:
            return None
        found = _PARENT.fullmatch(parent or "")
        if found and found[1] != "0" * 32 and found[2] != "0" * 16:
            return Span(found[1], found[2], time.time_ns()) if int(found[3], 16) & 1 else None
        if int.from_bytes(os.urandom(4)) >= self._collector.ratio * 2**32:
            return None
        return Span(os.urandom(16).hex(), "", time.time_ns())

    def end(self, span: Span, name: str, status: int, **attributes: str | int) -> None:
        """Finish a span; `status` is the HTTP status of the answer. Never waits."""
        attributes["http.response.status_code"] = status
        record = {
            "traceId": span.trace,
            "spanId": os.urandom(8).hex(),
            "parentSpanId": span.parent,
            "name": name,
            "kind": _SERVER,
            "startTimeUnixNano": str(span.began),
            "endTimeUnixNano": str(time.time_ns()),
            "attributes": [_attribute(key, value) for key, value in attributes.items()],
            "status": {"code": _ERROR} if status >= 500 else {},
        }
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._warn("more spans than can be sent")

    def _work(self) -> None:
        while True:
            spans = [self._waiting.get()]
            time.sleep(_PAUSE_SECONDS)
            while len(spans) < _MAX_BATCH and not self._waiting.empty():
                spans.append(self._waiting.get())
            try:
                self._send(encode_spans(self._attributes, spans))
            except (OSError, http.client.HTTPException) as error:
                self._warn(str(error))

    def _send(self, body: bytes) -> None:
        collector = self._collector
        assert collector is not None  # noqa: S101 - the thread runs only where there is one
        connection = http.client.HTTPConnection(collector.host, collector.port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request("POST", "/v1/traces", body, {"Content-Type": "application/json"})
            status = connection.getresponse().status
            if status != 200:
                self._warn(f"the collector answers {status}")
        finally:
            connection.close()

    def _warn(self, reason: str) -> None:
        if time.monotonic() - self._warned_at >= _WARNING_INTERVAL:
            self._warned_at = time.monotonic()
            log_event("spans are lost", logging.WARNING, reason=reason[:300])


def encode_spans(attributes: list[dict[str, Any]], spans: list[dict[str, Any]]) -> bytes:
    """Return an ExportTraceServiceRequest."""
    scope = {"scope": {"name": "packager.server"}, "spans": spans}
    return orjson.dumps({"resourceSpans": [{"resource": {"attributes": attributes}, "scopeSpans": [scope]}]})


def _attribute(key: str, value: str | int) -> dict[str, Any]:
    return {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
