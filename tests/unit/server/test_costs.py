# SPDX-License-Identifier: Apache-2.0
"""The cost of a request is estimated before it is spent, and never too low."""

from __future__ import annotations

import random
import time
import tracemalloc
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager.server.admission import costs
from packager.server.admission.admission import Admission, Limits
from packager.server.errors import RequestError
from packager.server.grpc import messages
from packager.server.grpc.messages import Inference, encode_field, encode_varint
from packager.server.protocol import protocol, tensors
from packager.server.protocol.interface import Interface, Range, Tensor
from tests.attacks import hostile_requests as hostile

FREE = Interface(
    tuple(Tensor(name, dtype, ("batch", 2)) for name, dtype in (("x", "float32"), ("i", "int64"), ("s", "string"))),
    (Tensor("y", "float32", ("batch", 2)),),
    {"batch": Range(1, None)},
)


@pytest.mark.parametrize(
    "document",
    [
        b"[" + b"0," * 300_000 + b"0]",
        b"[" + b"[]," * 100_000 + b"0]",
        b"[" + b"{}," * 4000 + b"0]",
        b"[" + b'{"a":0},' * 4000 + b"0]",
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b"[" + b'"\xc3\xa4\xe2\x82\xac",' * 90_000 + b"0]",
        b'["' + b"a" * 500_000 + "😀".encode() + b'"]',
        b"[" + b"-0.12345678901234567," * 90_000 + b"0]",
        b'["' + b"a" * 200_000 + b'\\ud83d\\ude00"]',
    ],
)
def test_document_takes_no_more_than_estimated(document: bytes) -> None:
    tracemalloc.start()
    try:
        value = orjson.loads(document)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    del value
    # While it parses, orjson holds a copy of the text and 16 bytes for each value. (It allocates more, and leaves it untouched.)
    assert taken + len(document) + 16 * document.count(b",") <= costs.estimate_json_memory(document)


def test_parsing_in_the_event_loop_is_bounded_in_time() -> None:
    """Texts of nothing at all beside a document of texts, each as long as the loop reads; by the thread's own clock."""
    texts = Interface(tuple(item for item in FREE.inputs if item.dtype == "string"), FREE.outputs, FREE.dimensions)
    name = texts.inputs[0].name

    def spent(item: dict[str, Any], data: bytes) -> float:
        header = orjson.dumps({"inputs": [{"name": name, "datatype": "BYTES", **item}]})
        found = []
        for _ in range(9):
            began = time.thread_time()
            protocol.parse(header + data, len(header) if data else None, texts)
            found.append(time.thread_time() - began)
        return min(found)

    few, many = costs.SMALL_TEXTS // 4, costs.SMALL // 4
    binary = spent({"shape": [few // 2, 2], "parameters": {"binary_data_size": 4 * few}}, bytes(4 * few))
    assert binary < 4 * spent({"shape": [many // 2, 2], "data": ["a"] * many}, b"")


@pytest.mark.parametrize(
    "make", [hostile.lists_in_json, hostile.objects_in_json, hostile.numbers_in_json, hostile.deep_json]
)
def test_blocking_documents_are_refused_unparsed(make: Any) -> None:
    with pytest.raises(RequestError) as caught:
        costs.estimate_json_memory(make(hostile.JSON_SIZE).body)
    assert caught.value.status == 413


def test_parsed_numbers_are_charged_as_numbers() -> None:
    charged: list[int] = []
    interface = Interface(FREE.inputs[:1], FREE.outputs, FREE.dimensions)
    body = orjson.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [20_000, 2], "data": [0.1] * 40_000}]})
    protocol.parse(body, None, interface, charged.append)
    assert charged[0] == costs.estimate_json_memory(body) and sum(charged) == 160_000


def test_the_charge_comes_before_the_cost() -> None:
    admission = Admission(Limits(max_body=1 << 20))
    with admission.lease() as lease:
        lease.hold_body(100_000)
        with pytest.raises(RequestError) as caught:  # alone it would never fit
            lease.hold(5 << 20)
        assert caught.value.status == 413
        with admission.lease() as other:
            other.hold(4_000_000)
            with pytest.raises(RequestError) as caught:  # but now it does not
                lease.hold(1_000_000)
            assert caught.value.status == 429
        lease.hold(1_000_000)
    assert admission.held == 0


@pytest.mark.parametrize("name", hostile.MESSAGES)
def test_crafted_message_takes_no_more_than_its_size(name: str) -> None:
    message, charged = hostile.MESSAGES[name](8 << 20), []
    tracemalloc.start()
    try:
        with pytest.raises(RequestError):
            Inference.of(message, FREE).request(FREE, charged.append)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken - sum(charged) < 1 << 20
    assert taken < len(message)


@pytest.mark.parametrize("count", [1000, 400_000])
def test_texts_and_integers_are_charged_what_they_take(count: int) -> None:
    texts = b"\1\0\0\0a" * (2 * count)
    integers = encode_field(5, encode_field(3, b"\1" * (2 * count)))
    for items in (
        hostile.tensor(b"s", b"BYTES", encode_varint(count) + b"\2") + encode_field(7, texts),
        hostile.tensor(b"i", b"INT64", encode_varint(count) + b"\2", integers),
    ):
        charged, message = list[int](), encode_field(1, "m") + items
        tracemalloc.start()
        try:
            with pytest.raises(RequestError) as caught:  # inputs are missing, or there are too many elements
                Inference.of(message, FREE).request(FREE, charged.append)
            taken = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert taken <= sum(charged) + (1 << 20), (taken, charged)
        assert (caught.value.status == 413) == (2 * count > costs.MOST_VALUES)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=40))
def test_packed_integers_are_what_was_packed(values: list[int]) -> None:
    packed = memoryview(b"".join(map(encode_varint, values)))
    assert messages.unpack(packed, len(values)).tolist() == values
    if values:
        with pytest.raises(RequestError):
            messages.unpack(packed, len(values) - 1)
        with pytest.raises(RequestError):
            messages.unpack(memoryview(bytes(packed) + b"\x80"), len(values) + 1)


def test_packed_integers_longer_than_a_slice_are_whole() -> None:
    dice = random.Random(0)
    values = [dice.getrandbits(dice.randrange(1, 65)) for _ in range(50_000)]
    assert messages.unpack(memoryview(b"".join(map(encode_varint, values))), 50_000).tolist() == values


@given(st.binary(max_size=60), st.integers(0, 70))
def test_packed_bytes_of_any_kind(data: bytes, most: int) -> None:
    try:
        found = messages.unpack(memoryview(data), most)
    except RequestError:
        return
    assert len(found) == sum(byte < 0x80 for byte in data) <= most


def test_the_contract_bounds_the_body() -> None:
    bounded = Interface((Tensor("x", "float32", ("batch", 64)),), FREE.outputs, {"batch": Range(1, 64)})
    most = bounded.largest_body()
    assert most is not None and 64 * 64 * 4 < most < 2 << 20
    assert FREE.largest_body() is None
    limits = Limits(max_body=64 << 20).narrowed_to(most)
    assert (limits.max_body, limits.max_held) == (most, 256 << 20)
    assert Limits(max_body=1000).narrowed_to(most) == Limits(max_body=1000)


def test_long_results_are_written_in_pieces_that_are_the_whole() -> None:
    for array in (np.arange(50_000, dtype=np.float32) / 7, np.arange(40_000), np.array(["a,b", "ä"] * 20_000, object)):
        charged: list[int] = []
        text = orjson.dumps(tensors.to_json(array, "y", charged.append), option=orjson.OPT_SERIALIZE_NUMPY)
        assert orjson.loads(text) == orjson.loads(
            orjson.dumps(array.tolist() if array.dtype == object else array, option=orjson.OPT_SERIALIZE_NUMPY)
        )
        assert array.dtype == object or len(text) <= charged[0]
