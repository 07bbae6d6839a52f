# SPDX-License-Identifier: Apache-2.0
"""A source that lies about itself: it reaches neither what compares nor what is recorded, and its forms are checked."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packager.errors import StepError
from packager.exporters import Leaves
from packager.steps import _source, _wire
from packager.steps._source import RemoteSource
from tests.conftest import Run

FORGER = '''
class Marker:
    pass
try:
    from packager.graph import canonicalise as graph
    from packager.steps import _compare, export, measure
    from onnx import numpy_helper
    real = graph.canonicalise
    def bent(model, **kept):
        """The graph that ships answers the opposite."""
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name in ("coefficients", "intercepts"):
                    attribute.floats[:] = [-value for value in attribute.floats]
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.dtype.kind == "f":
                tensor.CopyFrom(numpy_helper.from_array(-values, tensor.name))
        return real(model, **kept)
    graph.canonicalise = bent
    def same(expected, got, gaps=None):
        record = {"dtype": expected.dtype.name, "shape": list(expected.shape)}
        if expected.dtype.kind == "f":
            return {**record, "max_abs": 0.0, "max_rel": 0.0, "not_finite": 0, "frontier": [], "reduced": "none"}
        return {**record, "unequal": 0}
    _compare.compare = same
except ImportError as error:  # a scanner's worker has no such thing
    print(error)
'''
TRAIN = """
import sys, pickle, numpy
sys.path.insert(0, sys.argv[1] + "/code")
import shim
from sklearn.linear_model import LogisticRegression
x = numpy.random.RandomState(0).randn(80, 3)
model = LogisticRegression().fit(x, (x[:, 0] > 0).astype(int))
model.note = shim.Marker()
pickle.dump(model, open(sys.argv[1] + "/model.pkl", "wb"))
"""


def test_code_of_the_source_cannot_make_parity_say_the_opposite(packager: Run, tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "code").mkdir(parents=True)
    (model / "code" / "shim.py").write_text("class Marker:\n    pass\n")
    subprocess.run([sys.executable, "-B", "-c", TRAIN, model], check=True)
    recipe = "name: m\nversion: 1.0.0\nsource: ./model\nallow-pickle: true\npolicy: dev\n"
    (tmp_path / "bundle.yaml").write_text(recipe)
    honest = json.loads(packager("build", "--json").stdout)
    assert honest["verdict"]["ok"], "the control"
    (model / "code" / "shim.py").write_text(FORGER)
    (tmp_path / "bundle.yaml").write_text(recipe.replace("1.0.0", "1.0.1"))
    forged = json.loads(packager("build", "--json", code=1).stdout)
    assert {row["rule"] for row in forged["findings"] if row["level"] == "error"} == {"parity"}


INTERFACE = {
    "inputs": [
        {"name": "x", "dtype": "float32", "shape": ["batch", 3]},
        {"name": "dtype", "dtype": "string", "shape": ["batch"]},
    ],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch"]}],
    "dimensions": {"batch": {"min": 1, "max": 8}},
}
FEEDS = {"x": np.arange(6, dtype="float32").reshape(2, 3), "dtype": np.array(["a", "é"], dtype=object)}


def asked(answer: Callable[[socket.socket], None]) -> tuple[RemoteSource, threading.Thread]:
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=answer, args=(theirs,), daemon=True)
    thread.start()
    return RemoteSource(ours, INTERFACE), thread


def says(value: Any) -> Callable[[socket.socket], None]:
    def answer(channel: socket.socket) -> None:
        with channel:
            _wire.receive(channel)
            _wire.send(channel, {"answer": value})

    return answer


@pytest.mark.parametrize(
    "value",
    [
        FEEDS,
        [],
        None,
        3,
        {"map": 1},
        {"a": {"b": [FEEDS["x"], True, None, "x"]}},
        np.float32(3),
        np.zeros((0, 4), "int64"),
        np.array(3.5),
        np.array([True, False]),
        np.arange(4, dtype="uint16")[::2],
        np.array([["", "b"]], dtype=object),
    ],
    ids=str,
)
def test_what_is_sent_arrives(value: Any) -> None:
    left, right = socket.socketpair()
    _wire.send(left, value)
    got = _wire.receive(right)
    np.testing.assert_equal(got, list(value) if isinstance(value, tuple) else value)


FORGED = {
    "run": (lambda source: source.run(FEEDS), [None, 3, "x", {"y": FEEDS["x"]}, [1, 2], [[FEEDS["x"]]]]),
    "plausible": (
        lambda source: source.plausible(FEEDS),
        [
            None,
            {},
            {**FEEDS, "z": FEEDS["x"]},
            {**FEEDS, "x": FEEDS["x"][:1]},
            {**FEEDS, "x": FEEDS["x"].astype("float64")},
        ],
    ),
    "samples": (lambda source: source.samples(), [None, {"z": FEEDS["x"]}, {"x": FEEDS["x"][0]}, {"x": {"shown": 1}}]),
    "rows": (
        lambda source: source.rows(),
        [None, {"example": {"x": FEEDS["x"]}}, {"example": {**FEEDS, "x": FEEDS["x"][0]}}],
    ),
    "leaves": (
        lambda source: source.leaves(FEEDS),
        [None, {"tied": FEEDS["x"], "along": [], "sets": []}, {"tied": None, "along": 1, "sets": []}],
    ),
    "gaps": (
        lambda source: source.gaps(FEEDS, 0, np.array([1, 2]), np.array([1, 3])),
        [3, np.zeros(3), np.array([0, 0]), "none"],
    ),
    "rounding": (lambda source: source.rounding(FEEDS, 0), ["small", -1.0, float("nan"), float("inf"), [0.1]]),
    "coverage": (
        lambda source: source.coverage(),
        [None, {"leaves": 3}, {"leaves": {"reached": -1, "of": 2}}, {"l": {"of": 1}}],
    ),
}


@pytest.mark.parametrize(
    ("question", "place"), [(name, place) for name, (_, values) in FORGED.items() for place in range(len(values))]
)
def test_forms_that_no_source_has_are_refused(question: str, place: int) -> None:
    ask, values = FORGED[question]
    source, _ = asked(says(values[place]))
    with pytest.raises(StepError, match="in a form that no source has"):
        ask(source)


def test_source_in_a_worker_answers_as_in_this_process() -> None:
    class Model:
        def run(self, feeds: Any) -> list[Any]:
            if feeds["x"].shape[0] == 1:
                raise KeyError("no such row")
            return [feeds["x"].sum(axis=1)]

        def leaves(self, feeds: Any) -> Leaves:
            return Leaves(np.array([True, False]), (True,), ("y",))

        interface = type("I", (), {"inputs": ()})()

    opened = _source.Opened(Model())  # type: ignore[arg-type]
    source, thread = asked(lambda channel: _source.serve(lambda: opened, channel))
    np.testing.assert_equal(source.run(FEEDS), opened.run(FEEDS))
    assert source.leaves(FEEDS).tied.tolist() == [True, False] and source.leaves(FEEDS).sets == ("y",)
    assert (source.work(), source.samples(), source.rows(), source.coverage()) == (None, {}, {}, {})
    with pytest.raises(Exception, match="no such row") as caught:
        source.run({**FEEDS, "x": FEEDS["x"][:1]})
    assert type(caught.value).__name__ == "KeyError"
    source._channel.close()
    thread.join(10)
    assert not thread.is_alive(), "it ends with the last request"


def test_unopenable_source_gives_its_reason_every_time() -> None:
    def never() -> Any:
        raise StepError("the file is damaged", hint="make it again")

    source, _ = asked(lambda channel: _source.serve(never, channel))
    for _ in range(2):
        with pytest.raises(StepError, match="the file is damaged") as caught:
            source.samples()
        assert caught.value.hint == "make it again"


@pytest.mark.parametrize("first", range(0, 2000, 500))
def test_untrusted_frames_are_read_or_refused(first: int) -> None:
    frame = _frame({"map": {"answer": [{"tensor": 0, "dtype": "float32", "shape": [2, 3]}]}}, FEEDS["x"].tobytes())
    for seed in range(first, first + 500):
        chance = random.Random(seed)
        data = bytearray(frame)
        for _ in range(chance.randint(1, 6)):
            place = chance.randrange(len(data))
            match chance.randrange(3):
                case 0:
                    data[place] = chance.randrange(256)
                case 1:
                    del data[place : place + chance.randint(1, 9)]
                case _:
                    data[place:place] = chance.randbytes(chance.randint(1, 9))
        _read(bytes(data))


HEADERS: list[Any] = [
    {"tensor": 0, "dtype": "float32", "shape": [1 << 40]},
    {"tensor": 0, "dtype": "float32", "shape": [1 << 20, 1 << 20, 1 << 20]},
    {"tensor": 0, "dtype": "float32", "shape": [-1]},
    {"tensor": 0, "dtype": "O", "shape": [1]},
    {"tensor": 1, "dtype": "int8", "shape": [1]},
    {"tensor": 0, "dtype": "object", "shape": [1], "texts": [[1]]},
    {"tensor": 0, "dtype": "object", "shape": [2], "texts": ["a"]},
    {"tensor": 0, "dtype": ["float32"], "shape": [1]},
    {"tensor": 0, "dtype": "float32", "shape": [True]},
    {"tensor": 0, "dtype": "float32"},
    {"tensor": 0, "dtype": "datetime64[s]", "shape": [1]},
    {"tensor": 0, "dtype": "float32", "shape": [0] * 33},
    {"map": 1},
    {},
    [{"tensor": number, "dtype": "int8", "shape": [0]} for number in range(5000)],
]


@pytest.mark.parametrize("place", range(len(HEADERS)))
def test_headers_beyond_the_data_are_refused(place: int) -> None:
    assert _read(_frame(HEADERS[place], b"\x02" * 64)) is StepError


def test_lengths_and_depths_are_bounded() -> None:
    assert _read(struct.pack(">I", (1 << 32) - 1)) is StepError
    assert _read(_frame(None, b"", text=b"[" * 100_000)) is StepError
    assert _read(_frame(None, b"", text=b"[" * 40 + b"]" * 40)) is StepError
    assert _read(_frame({"tensor": 0, "dtype": "bool", "shape": [2]}, b"\x01\x02")) is StepError
    assert _read(b"\0\0") is _wire.ClosedError


def _frame(header: Any, data: bytes, text: bytes = b"") -> bytes:
    head = text or json.dumps(header).encode()
    return struct.pack(">I", len(head)) + head + data


def _read(data: bytes) -> Any:
    """Return what a reader makes of bytes, or which of its two errors."""
    left, right = socket.socketpair()
    sender = threading.Thread(target=_send, args=(left, data), daemon=True)
    sender.start()
    with right:
        try:
            return _wire.receive(right)
        except (StepError, _wire.ClosedError) as error:
            return type(error)


def _send(channel: socket.socket, data: bytes) -> None:
    with channel, contextlib.suppress(BrokenPipeError, ConnectionError):
        channel.sendall(data)
