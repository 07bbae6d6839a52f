# SPDX-License-Identifier: Apache-2.0
"""L4: how the runtime behaves: clear refusals, many at once, clients that leave, memory, stop and start."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from suite import cases, judge
from suite.adapter import AdapterError, RefusedError
from suite.cell import Cell
from suite.contract import Contract
from suite.oip import Http
from suite.subject import Channel, Subject
from suite.vectors import Vectors, smallest

GROWTH = 256 * 1024  # bytes of memory a request may leave behind: above it is a leak, below it allocators breathe
REQUESTS = 120


def _http(subject: Subject) -> Http:
    if subject.http is None:
        pytest.skip("this runtime has no HTTP endpoint of the Open Inference Protocol")
    return subject.http


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "MODEL/ready", "/v2"])
def test_health(subject: Subject, path: str) -> None:
    client = _http(subject)
    place = path.replace("MODEL", client.base)
    status, _, body = client.exchange("GET", place)
    assert status == 200, f"GET {place}: expected 200, got {status} {body[:200]!r}"


def _good(contract: Contract) -> dict[str, Any]:
    return cases.feeds(contract, smallest(contract))


def _bad_feeds(kind: str, contract: Contract) -> dict[str, Any]:
    """Return a request that breaks the contract in one way."""
    feeds, port = _good(contract), contract.inputs[0]
    name, array = port.name, feeds[port.name]
    rest = {key: value for key, value in feeds.items() if key != name}
    if kind == "unknown input":
        return {**feeds, "no_such_input": array}
    if kind == "missing input":
        return rest
    if kind == "other dtype":
        other = np.zeros(array.shape, "int32" if port.dtype.startswith(("float", "str", "bool")) else "float32")
        return {**feeds, name: other}
    if kind == "one dimension less":
        return (
            {**feeds, name: array.reshape(array.shape[1:] if array.shape[0] == 1 else (-1,))}
            if array.ndim
            else (pytest.skip("the input is a scalar"))
        )
    if kind == "wrong fixed size":
        axis = next((index for index, size in enumerate(port.shape) if isinstance(size, int)), None)
        if axis is None:
            pytest.skip("every dimension of the input varies")
        return {**feeds, name: np.concatenate([array, array], axis)}
    batch = contract.batch
    if batch is None:
        pytest.skip("there is no batch dimension")
    most = contract.limit(batch).get("max")
    if most is None:
        pytest.skip("the contract states no limit of rows")
    lengths = {**smallest(contract).lengths, batch: most + 1}
    return cases.feeds(contract, cases.Case("too large", lengths))


@pytest.mark.parametrize(
    "kind", ["unknown input", "missing input", "other dtype", "one dimension less", "wrong fixed size", "too large"]
)
def test_a_bad_request_is_refused_in_a_sentence(
    channel: Channel, channel_name: str, contract: Contract, kind: str
) -> None:
    feeds = _bad_feeds(kind, contract)
    if kind == "too large" and channel_name == "adapter":
        pytest.skip("a library has no upper bound; its server must refuse")
    good = _good(contract)
    before = channel.infer(good)
    with pytest.raises(RefusedError) as caught:
        channel.infer(feeds)
        pytest.fail(f"a request with {kind} was answered")
    assert str(caught.value).strip(), "the refusal has no message"
    assert judge.same_bits(before, channel.infer(good)) is None, "the next good request was answered differently"


_JUNK = {
    "not JSON": (b"{", {}),
    "no inputs": (b"{}", {}),
    "a list": (b"[1]", {}),
    "header length beyond the body": (b"{}", {"Inference-Header-Content-Length": "999"}),
    "no body": (b"", {}),
    "binary data cut short": (None, {}),
}


@pytest.mark.parametrize("kind", list(_JUNK))
def test_a_malformed_body_is_refused(subject: Subject, contract: Contract, kind: str) -> None:
    client = _http(subject)
    body, headers = _JUNK[kind]
    if body is None:
        if not client.binary:
            pytest.skip("this runtime takes no binary tensors")
        whole, headers = client.encode(_good(contract))
        body = whole[:-1]
    status, _, answer = client.exchange(
        "POST", f"{client.base}/infer", body, {"Content-Type": "application/json", **headers}
    )
    assert 400 <= status < 500, f"expected 4xx, got {status} {answer[:200]!r}"
    assert answer.strip(), "the refusal has no message"
    assert client.infer(_good(contract))


def test_an_unknown_model_is_refused(subject: Subject, contract: Contract) -> None:
    client = _http(subject)
    body, headers = client.encode(_good(contract))
    status, _, answer = client.exchange("POST", "/v2/models/no-such-model/infer", body, headers)
    assert 400 <= status < 500, f"expected 4xx, got {status} {answer[:200]!r}"


def test_many_at_once_get_their_own_answers(
    channel: Channel, channel_name: str, cell: Cell, contract: Contract, vectors: Vectors
) -> None:
    if channel_name == "adapter":
        pytest.skip("a library has one caller at a time here; servers have several")
    sizes = [name for name in vectors.names if not name.startswith(("zeros", "low", "high", "denormal"))]
    questions = [vectors.case(name) for name in (sizes * 24)[:24]]

    def call(question: tuple[dict[str, Any], dict[str, Any]]) -> str | None:
        return judge.differences(contract, cell.target, question[1], channel.infer(question[0]))[1]

    with ThreadPoolExecutor(8) as pool:
        problems = [problem for problem in pool.map(call, questions) if problem]
    assert not problems, f"{len(problems)} of {len(questions)} answers are wrong: {problems[0]}"


def test_clients_that_leave_leave_nothing_behind(subject: Subject, contract: Contract) -> None:
    client = _http(subject)
    feeds = _good(contract)
    before = client.infer(feeds)
    for _ in range(20):
        client.abandon(feeds)
    started = time.monotonic()
    assert judge.same_bits(before, client.infer(feeds)) is None, "after abandoned requests the answer is another one"
    assert time.monotonic() - started < 10, "after abandoned requests an answer takes more than 10 s"


def test_a_model_can_be_unloaded_and_loaded(subject: Subject, contract: Contract) -> None:
    if not subject.loaded.get("repository"):
        pytest.skip("this runtime serves one model for its life")
    client = _http(subject)
    before = client.infer(_good(contract))
    base = f"/v2/repository{client.base.removeprefix('/v2')}"
    assert client.exchange("POST", f"{base}/unload", b"{}")[0] == 200
    end = time.monotonic() + 30
    while client.exchange("GET", f"{client.base}/ready")[0] == 200:
        assert time.monotonic() < end, "the model is still ready 30 s after it was unloaded"
        time.sleep(0.05)
    with pytest.raises(RefusedError):
        client.infer(_good(contract))
    assert client.exchange("POST", f"{base}/load", b"{}")[0] == 200
    assert judge.same_bits(before, client.infer(_good(contract))) is None, "loaded again, it answers differently"


def test_requests_are_batched_without_mixing(
    subject: Subject, cell: Cell, contract: Contract, vectors: Vectors, measures: dict[str, Any]
) -> None:
    """Dynamic batching: many single rows at once get their answers, and the server reports how many ran together."""
    if not subject.loaded.get("batching") or not vectors.index["rowwise"]:
        pytest.skip("this runtime does not put requests of several clients together")
    client = _http(subject)
    feeds = cases.feeds(
        contract,
        cases.Case(
            "batching",
            {**smallest(contract).lengths, str(contract.batch): min(32, contract.dimensions[str(contract.batch)][1])},
        ),
    )
    expected = client.infer(feeds)
    rows = range(len(next(iter(feeds.values()))))

    def call(row: int) -> str | None:
        got = client.infer({name: array[row : row + 1] for name, array in feeds.items()})
        wanted = {name: array[row : row + 1] for name, array in expected.items()}
        return judge.differences(contract, cell.target, wanted, got)[1]

    with ThreadPoolExecutor(8) as pool:
        problems = [problem for problem in pool.map(call, [*rows, *rows]) if problem]
    assert not problems, f"{len(problems)} rows came back wrong: {problems[0]}"
    stats = client.document(f"{client.base}/stats")["model_stats"][0]
    measures["requests_per_execution"] = round(int(stats["inference_count"]) / max(1, int(stats["execution_count"])), 2)


def test_requests_leave_no_memory_behind(subject: Subject, contract: Contract, measures: dict[str, Any]) -> None:
    if subject.process is None:
        pytest.skip("an endpoint's memory cannot be seen from here")
    feeds = _good(contract)
    for _ in range(REQUESTS // 2):
        subject.primary.infer(feeds)
    before = subject.resident()
    for _ in range(REQUESTS):
        subject.primary.infer(feeds)
    growth = (subject.resident() - before) / REQUESTS
    measures["growth_bytes_per_request"] = round(growth)
    measures["resident_bytes"] = subject.resident()
    assert growth < GROWTH, f"each request leaves {growth / 1e6:.2f} MB behind, measured over {REQUESTS}"


def test_knobs_take_effect(
    subject: Subject, cell: Cell, contract: Contract, vectors: Vectors, measures: dict[str, Any]
) -> None:
    """Started with other values, the runtime has them, keeps to them, and gives the same numbers."""
    if not cell.knobs or subject.process is None:
        pytest.skip("there is no knob of this bundle that this runtime's adapter can set")
    subject.before_knobs = subject.primary.infer(_good(contract))
    subject.stop()
    subject.start(cell.knobs)
    report = subject.loaded.get("knobs") or {}
    for name, value in cell.knobs.items():
        assert report.get(name) == value, f"`{name}` was set to {value!r}, the runtime reports {report.get(name)!r}"
    measures["knobs"] = dict(report)
    problem = judge.differences(contract, cell.target, subject.before_knobs, subject.primary.infer(_good(contract)))[1]
    assert problem is None, f"with {dict(cell.knobs)} the numbers are others: {problem}"
    if "batch.max" in cell.knobs:
        _keeps_to_rows(subject, contract, int(cell.knobs["batch.max"]))


def _keeps_to_rows(subject: Subject, contract: Contract, most: int) -> None:
    """A batch as large as the knob allows is answered, a larger one that the contract allows is refused."""
    lengths = smallest(contract).lengths
    subject.primary.infer(
        cases.feeds(contract, cases.Case("as large as allowed", {**lengths, str(contract.batch): most}))
    )
    with pytest.raises(RefusedError):
        subject.primary.infer(cases.feeds(contract, cases.Case("larger", {**lengths, str(contract.batch): most + 1})))
        pytest.fail(f"a batch of {most + 1} was answered although `batch.max` is {most}")


def test_it_stops_when_asked_and_starts_again(
    subject: Subject, cell: Cell, contract: Contract, measures: dict[str, Any]
) -> None:
    """A request in flight is answered, every process ends by itself, and the next start answers the same bits."""
    if subject.process is None:
        pytest.skip("an endpoint is not ours to stop")
    feeds = _good(contract)
    before = subject.before_knobs or subject.primary.infer(feeds)
    busy = _Busy(subject, feeds) if subject.http else None
    report = subject.stop()
    if busy:
        busy.end()
    assert not report["left"], f"processes {report['left']} outlived the stop"
    if "graceful" in report:
        measures["stop_seconds"] = round(report["seconds"], 3)
        assert report["graceful"], f"it did not end within {report['seconds']:.0f} s of SIGTERM and had to be killed"
    subject.start()
    assert judge.same_bits(before, subject.primary.infer(feeds)) is None, "started again, it answers differently"


class _Busy:
    """A client that keeps sending while the server stops, until it is refused."""

    def __init__(self, subject: Subject, feeds: dict[str, Any]) -> None:
        self._client = subject.new_client()
        self._feeds, self.answers = feeds, 0
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        end = time.monotonic() + 10
        while not self.answers and time.monotonic() < end:
            time.sleep(0.005)

    def _ask(self) -> None:
        end = time.monotonic() + 1.5  # a server may go on serving a connection that it drains for as long as it is used
        while time.monotonic() < end:
            try:
                self._client.infer(self._feeds)
            except (AdapterError, RefusedError, json.JSONDecodeError):
                break
            self.answers += 1
        self._client.disconnect()

    def end(self) -> None:
        self._thread.join(70)
        assert self.answers, "no request was answered before the stop"
