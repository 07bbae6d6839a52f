# SPDX-License-Identifier: Apache-2.0
"""Hostile requests to a real server: the reduced form of `tests/benchmarks/bench_hostile.py`, which has the figures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attacks import hostile_driver as driver
from tests.attacks import hostile_requests as hostile

ROOT = Path(__file__).parents[2]
SIZE = 8 * hostile.MIB


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(config: Path) -> Iterator[tuple[int, int, int]]:
    with driver.served(config, ROOT) as place:
        yield place


@pytest.mark.parametrize("raw", [pytest.param(raw, id=name) for name, raw in hostile.broken_chunks()])
def test_a_body_in_chunks_that_is_cut_or_garbled_is_refused(server: tuple[int, int, int], raw: bytes) -> None:
    assert driver.send_http(server[0], raw, end=True) == "400"


def test_a_body_in_chunks_that_is_whole_is_served(server: tuple[int, int, int]) -> None:
    body = hostile.good_post().body
    raw = hostile.chunked(hostile.chunk(body[:7]), hostile.chunk(body[7:]), b"0\r\n\r\n")
    assert driver.send_http(server[0], raw) == "200"


def test_a_long_body_that_is_cut_is_refused(server: tuple[int, int, int]) -> None:
    """What is missing would have been spaces."""
    post = hostile.Post(b'{"inputs":[]}' + b" " * (2 * hostile.MIB))
    assert driver.send_http(server[0], post.wire()[:-9], end=True) == "400"


@pytest.mark.parametrize(
    ("way", "name"), [("grpc", name) for name in hostile.MESSAGES] + [("http", name) for name in hostile.POSTS]
)
def test_a_crafted_request_costs_what_it_weighs(config: Path, way: str, name: str, capsys: Any) -> None:
    cost = driver.alone(config, ROOT, way, name, SIZE)
    with capsys.disabled():
        print(f"\n{way} {name}: {cost}")
    assert cost["answer"] in ("400", "413", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
    # grpcio holds a message three times for a moment; what a short body becomes is charged (`test_costs`).
    assert cost["memory, MiB"] < 4 * max(cost["MiB"], 5)


@pytest.mark.parametrize("name", ["shape_of_varints", "packed_varints_that_fit"])
def test_unbounded_message_costs_less_than_twice_its_size(config: Path, name: str) -> None:
    """grpcio would hold it three times, and fill it on the way without letting the event loop run."""
    cost = driver.alone(config, ROOT, "grpc", name, 30 * hostile.MIB)
    assert cost["answer"] == "RESOURCE_EXHAUSTED"
    assert cost["memory, MiB"] < 2 * cost["MiB"]


def test_a_crowd_leaves_the_server_as_it_was(config: Path, capsys: Any) -> None:
    with driver.served(config, ROOT) as (http, rpc, pid):
        good = hostile.good_post().wire()
        assert driver.send_http(http, good) == "200"
        before = driver.settle(pid)
        with driver.watched(http) as seconds:
            answers = driver.attack(http, rpc, hostile.crowd(300, SIZE, hostile.MIB), 8)
        peak = driver.memory(pid, "VmHWM")
        with capsys.disabled():
            print(f"\n{dict(answers)}; {before:.0f} MiB, peak {peak:.0f}; slowest health {max(seconds) * 1000:.0f} ms")
        assert not {status for status in answers if status.startswith("5") or status in ("INTERNAL", "UNKNOWN")}
        assert peak - before < 400
        assert [driver.send_http(http, good) for _ in range(10)] == ["200"] * 10
        with driver.channel(rpc) as line:
            assert driver.send_grpc(driver.infer(line), hostile.good_message()) == "OK"


def test_calls_that_send_nothing_keep_nobody_out(config: Path) -> None:
    """More than there are threads: health is told meanwhile, and they end when they have had the time of a body."""
    over = threading.Event()

    def silence() -> Iterator[bytes]:
        over.wait(60)
        yield from ()

    with driver.served(config, ROOT) as (_, rpc, _pid), driver.channel(rpc) as line:
        silent = [line.stream_unary("/inference.GRPCInferenceService/ModelInfer").future(silence()) for _ in range(20)]
        live = line.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert live(b"", timeout=3) == b"\x08\x01"
        assert driver.send_grpc(driver.infer(line), hostile.good_message()) == "OK"
        codes = {call.code().name for call in silent}
        over.set()
    # The last four end when their connection is ten seconds old, its age limit: grpcio may name the connection instead.
    assert "CANCELLED" in codes
    assert codes <= {"CANCELLED", "UNAVAILABLE"}
