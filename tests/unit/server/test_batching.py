# SPDX-License-Identifier: Apache-2.0
"""Which requests share a run, and that their answers do not change."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packager.server.errors import RequestError
from packager.server.execution import batching
from packager.server.execution.batching import Batcher, BatchPolicy
from packager.server.protocol.interface import Interface, Range, Tensor
from tests.support.breadth import examples


@dataclass
class Doubler:
    """A runtime that doubles; it can be held, and refuses the number 13."""

    open: threading.Event = field(default_factory=threading.Event)
    sizes: list[int] = field(default_factory=list)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __call__(self, feeds):
        self.begun.release()
        assert self.open.wait(10)
        self.sizes.append(len(feeds["x"]))
        if (feeds["x"] == 13).any():
            raise ValueError("thirteen")
        return [feeds["x"] * 2, feeds["x"].sum(axis=tuple(range(1, feeds["x"].ndim)))]

    @contextmanager
    def busy(self, batcher: Batcher) -> Iterator[None]:
        """Have every thread of a batcher of one busy while the block runs."""
        first = batcher.submit({"x": np.zeros((1, 2), np.float32)}, 1)
        assert self.begun.acquire(timeout=10)
        yield
        self.open.set()
        first.result(10)


@dataclass
class Observer:
    runs: list[int] = field(default_factory=list)

    def count_run(self, waited) -> None:
        self.runs.append(len(waited))


def rows(*values: float, width: int = 2, dtype=np.float32):
    return {"x": np.repeat(np.array(values, dtype)[:, None], width, axis=1)}


def submit_to(batcher: Batcher, feeds, deadline=None):
    return batcher.submit(feeds, len(feeds["x"]), deadline)


def test_requests_queued_during_a_run_share_the_next() -> None:
    run, observer = Doubler(), Observer()
    batcher = Batcher(run, 1, BatchPolicy(64), observer)
    with run.busy(batcher):
        answers = [submit_to(batcher, rows(*range(i, i + 1 + i % 3))) for i in range(9)]
        assert len(batcher) == 9
    for i, answer in enumerate(answers):
        doubled, total = answer.result(10)
        expected = rows(*range(i, i + 1 + i % 3))["x"] * 2
        assert doubled.tobytes() == expected.tobytes()
        assert total.tolist() == (expected.sum(1) / 2).tolist()
    assert (run.sizes, observer.runs) == ([1, 18], [1, 9])


def test_runs_stay_within_the_range_and_agree_in_type_and_size() -> None:
    run = Doubler()
    batcher = Batcher(run, 1, BatchPolicy(4), Observer())
    with run.busy(batcher):
        answers = [submit_to(batcher, rows(1, 2)) for _ in range(3)]
        answers += [
            submit_to(batcher, rows(3, width=5)),
            submit_to(batcher, rows(4, dtype=np.float64)),
            submit_to(batcher, rows(5)),
        ]
    for answer in answers:
        answer.result(10)
    assert sorted(run.sizes) == [1, 1, 1, 3, 4]  # the one that kept the thread busy, the two others, 2 + 1, 2 + 2


def test_failure_affects_one_request() -> None:
    run = Doubler()
    batcher = Batcher(run, 1, BatchPolicy(64), Observer())
    with run.busy(batcher):
        answers = [submit_to(batcher, rows(value)) for value in (1, 13, 2)]
    assert answers[0].result(10)[0].tolist() == [[2, 2]]
    assert answers[2].result(10)[0].tolist() == [[4, 4]]
    with pytest.raises(ValueError, match="thirteen"):
        answers[1].result(10)


def test_abandoned_request_is_not_run() -> None:
    run = Doubler()
    batcher = Batcher(run, 1, BatchPolicy(64), Observer())
    with run.busy(batcher):
        expired = submit_to(batcher, rows(1), time.monotonic() - 1)
        cancelled = submit_to(batcher, rows(2))
        assert cancelled.cancel()
        kept = submit_to(batcher, rows(3), time.monotonic() + 60)
    with pytest.raises(RequestError) as caught:
        expired.result(10)
    assert caught.value.status == 504
    with pytest.raises(CancelledError):
        cancelled.result(10)
    assert kept.result(10)[0].tolist() == [[6, 6]]
    assert sum(run.sizes) == 2


def test_window_waits_for_others_and_no_longer() -> None:
    run, observer = Doubler(), Observer()
    run.open.set()
    batcher = Batcher(run, 1, BatchPolicy(2, window=5.0), observer)
    began = time.monotonic()
    pair = [submit_to(batcher, rows(1)), submit_to(batcher, rows(2))]
    for answer in pair:
        answer.result(10)
    assert time.monotonic() - began < 4
    assert observer.runs == [2]
    short = Batcher(run, 1, BatchPolicy(2, window=0.05), observer)
    submit_to(short, rows(1)).result(10)
    assert observer.runs == [2, 1]


@pytest.mark.parametrize(
    ("inputs", "outputs", "most"),
    [
        ([("batch", 3)], [("batch",)], 8),
        ([("batch", 3), ("batch", "length")], [("batch", 2)], 8),
        ([("batch", 3)], [()], 1),
        ([("batch", 3)], [("batch", "batch")], 1),
        ([("batch", 3), ("other", 3)], [("batch",)], 1),
        ([(1, 3)], [(1,)], 1),
        ([("free", 3)], [("free",)], 1),
    ],
)
def test_interface_decides_whether_requests_share(inputs, outputs, most) -> None:
    tensors = [
        tuple(Tensor(f"{role}{i}", "float32", shape) for i, shape in enumerate(shapes))
        for role, shapes in (("i", inputs), ("o", outputs))
    ]
    assert batching.max_batch_rows(Interface(*tensors, {"batch": Range(1, 8)})) == most


def test_model_that_mixes_rows_is_detected() -> None:
    one, other = rows(0.25), rows(0.75)
    assert batching.rows_are_independent(lambda feeds: [feeds["x"] * 2], one, other)
    assert not batching.rows_are_independent(lambda feeds: [feeds["x"] - feeds["x"].mean()], one, other)
    assert not batching.rows_are_independent(lambda feeds: [feeds["x"].sum(keepdims=True)[:, 0]], one, other)
    assert not batching.rows_are_independent(lambda feeds: [np.array(feeds["x"].sum())], one, other)


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=5), min_size=1, max_size=12), st.integers(1, 3))
def test_each_request_gets_its_answer(questions, threads) -> None:
    run = Doubler()
    run.open.set()
    batcher = Batcher(run, threads, BatchPolicy(8), Observer())
    answers = [(submit_to(batcher, rows(*values)), rows(*values)["x"] * 2) for values in questions]
    for answer, expected in answers:
        assert answer.result(10)[0].tobytes() == expected.tobytes()
