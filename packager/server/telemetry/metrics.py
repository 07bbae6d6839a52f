# SPDX-License-Identifier: Apache-2.0
"""The Prometheus metrics at /metrics, in base units: seconds, bytes, rows.

| metric | kind | labels |
| --- | --- | --- |
| `packager_server_requests_total` | counter | `route` (infer, model, server, health, metrics, other), `code` |
| `packager_server_request_duration_seconds` | histogram | infer requests, from headers to answer; SLO in a bucket |
| `packager_server_inputs_total` | counter | `input`: inputs sampled |
| `packager_server_input_findings_total` | counter | `input`, `finding`: see `drift` |
| `packager_server_outside_measured_total` | counter | `dimension`: requests of a size that was not measured |
| `packager_server_drift_psi`, `…_psi_by_chance`, `…_ks`, `…_values` | gauges | `column`: see `reference_drift` |
| `packager_server_outputs_not_finite_total` | counter | `output`: results with NaN or infinity |
| `packager_server_run_duration_seconds` | histogram | the runtime's share of it |
| `packager_server_requests_in_flight` | gauge | infer requests admitted and not yet answered |
| `packager_server_batch_rows` | histogram | rows per infer request; its `_sum` counts all rows |
| `packager_server_batch_requests` | histogram | requests of one run: of the queue, or several of one inline batch |
| `packager_server_queue_duration_seconds` | histogram | time a request waited for its run, where it had to queue |
| `packager_server_requests_queued` | gauge | requests that wait for a run |
| `packager_server_first_token_seconds` | histogram | of an answer that is generated: from its slot to its first token |
| `packager_server_token_seconds` | histogram | seconds of each further token of an answer, in the mean of the answer |
| `packager_server_tokens_total` | counter | `kind` (prompt, answer); its rate is the throughput |
| `packager_server_cache_bytes` | gauge | key-value caches promised to answers in flight |
| `packager_server_workers_lost_total` | counter | workers (`runtime.processes`) that ended unexpectedly |
| `packager_server_ready` | gauge | 1 between warm-up and shutdown |
| `packager_bundle_info` | info | `name`, `version`, `digest`, `target`, `runtime`, `runtime_version`, `provider` |
| `packager_deployment_info` | info | `digest` of the bundle, those of `knobs` and `tuning`, `site_<label>` |
| `packager_server_processes`, `packager_server_resident_memory_bytes` | gauges | of all that serve, without workers |
| `process_…`, `python_info` | | as every Prometheus client has them, of all processes together: see `process_metrics` |
| `python_gc_…` | | only where one process serves by itself |

Below a supervisor all processes count into files of one directory, PROMETHEUS_MULTIPROC_DIR, and each of them answers
for all, those that have ended included. A process writes its counts once a second and when it ends (see `counters`):
the answer of another one is that much behind, and the last second of a killed one is lost.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import prometheus_client as prometheus
from prometheus_client import values
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from packager.server.protocol.tensors import Array
from packager.server.telemetry import drift
from packager.server.telemetry.counters import Counts, Histogram
from packager.server.telemetry.distribution_file import Distributions
from packager.server.telemetry.process_metrics import Processes
from packager.server.telemetry.reference_drift import ReferenceDrift
from packager.server.telemetry.text_metrics import TextMetrics

_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SHARED = "PROMETHEUS_MULTIPROC_DIR"
_GAUGES = {
    "requests_in_flight": "Inference requests admitted and not yet answered.",
    "requests_queued": "Requests that wait for a run.",
    "ready": "1 when requests are welcome.",
    "processes": "Processes that serve.",
    "resident_memory_bytes": "Memory of the processes that serve.",
}
_CACHE = "Bytes of key-value caches promised to answers in flight."


def _set_start_time(registry: prometheus.CollectorRegistry) -> None:
    """Set once, so that every process exposes the same value: that of the server process that started last."""
    started = prometheus.Gauge(
        "process_start_time_seconds",
        "When the last of the processes that serve started, seconds since the epoch.",
        registry=registry,
        multiprocess_mode="livemax",
    )
    started.set(round(time.time(), 2))  # noqa: TID251 - the metric is a wall-clock time


class Metrics:
    """The metrics of one server, in a separate registry."""

    def __init__(self, p99_seconds: float | None = None) -> None:
        self._registry = registry = prometheus.CollectorRegistry()
        prometheus.disable_created_metrics()
        self._multiprocess = values.ValueClass is not values.MutexValue
        shared = os.environ.get(_SHARED)  # noqa: TID251 - where the client library itself looks
        self._processes = Processes(Path(shared) if self._multiprocess and shared else None)
        if not self._multiprocess:
            registry.register(self._processes)
            prometheus.PlatformCollector(registry=registry)
            prometheus.GCCollector(registry=registry)
        _set_start_time(registry)
        prefix = "packager_server"
        self.requests = prometheus.Counter(
            f"{prefix}_requests", "Requests answered, by route and status code.", ["route", "code"], registry=registry
        )
        self._histograms: list[Histogram] = []
        self.duration = self._histogram(
            "request_duration_seconds", "Time to answer an inference request.", sorted({*_SECONDS, p99_seconds or 1.0})
        )
        self.run = self._histogram("run_duration_seconds", "Time inside the runtime.", _SECONDS)
        self.rows = self._histogram("batch_rows", "Rows per inference request.", _ROWS)
        self._gauges = {
            name: prometheus.Gauge(
                f"{prefix}_{name}",
                text,
                registry=registry,
                multiprocess_mode="livemin" if name == "ready" else "livesum",
            )
            for name, text in _GAUGES.items()
        }
        self.shared = self._histogram("batch_requests", "Requests that shared a run.", _ROWS[:8])
        self.waited = self._histogram("queue_duration_seconds", "Time a request waited for its run.", _SECONDS)
        self._inputs = prometheus.Counter(
            f"{prefix}_inputs", "Inputs looked at for drift.", ["input"], registry=registry
        )
        self._findings = prometheus.Counter(
            f"{prefix}_input_findings",
            "Inputs that the contract does not expect.",
            ["input", "finding"],
            registry=registry,
        )
        self._outside = prometheus.Counter(
            f"{prefix}_outside_measured",
            "Requests of a size that the build did not measure.",
            ["dimension"],
            registry=registry,
        )
        self._not_finite = prometheus.Counter(
            f"{prefix}_outputs_not_finite", "Results with NaN or infinity.", ["output"], registry=registry
        )
        self._answers = Counts()
        self.last_inference = 0.0  # seconds since the epoch; 0: none yet
        self.lost = prometheus.Counter(
            f"{prefix}_workers_lost", "Processes that run the model and ended unasked.", registry=registry
        )
        self._sources: dict[str, Callable[[], float]] = {}
        self._tokens = Counts()
        self._reference: ReferenceDrift | None = None

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        histogram = Histogram(f"packager_server_{name}", text, list(buckets), self._registry)
        self._histograms.append(histogram)
        return histogram

    def watch(self, in_flight: Callable[[], float], ready: Callable[[], float], queued: Callable[[], float]) -> None:
        """Set the functions that `refresh` reads the gauges from."""
        self._sources |= {"requests_in_flight": in_flight, "ready": ready, "requests_queued": queued}

    def watch_texts(self, cache_bytes: Callable[[], float]) -> None:
        """Add the metrics of a model that generates text."""
        first = self._histogram("first_token_seconds", "Time to the first token of an answer.", _SECONDS)
        each = self._histogram("token_seconds", "Time of a further token, in the mean of an answer.", _SECONDS)
        self.texts = TextMetrics(first, each, self._tokens)
        self._tokens_total = prometheus.Counter(
            "packager_server_tokens", "Tokens of prompts and answers.", ["kind"], registry=self._registry
        )
        self._gauges["cache_bytes"] = prometheus.Gauge(
            "packager_server_cache_bytes", _CACHE, registry=self._registry, multiprocess_mode="livesum"
        )
        self._sources["cache_bytes"] = cache_bytes

    def watch_drift(self, known: Distributions) -> None:
        """Add the gauges that compare what is served with what the bundle was measured on."""
        self._reference = ReferenceDrift(known, self._registry)

    def flush(self) -> None:
        """Bring counters and histograms up to date."""
        for (route, status), count in self._answers.take().items():
            self.requests.labels(route, status).inc(count)
        for (kind, _), count in self._tokens.take().items():
            self._tokens_total.labels(kind).inc(count)
        for histogram in self._histograms:
            histogram.flush()

    def refresh(self) -> None:
        """Bring everything up to date that another process may expose."""
        self.flush()
        for name, reading in self._sources.items():
            self._gauges[name].set(reading())
        if self._reference is not None:
            self._reference.refresh()
        self._gauges["processes"].set(1)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self._gauges["resident_memory_bytes"].set(pages * resource.getpagesize())

    def count(self, route: str, status: int) -> None:
        """Count an answer; over gRPC `status` is the HTTP status it would have had."""
        self._answers.add((route, status))
        if status == 200 and route == "infer":
            self.last_inference = time.time()  # noqa: TID251 - the metric is a wall-clock time

    def count_inputs(self, feeds: Mapping[str, Array], ranges: drift.Ranges) -> None:
        """Count the findings of drift in the inputs of a request."""
        for name, array in feeds.items():
            self._inputs.labels(name).inc()
            for finding in drift.list_findings(name, array, ranges):
                self._findings.labels(name, finding).inc()

    def count_drift(self, feeds: Mapping[str, Array], results: Mapping[str, Array]) -> None:
        """Count a request for the gauges of drift."""
        if self._reference is not None:
            self._reference.count(feeds, results)

    def count_outside(self, dimensions: Sequence[str]) -> None:
        """Count a request whose sizes of these dimensions the build did not measure."""
        for name in dimensions:
            self._outside.labels(name).inc()

    def count_outputs(self, results: Mapping[str, Array]) -> None:
        """Count results with NaN or infinity."""
        for name, array in results.items():
            if drift.has_non_finite(array):
                self._not_finite.labels(name).inc()

    def set_bundle_info(self, **labels: str) -> None:
        """Set the labels of the bundle and its runtime."""
        self._set_info("packager_bundle_info", "The bundle that is served.", labels)

    def set_deployment_info(self, digest: str, knobs: str, tuning: str, labels: dict[str, str]) -> None:
        """Set the labels of the knobs and of the site."""
        all_labels = {"digest": digest, "knobs": knobs, "tuning": tuning, **labels}
        self._set_info("packager_deployment_info", "How it is served.", all_labels)

    def _set_info(self, name: str, text: str, labels: dict[str, str]) -> None:
        # A gauge that is 1, as an Info is in Prometheus' format: several processes can share only gauges.
        gauge = prometheus.Gauge(name, text, sorted(labels), registry=self._registry, multiprocess_mode="livemax")
        gauge.labels(**labels).set(1)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition and its content type, in the format that the `Accept` header prefers."""
        self.refresh()
        registry = self._registry
        if self._multiprocess:
            registry = prometheus.CollectorRegistry()
            MultiProcessCollector(registry)
            registry.register(self._processes)
            prometheus.PlatformCollector(registry=registry)
        encoder, content_type = choose_encoder(accept)
        return encoder(registry), content_type
