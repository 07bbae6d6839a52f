# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads at /metrics, in base units: seconds, bytes, rows.

| metric | kind | labels |
| --- | --- | --- |
| `packager_server_requests_total` | counter | `route` (infer, model, server, health, metrics, other), `code` |
| `packager_server_request_duration_seconds` | histogram | infer requests, from their head read to their answer ready |
| `packager_server_run_duration_seconds` | histogram | the runtime's share of it |
| `packager_server_requests_in_flight` | gauge | infer requests admitted and not yet answered |
| `packager_server_batch_rows` | histogram | rows per infer request; its `_sum` counts all rows |
| `packager_server_ready` | gauge | 1 between warm-up and shutdown |
| `packager_bundle_info` | info | `name`, `version`, `digest`, `target`, `runtime`, `runtime_version`, `provider` |
| `packager_deployment_info` | info | `digest` of the bundle, `knobs` (digest of the resolved knobs), `site_<label>` |
| `process_…`, `python_…` | | as every Prometheus client has them |
"""

from __future__ import annotations

import prometheus_client as prometheus
from prometheus_client.exposition import choose_encoder

_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = prometheus.CollectorRegistry()
        prometheus.disable_created_metrics()
        prometheus.ProcessCollector(registry=registry)
        prometheus.PlatformCollector(registry=registry)
        prometheus.GCCollector(registry=registry)
        prefix = "packager_server"
        self.requests = prometheus.Counter(
            f"{prefix}_requests", "Requests answered, by route and status code.", ["route", "code"], registry=registry
        )
        self.duration = prometheus.Histogram(
            f"{prefix}_request_duration_seconds", "Time to answer an inference request.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.run = prometheus.Histogram(
            f"{prefix}_run_duration_seconds", "Time inside the runtime.", buckets=_SECONDS, registry=registry
        )
        self.rows = prometheus.Histogram(
            f"{prefix}_batch_rows", "Rows per inference request.", buckets=_ROWS, registry=registry
        )
        self.in_flight = prometheus.Gauge(
            f"{prefix}_requests_in_flight", "Inference requests admitted and not yet answered.", registry=registry
        )
        self.ready = prometheus.Gauge(f"{prefix}_ready", "1 when requests are welcome.", registry=registry)
        self._bundle = prometheus.Info("packager_bundle", "The bundle that is served.", registry=registry)

        self._deployment = prometheus.Info("packager_deployment", "How it is served.", registry=registry)

    def describe(self, **labels: str) -> None:
        """Say which bundle is served, by which runtime."""
        self._bundle.info(labels)

    def deploy(self, digest: str, knobs: str, labels: dict[str, str]) -> None:
        """Say with which knobs, and what the site calls itself."""
        self._deployment.info({"digest": digest, "knobs": knobs, **labels})

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition and its content type, in the format that the `Accept` header prefers."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type
