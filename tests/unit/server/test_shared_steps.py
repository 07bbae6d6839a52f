# SPDX-License-Identifier: Apache-2.0
"""Answers that share runs equal those of each alone, while others begin and end beside it."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from packager.server.generation.decoder import Decoder
from packager.server.generation.loop import Job, generate
from packager.server.generation.sampling import Sampling
from packager.server.generation.shared_steps import SharedSteps, independent

SIZE = 97


class Sums:
    """A decoder graph in arithmetic: what follows depends on every token of the cache that is not masked, and on where
    it stands. A lost, added, shifted or foreign token gives another answer."""

    inputs = (
        SimpleNamespace(name="input_ids", dtype="int64", shape=("batch", "sequence")),
        SimpleNamespace(name="attention_mask", dtype="int64", shape=("batch", "total")),
        SimpleNamespace(name="position_ids", dtype="int64", shape=("batch", "sequence")),
        SimpleNamespace(name="past_key_values.0.key", dtype="float32", shape=("batch", 1, "past", 1)),
        SimpleNamespace(name="past_key_values.0.value", dtype="float32", shape=("batch", 1, "past", 1)),
    )
    outputs = tuple(SimpleNamespace(name=n) for n in ("logits", "present.0.key", "present.0.value"))

    def __init__(self, leak: bool = False) -> None:
        self.rows: list[int] = []
        self.fail = False
        self.leak = leak

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        if self.fail:
            raise RuntimeError("no memory")
        time.sleep(0.001)
        ids, mask = feeds["input_ids"], feeds["attention_mask"]
        self.rows.append(len(ids))
        places = feeds["position_ids"].astype(np.float32)
        key = np.concatenate([feeds["past_key_values.0.key"][:, 0, :, 0], ids * (places + 1)], axis=1)
        value = np.concatenate([feeds["past_key_values.0.value"][:, 0, :, 0], ids.astype(np.float32)], axis=1)
        seen = (key * mask).sum(axis=1) * 7 + (value * mask).sum(axis=1) + (len(ids) if self.leak else 0)
        logits = np.zeros((*ids.shape, SIZE), np.float32)
        logits[np.arange(len(ids)), -1, seen.astype(np.int64) % SIZE] = 1.0
        return [logits, key[:, None, :, None].astype(np.float32), value[:, None, :, None]]


class Bytes:
    """A tokenizer whose tokens are letters."""

    def decode(self, ids: Any, *, special: bool = False) -> str:
        return "".join(chr(65 + i) for i in ids)


def answer(decoder: Any, prompt: list[int], most: int, after: int = 10**9) -> list[int]:
    job = Job(tuple(prompt), most, Sampling())
    calls = iter(range(10**9))
    steps = generate(decoder, Bytes(), (), job, lambda: next(calls) > after)  # type: ignore[arg-type]
    return [step.token for step in steps]


def test_answers_that_come_and_go_are_those_that_each_is_alone() -> None:
    chance, graph = random.Random(7), Sums()
    shared = SharedSteps(Decoder(graph), 5, 2)
    jobs = [
        ([chance.randrange(SIZE) for _ in range(chance.choice((1, 2, 3, 20, 140)))], chance.randint(1, 60))
        for _ in range(60)
    ]
    expected = [answer(Decoder(Sums()), *job) for job in jobs]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda job: answer(shared, *job), jobs))
    assert found == expected
    assert max(graph.rows) == 5 and len(graph.rows) < sum(map(len, expected))


def test_rows_of_very_different_lengths_are_not_padded_to_each_other() -> None:
    graph, lengths = Sums(), []
    run = graph.run

    def watched(feeds: dict[str, Any]) -> list[Any]:
        if len(feeds["input_ids"]) > 1:
            sums = feeds["attention_mask"].sum(axis=1)
            lengths.append(sums.max() / sums.min())
        return run(feeds)

    graph.run = watched  # type: ignore[method-assign]
    shared = SharedSteps(Decoder(graph), 8, 8)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: answer(shared, [n] * n, 30), (1, 2, 3, 4, 50, 60, 90, 120)))
    assert lengths and max(lengths) <= 2.5  # a step longer than when they were chosen


def test_a_failed_run_fails_its_answers_and_no_later_ones() -> None:
    graph = Sums()
    shared = SharedSteps(Decoder(graph), 4, 4)
    begun = threading.Barrier(5)

    def ask(number: int) -> str:
        begun.wait()
        try:
            answer(shared, [number], 10**6)
        except RuntimeError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, number) for number in range(1, 5)]
        begun.wait()
        time.sleep(0.1)
        graph.fail = True
        assert [each.result(10) for each in asked] == ["no memory"] * 4
    graph.fail = False
    assert answer(shared, [5, 6], 9) == answer(Decoder(Sums()), [5, 6], 9)


def test_an_answer_that_is_cancelled_is_not_waited_for() -> None:
    shared = SharedSteps(Decoder(Sums()), 8, 8)
    answer(shared, [1], 50, after=3)
    shared._last = 100.0  # so that waiting for the one that left would take 25 s
    began = time.monotonic()
    assert len(answer(shared, [2], 20)) == 20
    assert time.monotonic() - began < 10


def test_runs_are_shared_only_where_rows_are_independent() -> None:
    assert independent(Decoder(Sums()), list(range(9)))
    assert not independent(Decoder(Sums(leak=True)), list(range(9)))
    with pytest.raises(ValueError, match="one row"):
        SharedSteps(Decoder(Sums()), 4).empty(2)
