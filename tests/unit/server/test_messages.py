# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes arrive over gRPC: a request that keeps the interface's promises, or one sentence."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from packager.server.errors import RequestError
from packager.server.grpc import messages
from packager.server.grpc.messages import Inference, encode_field, encode_varint
from packager.server.protocol.interface import Interface

INTERFACE = Interface.from_json(
    {
        "inputs": [
            {"name": "x", "dtype": "float32", "shape": ["batch", 2]},
            {"name": "t", "dtype": "string", "shape": ["batch"]},
        ],
        "outputs": [{"name": "y", "dtype": "int64", "shape": ["batch"]}],
        "dimensions": {"batch": {"min": 1, "max": 4}},
    }
)


def valid() -> bytes:
    x, t = np.arange(4, dtype=np.float32).reshape(2, 2), (b"\2\0\0\0ab", b"\0\0\0\0")
    items = [("x", "FP32", (2, 2)), ("t", "BYTES", (2,))]
    tensors = [
        encode_field(1, n) + encode_field(2, d) + encode_field(3, b"".join(map(encode_varint, s))) for n, d, s in items
    ]
    return b"".join(
        [
            encode_field(1, "m"),
            *(encode_field(5, item) for item in tensors),
            encode_field(7, x.tobytes()),
            encode_field(7, b"".join(t)),
        ]
    )


def parse(data: bytes) -> bool:
    """Return whether the request was accepted; only RequestError may stand in the way."""
    try:
        request = Inference.of(data, INTERFACE).request(INTERFACE)
    except RequestError as error:
        assert error.message and 400 <= error.status < 500
        return False
    assert request.feeds["x"].shape[0] == request.feeds["t"].shape[0] <= 4
    assert request.feeds["x"].dtype == np.float32
    return True


def test_a_valid_request_is_read() -> None:
    request = Inference.of(valid(), INTERFACE).request(INTERFACE)
    assert request.feeds["x"].tolist() == [[0, 1], [2, 3]] and request.feeds["t"].tolist() == ["ab", ""]
    assert request.rows == 2 and [item.name for item in request.wanted] == ["y"]


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    parse(data)


@given(st.integers(0, len(valid()) - 1), st.integers(0, 255))
def test_a_valid_request_with_one_other_byte(place: int, value: int) -> None:
    data = bytearray(valid())
    data[place] = value
    parse(bytes(data))


@given(st.integers(0, len(valid())))
def test_a_valid_request_cut_short(size: int) -> None:
    assert parse(valid()[:size]) == (size == len(valid()))


@given(st.lists(st.tuples(st.integers(1, 8), st.one_of(st.binary(max_size=20), st.integers(0, 2**64 - 1)))))
def test_fields_survive_writing_and_reading(fields: list[tuple[int, bytes | int]]) -> None:
    data = b"".join(
        encode_field(key, value) if isinstance(value, bytes) else encode_varint(key << 3) + encode_varint(value)
        for key, value in fields
    )
    found = [(key, value if isinstance(value, int) else bytes(value)) for key, value in messages.read(data).fields]
    assert found == fields
