# SPDX-License-Identifier: Apache-2.0
"""L5: speed and memory against what was promised, and against the reference in its own process on this machine.

Timings belong to the machine and the moment: only a promise of the contract (`slo`) or a multiple of the reference,
measured minutes before, makes a failure; everything else is recorded.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from suite import cases, wire
from suite.cell import Cell
from suite.contract import Contract
from suite.subject import Subject
from suite.vectors import Vectors, smallest

SECONDS = 2.0
RUNS = 300
LEAST = 0.0005  # seconds: below it a ratio compares clocks, not runtimes


def test_latency_and_throughput(subject: Subject, cell: Cell, contract: Contract, measures: dict[str, Any]) -> None:
    feeds = cases.feeds(contract, smallest(contract))
    times = _bench(subject, feeds) if not subject.endpoints else _sequence(subject, feeds)
    measures["latency_ms"] = _summary(times)
    if subject.endpoints:
        measures["throughput_rps"] = round(_parallel(subject, feeds), 1)
    assert times, "no request was answered"


def _bench(subject: Subject, feeds: dict[str, Any]) -> list[float]:
    """Time inside the runtime's process: pipes and base64 are not the runtime's."""
    assert subject.process
    packed = wire.pack_all(feeds)
    subject.process.call("bench", 120, inputs=packed, runs=20, seconds=1.0)
    return list(subject.process.call("bench", 120, inputs=packed, runs=RUNS, seconds=SECONDS)["seconds"])


def _sequence(subject: Subject, feeds: dict[str, Any]) -> list[float]:
    for _ in range(10):
        subject.primary.infer(feeds)
    times: list[float] = []
    end = time.monotonic() + SECONDS
    while len(times) < RUNS and time.monotonic() < end:
        started = time.perf_counter()
        subject.primary.infer(feeds)
        times.append(time.perf_counter() - started)
    return times


def _parallel(subject: Subject, feeds: dict[str, Any]) -> float:
    """Return requests per second of four clients."""
    end = time.monotonic() + SECONDS / 2

    def call(_: int) -> int:
        count = 0
        while time.monotonic() < end:
            subject.primary.infer(feeds)
            count += 1
        return count

    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        total = sum(pool.map(call, range(4)))
    return total / (time.monotonic() - started)


def _summary(times: Sequence[float]) -> dict[str, Any]:
    """Return milliseconds: least, quantiles, and a sample for the plot."""
    ordered = sorted(value * 1000 for value in times)
    at = [ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.9, 0.99)]
    sample = ordered[:: max(1, len(ordered) // 60)]
    names = ("least", "p50", "p90", "p99")
    return {
        **{name: round(value, 4) for name, value in zip(names, (ordered[0], *at), strict=True)},
        "count": len(ordered),
        "sample": [round(value, 4) for value in sample],
    }


def test_it_is_not_many_times_slower_than_the_reference(
    subject: Subject, cell: Cell, vectors: Vectors, measures: dict[str, Any]
) -> None:
    """Least times, because a busy machine makes runs slower and never faster."""
    reference = sorted(vectors.index["bench"]["seconds"])
    latency = measures.get("latency_ms")
    if not latency:
        pytest.skip("no latency was measured")
    measures["reference_p50_ms"] = round(statistics.median(reference) * 1000, 4)
    ratio = latency["least"] / 1000 / max(reference[0], LEAST)
    measures["ratio_to_in_process"] = round(latency["p50"] / measures["reference_p50_ms"], 2)
    if subject.endpoints or "adapter" not in cell.channels:
        pytest.skip("a server adds a network to each request; its ratio is recorded, its promise is the SLO")
    if subject.loaded.get("remote"):
        pytest.skip("the adapter calls a server; its ratio is recorded, its promise is the SLO")
    assert ratio <= cell.ratio, f"{ratio:.1f} times slower than the reference; allowed is {cell.ratio:g}"


def _promise(contract: Contract, name: str) -> float:
    value = (contract.document.get("slo") or {}).get(name)
    return float(value) if value is not None else pytest.skip(f"the contract promises no `{name}`")


@pytest.mark.parametrize("quantile", ["p50", "p99"])
def test_the_promised_latency_holds(contract: Contract, measures: dict[str, Any], quantile: str) -> None:
    promise = _promise(contract, f"{quantile}_ms")
    got = measures["latency_ms"][quantile]
    assert got <= promise, f"{quantile} is {got:.2f} ms, promised are {promise:g} ms"


def test_the_promised_throughput_holds(contract: Contract, measures: dict[str, Any]) -> None:
    promise = _promise(contract, "at_rps")
    if "throughput_rps" not in measures:
        pytest.skip("a library has one caller at a time here")
    got = measures["throughput_rps"]
    assert got >= promise, f"four clients get {got:.0f} requests per second, promised are {promise:g}"


def test_the_promised_cold_start_holds(contract: Contract, measures: dict[str, Any]) -> None:
    promise = _promise(contract, "cold_start_s")
    got = measures.get("cold_start_seconds")
    if got is None:
        pytest.skip("an endpoint is not ours to start")
    assert got <= promise, f"cold start takes {got:.1f} s, promised are {promise:g} s"


def test_the_promised_memory_holds(subject: Subject, contract: Contract, measures: dict[str, Any]) -> None:
    if subject.process is None:
        pytest.skip("an endpoint's memory cannot be seen from here")
    measures["resident_bytes"] = resident = subject.resident()
    promise = _promise(contract, "memory")
    assert resident <= promise, f"{resident / 1e6:.0f} MB are resident, promised are {promise / 1e6:.0f} MB"
