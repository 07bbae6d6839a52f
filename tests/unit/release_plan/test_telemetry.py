# SPDX-License-Identifier: Apache-2.0
"""Rows as metrics, read by Prometheus' own parser, and as spans, read by OpenTelemetry's own messages."""

from __future__ import annotations

import http.server
import threading
from typing import Any

import pytest

from packager.release_plan.plan import ModelRow, Problem, TaskRow

TASKS = (
    TaskRow("lock", "unchanged", "it fits"),
    TaskRow("build", "done", "changed", 2.5, began=1_800_000_000.25),
    TaskRow("policy", "no", "bad", 0.5, Problem(1, "profile says no"), 1_800_000_003.0),
    TaskRow("sign", "skipped", "`policy` said no"),
)
ROW = ModelRow("net", "1.0.0", "net/bundle.yaml", TASKS, digest="sha256:1", executed=3, cached=4, sent=5000)
IDLE = ModelRow("idle", "1.0.0", "idle/bundle.yaml", TASKS[:1])


def test_a_row_is_what_it_was_after_json() -> None:
    assert ModelRow.from_json(ROW.to_json()) == ROW and ModelRow.from_json(IDLE.to_json()) == IDLE


def test_metrics() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    from packager.release_plan.metrics import Metrics

    metrics = Metrics()
    metrics.add(ROW)
    metrics.add(IDLE)
    kind, text = metrics.text()
    assert kind.startswith("text/plain")
    found = {
        (one.name, *sorted(one.labels.values())): one.value
        for family in parser.text_string_to_metric_families(text.decode())
        for one in family.samples
    }
    assert found["packager_release_models_total", "no"] == found["packager_release_models_total", "unchanged"] == 1
    assert found["packager_release_tasks_total", "build", "done"] == 1
    assert found["packager_release_task_seconds_sum", "build"] == 2.5
    assert ("packager_release_task_seconds_count", "lock") not in found, "it did not run"
    assert (
        found["packager_release_steps_total", "executed"] == 3 and found["packager_release_steps_total", "cached"] == 4
    )
    assert found["packager_release_problems_total", "1"] == 1
    assert found["packager_release_sent_bytes_total",] == 5000
    assert "net" not in text.decode(), "models are no label"


def test_spans() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    from packager.release_plan.spans import Spans

    bodies: list[bytes] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            import gzip

            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        spans = Spans(f"http://127.0.0.1:{server.server_port}/v1/traces")
        spans.add(ROW)
        spans.add(IDLE)
        spans.close()
        server.shutdown()
    (request,) = map(ExportTraceServiceRequest.FromString, bodies)
    resource = {item.key: item.value.string_value for item in request.resource_spans[0].resource.attributes}
    assert resource["service.name"] == "packager"
    found = {span.name: span for span in request.resource_spans[0].scope_spans[0].spans}
    assert set(found) == {"release", "build", "policy"}, "what did not run has no span"
    root = found["release"]
    assert found["build"].parent_span_id == found["policy"].parent_span_id == root.span_id
    assert root.start_time_unix_nano == found["build"].start_time_unix_nano == 1_800_000_000_250_000_000
    assert found["build"].end_time_unix_nano - found["build"].start_time_unix_nano == 2_500_000_000
    assert root.end_time_unix_nano == found["policy"].end_time_unix_nano
    assert found["policy"].status.code == root.status.code == 2 and found["build"].status.code == 0
