# SPDX-License-Identifier: Apache-2.0
"""Rows of releases as metrics in Prometheus' form. Models are no label: what is exposed does not grow with them."""

from __future__ import annotations

from packager.errors import MissingToolError
from packager.release_plan.plan import ModelRow

_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


class Metrics:
    """Counters of one process. Raises MissingToolError without `prometheus_client`."""

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Histogram
        except ModuleNotFoundError as error:
            raise MissingToolError("prometheus_client", "watch") from error
        self.registry = registry = CollectorRegistry()
        self._models = Counter("packager_release_models", "Models of releases.", ["state"], registry=registry)
        self._tasks = Counter("packager_release_tasks", "Tasks of models.", ["task", "state"], registry=registry)
        self._seconds = Histogram(
            "packager_release_task_seconds",
            "Duration of tasks that ran.",
            ["task"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._steps = Counter("packager_release_steps", "Steps of builds.", ["result"], registry=registry)
        self._problems = Counter("packager_release_problems", "Problems by exit code.", ["code"], registry=registry)
        self._sent = Counter("packager_release_sent_bytes", "Bytes sent to registries.", registry=registry)

    def add(self, row: ModelRow) -> None:
        """Count a row."""
        self._models.labels(row.state).inc()
        self._steps.labels("executed").inc(row.executed)
        self._steps.labels("cached").inc(row.cached)
        self._sent.inc(row.sent)
        for task in row.tasks:
            self._tasks.labels(task.task, task.state).inc()
            if task.began is not None:
                self._seconds.labels(task.task).observe(task.seconds)
            if task.problem:
                self._problems.labels(str(task.problem.code)).inc()

    def text(self) -> tuple[str, bytes]:
        """Return the content type and the text that Prometheus reads."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return CONTENT_TYPE_LATEST, generate_latest(self.registry)
