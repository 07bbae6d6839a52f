# SPDX-License-Identifier: Apache-2.0
"""Counting in plain numbers first loses nothing and changes nothing."""

from __future__ import annotations

import subprocess
import sys
import threading

import prometheus_client as prometheus
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from packager.server.telemetry.counters import Counts, Histogram
from packager.server.telemetry.metrics import Metrics

BUCKETS = [0.001, 0.5, 1.0, 30.0]
AMOUNTS = st.lists(st.sampled_from([*BUCKETS, 0.0, 0.25, 31.0, float("inf")]) | st.floats(0, 100))


@given(st.lists(AMOUNTS, max_size=4))
def test_flushed_histogram_equals_the_library_s(groups):
    prometheus.disable_created_metrics()
    ours, theirs = prometheus.CollectorRegistry(), prometheus.CollectorRegistry()
    tally = Histogram("h", "Text.", BUCKETS, ours)
    histogram = prometheus.Histogram("h", "Text.", buckets=BUCKETS, registry=theirs)
    for group in groups:
        for amount in group:
            tally.observe(amount)
            histogram.observe(amount)
        tally.flush()
    tally.flush()
    got, want = (
        {
            (sample.name, *sample.labels.values()): sample.value
            for family in registry.collect()
            for sample in family.samples
        }
        for registry in (ours, theirs)
    )
    sums = got.pop(("h_sum",)), want.pop(("h_sum",))
    assert got == want
    assert sums[0] == sums[1] or abs(sums[0] - sums[1]) <= 1e-9 * sums[1]


def test_concurrent_observe_and_flush_lose_nothing():
    registry, counts, found, stop = prometheus.CollectorRegistry(), Counts(), 0, threading.Event()
    tally = Histogram("h", "Text.", BUCKETS, registry)

    def work() -> None:
        for number in range(5000):
            tally.observe(number % 2)
            counts.add(("infer", 200))

    def flush() -> None:
        nonlocal found
        while not stop.is_set():
            tally.flush()
            found += counts.take().get(("infer", 200), 0)

    workers, flusher = [threading.Thread(target=work) for _ in range(4)], threading.Thread(target=flush)
    for thread in (*workers, flusher):
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    flusher.join()
    tally.flush()
    assert found + counts.take().get(("infer", 200), 0) == 20000
    assert registry.get_sample_value("h_count") == 20000
    assert registry.get_sample_value("h_sum") == 10000
    assert registry.get_sample_value("h_bucket", {"le": "0.001"}) == 10000


def test_exposition_is_up_to_date():
    metrics = Metrics()
    for status in (200, 200, 400):
        metrics.count("infer", status)
        metrics.duration.observe(0.02)
    text = metrics.render("text/plain")[0].decode()
    assert 'packager_server_requests_total{code="200",route="infer"} 2.0' in text
    assert 'packager_server_request_duration_seconds_bucket{le="0.025"} 3.0' in text
    metrics.count("infer", 200)
    assert 'packager_server_requests_total{code="200",route="infer"} 3.0' in metrics.render("")[0].decode()


PROCESS = """
import sys
from packager.server.telemetry.metrics import Metrics
metrics = Metrics()
for number in range(int(sys.argv[1])):
    metrics.count("infer", 200)
    metrics.run.observe(0.02)
    metrics.rows.observe(3)
metrics.flush()
"""


def test_ended_processes_stay_in_the_totals(tmp_path, monkeypatch):
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    for count in ("3", "4"):
        subprocess.run([sys.executable, "-c", PROCESS, count], env=environment, check=True)
    registry = prometheus.CollectorRegistry()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    from prometheus_client.multiprocess import MultiProcessCollector

    MultiProcessCollector(registry)
    text = generate_latest(registry).decode()
    for row in (
        'packager_server_requests_total{code="200",route="infer"} 7.0',
        "packager_server_run_duration_seconds_count 7.0",
        'packager_server_run_duration_seconds_bucket{le="0.025"} 7.0',
        'packager_server_run_duration_seconds_bucket{le="0.01"} 0.0',
        "packager_server_batch_rows_sum 21.0",
    ):
        assert row in text.splitlines()
