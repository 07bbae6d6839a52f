# SPDX-License-Identifier: Apache-2.0
"""Rows of releases as spans of OpenTelemetry: one for each model, below it one for each task that ran."""

from __future__ import annotations

from typing import Any

from packager import __version__
from packager.errors import MissingToolError
from packager.release_plan.plan import BAD, ModelRow

_FLUSH_MILLISECONDS = 5000


class Spans:
    """Sends spans to a collector, over OTLP and HTTP, from a thread. Raises MissingToolError without its packages.

    What else the exporter needs (headers, certificates) it reads from the usual `OTEL_EXPORTER_OTLP_…` variables. A
    collector that does not answer costs spans and nothing else.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ModuleNotFoundError as error:
            raise MissingToolError("opentelemetry-exporter-otlp-proto-http", "watch") from error
        resource = Resource.create({"service.name": "packager", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=5)))
        self._tracer = self._provider.get_tracer("packager.release")

    def add(self, row: ModelRow) -> None:
        """Send the spans of a row; of one without a task that ran, none."""
        from opentelemetry import trace

        ran = [task for task in row.tasks if task.began is not None]
        if not ran:
            return
        first, last = ran[0].began or 0.0, max((task.began or 0.0) + task.seconds for task in ran)
        about: dict[str, Any] = {
            "packager.bundle.name": row.name,
            "packager.bundle.version": row.version,
            "packager.bundle.digest": row.digest or "",
            "packager.steps.executed": row.executed,
            "packager.steps.cached": row.cached,
            "packager.sent_bytes": row.sent,
        }
        model = self._tracer.start_span("release", start_time=_time(first), attributes=about)
        context = trace.set_span_in_context(model)
        for task in ran:
            span = self._tracer.start_span(task.task, context, start_time=_time(task.began or 0.0))
            span.set_attribute("packager.task.state", task.state)
            if task.problem:
                span.set_attribute("packager.problem.code", task.problem.code)
                span.set_status(trace.StatusCode.ERROR, task.problem.message)
            span.end(_time((task.began or 0.0) + task.seconds))
        if row.state in BAD:
            model.set_status(trace.StatusCode.ERROR)
        model.end(_time(last))

    def close(self) -> None:
        """Send what waits, for at most five seconds."""
        self._provider.force_flush(_FLUSH_MILLISECONDS)
        self._provider.shutdown()


def _time(seconds: float) -> int:
    return round(seconds * 1e6) * 1000  # Unix time in nanoseconds; a float has microseconds
