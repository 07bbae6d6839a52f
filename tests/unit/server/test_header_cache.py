# SPDX-License-Identifier: Apache-2.0
"""A remembered document means what it meant the first time, and remembering costs a bounded amount."""

from __future__ import annotations

import struct
import threading
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packager.server.errors import RequestError
from packager.server.http.header_cache import MAX_ENTRIES, MAX_HEADER_BYTES, HeaderCache
from packager.server.protocol import protocol
from packager.server.protocol.interface import Interface, Range, Tensor
from packager.server.protocol.protocol import Request, Wanted
from tests.support.breadth import examples

MIXED = Interface(
    (
        Tensor("image", "float32", ("batch", 2)),
        Tensor("flag", "bool", ("batch",)),
        Tensor("text", "string", ("batch",)),
    ),
    (Tensor("label", "int64", ("batch",)), Tensor("score", "float32", ("batch", 3))),
    {"batch": Range(0, 4)},
)


def item(name: str, datatype: str, shape: list[int], size: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


def question(rows: int, **more: Any) -> tuple[bytes, bytes]:
    """Return a document and the bytes behind it."""
    texts = b"".join(struct.pack("<I", 2) + b"ab" for _ in range(rows))
    parts = [
        ("image", "FP32", [rows, 2], struct.pack(f"<{2 * rows}f", *range(2 * rows))),
        ("flag", "BOOL", [rows], b"\1" * rows),
        ("text", "BYTES", [rows], texts),
    ]
    items = [item(name, datatype, shape, len(raw)) for name, datatype, shape, raw in parts]
    return orjson.dumps({"inputs": items} | more), b"".join(raw for *_, raw in parts)


def seen(parse: Any, body: bytes, length: int | None) -> Any:
    """Return everything that is observable of a parsed request."""
    try:
        request = parse(body, length)
    except RequestError as error:
        return error.status, error.message, error.retry_after
    feeds = {
        name: (array.dtype, array.shape, array.flags.aligned, array.tolist()) for name, array in request.feeds.items()
    }
    return request.id, feeds, list(request.feeds), request.wanted, request.rows


def same_as_without(cache: HeaderCache, body: bytes, length: int | None) -> bool:
    return seen(cache.parse, body, length) == seen(lambda *arguments: protocol.parse(*arguments, MIXED), body, length)


@settings(max_examples=examples(200), deadline=None)
@given(st.data())
def test_cache_does_not_change_requests(data):
    """Questions, damaged anywhere, in any order and again and again: one memory for all of them."""
    cache = HeaderCache(MIXED, "m", "1")
    for _ in range(data.draw(st.integers(1, 6))):
        document, tail = question(data.draw(st.integers(0, 4)))
        body = bytearray(document + tail)
        for _ in range(data.draw(st.integers(0, 3))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        length = len(document) + data.draw(st.sampled_from([0, 0, 0, -1, 1]))
        for cut in (bytes(body), bytes(body) + b"x", bytes(body[:-1]), bytes(body)):
            if 0 < length <= len(cut):
                assert same_as_without(cache, cut, length)


@pytest.mark.parametrize(
    "damage",
    [
        lambda tail: tail[:-1],
        lambda tail: tail + b"x",
        lambda tail: b"",
        lambda tail: tail[:16] + b"\2" + tail[17:],
        lambda tail: tail[:-4] + b"\xff" * 4,
    ],
)
def test_bytes_behind_a_cached_header_are_checked(damage):
    document, tail = question(2)
    cache = HeaderCache(MIXED, "m", "1")
    cache.parse(document + tail, len(document))
    assert cache.request_count == 1
    assert same_as_without(cache, document + damage(tail), len(document))
    with pytest.raises(RequestError):
        cache.parse(document + damage(tail), len(document))


def test_arrays_of_a_cached_header_are_of_the_new_body():
    document, tail = question(1)
    document += b" " * (-len(document) % 8)
    cache = HeaderCache(MIXED, "m", "1")
    cache.parse(document + tail, len(document))
    body = document + struct.pack("<2f", 7.5, -7.5) + tail[8:]
    feeds = cache.parse(body, len(document)).feeds
    assert feeds["image"].tolist() == [[7.5, -7.5]]
    assert np.shares_memory(feeds["image"], np.frombuffer(body, np.uint8))
    assert not feeds["image"].flags.writeable


@pytest.mark.parametrize(
    ("document", "tail"),
    [
        question(1, id="7"),  # differs each time
        question(1, model_name="x" * MAX_HEADER_BYTES),
        (question(1)[0][:-1], question(1)[1]),  # refused
        (
            orjson.dumps(
                {
                    "inputs": [
                        {"name": "image", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
                        item("flag", "BOOL", [1], 1),
                        item("text", "BYTES", [1], 6),
                    ]
                }
            ),
            question(1)[1][8:],
        ),
    ],
    ids=["an id", "a long one", "a refused one", "one with elements in it"],
)
def test_header_is_not_cached(document, tail):
    cache = HeaderCache(MIXED, "m", "1")
    for _ in range(2):
        assert same_as_without(cache, document + tail, len(document))
        assert same_as_without(cache, document, None)
    assert cache.request_count == 0


def test_cache_is_bounded_and_drops_the_oldest():
    cache, (document, tail) = HeaderCache(MIXED, "m", "1"), question(1)
    for number in range(3 * MAX_ENTRIES):
        other = document + b" " * number
        assert same_as_without(cache, other + tail, len(other))
        assert cache.request_count == min(number + 1, MAX_ENTRIES)


def test_threads_share_a_cache():
    cache, (document, tail), wrong = HeaderCache(MIXED, "m", "1"), question(2), []

    def parse_many(start: int) -> None:
        for number in range(start, start + 2 * MAX_ENTRIES):
            other = document + b" " * (number % (2 * MAX_ENTRIES))
            if not same_as_without(cache, other + tail, len(other)):
                wrong.append(number)

    threads = [threading.Thread(target=parse_many, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and cache.request_count <= MAX_ENTRIES


# --- answers -------------------------------------------------------------------------------------------------------

_ARRAYS = st.sampled_from(
    [
        np.arange(3),
        np.arange(6).reshape(2, 3),
        np.arange(6.0, dtype=np.float32).reshape(2, 3).T,
        np.zeros((0, 2)),
        np.array(1.5),
        np.arange(3, dtype=np.int32),
        np.array(["a", "béc"], dtype=object),
        np.array([True]),
    ]
)


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(st.tuples(_ARRAYS, _ARRAYS, st.booleans(), st.booleans(), st.sampled_from([None, "7"])), max_size=8))
def test_cache_does_not_change_responses(answers):
    cache = HeaderCache(MIXED, "m", "1")
    for label, score, one, other, name in [*answers, *answers]:
        request = Request(name, {}, (Wanted("score", one), Wanted("label", other)), 1)
        results = {"label": label, "score": score}
        assert cache.render(request, results) == protocol.render(request, results, "m", "1")


def test_texts_of_other_lengths_have_separate_headers():
    cache = HeaderCache(MIXED, "m", "1")
    request = Request(None, {}, (Wanted("y", True),), 1)
    for texts in (["a", "bc"], ["def", ""], ["é", "bc"]):
        results = {"y": np.array(texts, dtype=object)}
        assert cache.render(request, results) == protocol.render(request, results, "m", "1")
    assert cache.response_count == 0


def test_cache_of_responses_is_bounded():
    cache = HeaderCache(MIXED, "m", "1")
    request = Request(None, {}, (Wanted("y", True),), 1)
    for size in range(3 * MAX_ENTRIES):
        cache.render(request, {"y": np.zeros(size, np.int8)})
        assert cache.response_count == min(size + 1, MAX_ENTRIES)
