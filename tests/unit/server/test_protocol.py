# SPDX-License-Identifier: Apache-2.0
"""Laws of the protocol core. The other side of every round trip is Triton's own client, not our code."""

from __future__ import annotations

import contextlib
import gzip
import json
import struct
import zlib
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult

from packager.server.errors import RequestError
from packager.server.http import bodies, header_cache
from packager.server.protocol import protocol, tensors
from packager.server.protocol.interface import Interface, Range, Tensor
from packager.server.protocol.protocol import Request, Wanted
from tests.support.breadth import examples

JSON = [name for name in tensors.DATATYPES if name != "bytes"]  # which JSON carries as text
NUMERIC = [name for name in JSON if name != "string"]


def interface(dtype: str, rank: int = 1) -> Interface:
    shape = tuple(f"d{axis}" for axis in range(rank))
    ranges = {name: Range(0, 64) for name in shape}
    return Interface((Tensor("x", dtype, shape),), (Tensor("y", dtype, shape),), ranges)


IMAGE = Interface(
    (Tensor("image", "float32", ("batch", 1, 2)), Tensor("mask", "int64", ("batch", "length"))),
    (Tensor("label", "int64", ("batch",)), Tensor("score", "float32", ("batch", 3))),
    {"batch": Range(1, 4), "length": Range(1, None)},
)


def client_body(array: np.ndarray, dtype: str, *, binary: bool, **more: Any) -> tuple[bytes, int | None]:
    given_input = InferInput("x", list(array.shape), tensors.DATATYPES[dtype])
    given_input.set_data_from_numpy(array, binary_data=binary)
    return InferenceServerClient.generate_request_body([given_input], **more)


def bits(array: np.ndarray) -> tuple[Any, ...]:
    flat = array.reshape(-1)
    if array.dtype == object:
        return array.shape, [item.encode() if isinstance(item, str) else item for item in flat]
    return array.shape, array.dtype.name, flat.tobytes()


def arrays(dtype: str, finite: bool = False) -> st.SearchStrategy[np.ndarray]:
    shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5)
    if dtype == "string":
        return hnp.arrays(object, shapes, elements=st.text(max_size=8), fill=st.nothing())
    if dtype == "bytes":
        return hnp.arrays(object, shapes, elements=st.binary(max_size=8), fill=st.nothing())
    elements = {"allow_nan": False, "allow_infinity": False} if finite and dtype.startswith("float") else None
    return hnp.arrays(dtype, shapes, elements=elements)


@pytest.mark.parametrize("dtype", tensors.DATATYPES)
@settings(max_examples=examples(30), deadline=None)
@given(data=st.data())
def test_binary_holds_every_bit_both_ways(dtype, data):
    array = data.draw(arrays(dtype))
    body, length = client_body(array, dtype, binary=True)
    request = protocol.parse(body, length, interface(dtype, array.ndim))
    assert bits(request.feeds["x"]) == bits(array)
    assert request.feeds["x"].flags.aligned
    reply = protocol.render(request, {"y": array}, "m", "1")
    assert bits(InferResult.from_response_body(reply.body, header_length=reply.header_length).as_numpy("y")) == bits(
        array.astype(object) if dtype in ("string", "bytes") else array
    )


@pytest.mark.parametrize("dtype", JSON)
@settings(max_examples=examples(30), deadline=None)
@given(data=st.data())
def test_json_holds_every_bit_both_ways(dtype, data):
    array = data.draw(arrays(dtype, finite=True))
    body, length = client_body(array, dtype, binary=False, outputs=[InferRequestedOutput("y", binary_data=False)])
    assert length is None
    request = protocol.parse(body, length, interface(dtype, array.ndim))
    assert bits(request.feeds["x"]) == bits(array)
    reply = protocol.render(request, {"y": array}, "m", "1")
    assert reply.header_length is None
    assert bits(InferResult.from_response_body(reply.body).as_numpy("y")) == bits(array)


@settings(max_examples=examples(200), deadline=None)
@given(st.integers(0, 0x7F7FFFFF), st.booleans())
@example(0x00000001, True)
@example(0x7F7FFFFF, False)
@example(0x00800000, False)
@example(0x15AE43FD, False)  # its shortest digits do not survive a reader that goes through double
@example(0x15AE43FD, True)
def test_float32_written_as_json_reads_back_as_itself(pattern, negative):
    array = np.array([pattern | (negative << 31)], np.uint32).view(np.float32)
    text = orjson.dumps(tensors.to_json(array, "y"), option=orjson.OPT_SERIALIZE_NUMPY)
    assert np.array(json.loads(text), np.float64).astype(np.float32).tobytes() == array.tobytes()


def test_nested_and_flat_json_are_the_same_tensor():
    def parse(data):
        item = {"name": "x", "datatype": "INT32", "shape": [2, 1, 2], "data": data}
        return protocol.parse(orjson.dumps({"inputs": [item]}), None, interface("int32", 3)).feeds["x"]

    assert bits(parse([1, 2, 3, 4])) == bits(parse([[[1, 2]], [[3, 4]]]))


def test_an_aligned_tensor_is_a_view_of_the_body():
    item = {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}
    header = orjson.dumps({"inputs": [item]})
    header += b" " * (-len(header) % 8)
    body = header + struct.pack("<2f", 1.5, -2.5)
    feed = protocol.parse(body, len(header), interface("float32")).feeds["x"]
    assert np.shares_memory(feed, np.frombuffer(body, np.uint8))
    assert feed.tolist() == [1.5, -2.5]


# --- requested outputs ---------------------------------------------------------------------------------------------


def document(**changes: Any) -> dict[str, Any]:
    base = {
        "inputs": [
            {"name": "image", "datatype": "FP32", "shape": [1, 1, 2], "data": [1.0, 2.0]},
            {"name": "mask", "datatype": "INT64", "shape": [1, 1], "data": [1]},
        ]
    }
    return base | changes


def parse(value: Any) -> Request:
    return protocol.parse(value if isinstance(value, bytes) else orjson.dumps(value), None, IMAGE)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, [("label", False), ("score", False)]),
        ({"outputs": []}, [("label", False), ("score", False)]),
        ({"parameters": {"binary_data_output": True}}, [("label", True), ("score", True)]),
        ({"outputs": [{"name": "score"}]}, [("score", False)]),
        ({"outputs": [{"name": "score"}, {"name": "label"}]}, [("score", False), ("label", False)]),
        ({"outputs": [{"name": "score", "parameters": {"binary_data": True}}]}, [("score", True)]),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "label", "parameters": {"binary_data": False}}, {"name": "score"}],
            },
            [("label", False), ("score", True)],
        ),
    ],
)
def test_outputs_are_selected_ordered_and_formed_on_request(changes, wanted):
    assert parse(document(**changes)).wanted == tuple(Wanted(*item) for item in wanted)


def test_id_and_unknown_members_pass_and_rows_are_counted():
    request = parse(document(id="é-1", model_name="other", extra=[1]))
    assert (request.id, request.rows) == ("é-1", 1)
    reply = protocol.render(request, {"label": np.array([7]), "score": np.zeros((1, 3), np.float32)}, "m", "2")
    assert orjson.loads(reply.body) == {
        "model_name": "m",
        "model_version": "2",
        "id": "é-1",
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [1], "data": [7]},
            {"name": "score", "datatype": "FP32", "shape": [1, 3], "data": [0.0, 0.0, 0.0]},
        ],
    }


# --- what is refused -----------------------------------------------------------------------------------------------


def image(**changes: Any) -> dict[str, Any]:
    item = {"name": "image", "datatype": "FP32", "shape": [1, 1, 2], "data": [1.0, 2.0], **changes}
    return document(inputs=[{k: v for k, v in item.items() if v is not None}, document()["inputs"][1]])


def inputs(*items: Any) -> dict[str, Any]:
    return document(inputs=list(items))


FIRST, SECOND = document()["inputs"]
REFUSED = {
    "empty body": (b"", "not JSON"),
    "half a document": (b'{"inputs": [', "not JSON"),
    "not UTF-8": (b'{"inputs": "\xff"}', "not JSON"),
    "NaN in JSON": (b'{"inputs": [NaN]}', "not JSON"),
    "deep nesting": (b"[" * 100_000, "not JSON"),
    "a list": (b"[1]", "the request: expected a JSON object"),
    "no inputs": ({}, "`inputs`: expected a list of objects"),
    "inputs is an object": (document(inputs={}), "`inputs`: expected a list"),
    "an input is a number": (inputs(FIRST, 3), "`inputs[1]`: expected a JSON object"),
    "id is a number": (document(id=3), "`id`: expected a string"),
    "input without a name": (inputs({"datatype": "FP32"}), "every input needs a `name`"),
    "unknown input": (inputs({**FIRST, "name": "imge"}), "unknown input `imge`: did you mean `image`?"),
    "missing input": (inputs(FIRST), "input `mask` is missing"),
    "no input at all": (inputs(), "input `image` is missing"),
    "duplicate input": (inputs(FIRST, FIRST, SECOND), "input `image` appears twice"),
    "wrong datatype": (image(datatype="FP64"), "input `image`: expected datatype FP32, got `FP64`"),
    "datatype missing": (image(datatype=None), "expected datatype FP32, got `None`"),
    "shape missing": (image(shape=None), "expected a list of sizes as `shape`"),
    "shape of floats": (image(shape=[1.0, 1, 2]), "expected a list of sizes"),
    "shape of booleans": (image(shape=[True, 1, 2]), "expected a list of sizes"),
    "negative size": (image(shape=[-1, 1, 2]), "expected a list of sizes"),
    "wrong rank": (image(shape=[1, 2]), "shape [1, 2] does not fit [batch, 1, 2]: expected 3 dimensions, got 2"),
    "wrong fixed size": (image(shape=[1, 2, 2]), "shape [1, 2, 2] does not fit [batch, 1, 2]: expected 1, got 2"),
    "below the range": (image(shape=[0, 1, 2], data=[]), "expected `batch` of 1 to 4, got 0"),
    "above the range": (image(shape=[5, 1, 2]), "expected `batch` of 1 to 4, got 5"),
    "dimensions disagree": (
        image(shape=[2, 1, 2], data=[1.0] * 4),
        "input `mask`: shape [1, 1] does not fit [batch, length]: expected `batch` of 2 as in another input, got 1",
    ),
    "enormous shape": (inputs(FIRST, {**SECOND, "shape": [1, 2**60]}), "expected at most"),
    "neither data nor size": (image(data=None), "expected either `data` or `parameters.binary_data_size`"),
    "both data and size": (image(parameters={"binary_data_size": 8}), "expected either `data` or"),
    "parameters is a list": (image(parameters=[]), "input `image`: `parameters`: expected a JSON object"),
    "shared memory": (image(parameters={"shared_memory_region": "r"}), "`shared_memory_region` is not offered"),
    "data is a string": (image(data="ab"), "expected a list as `data`"),
    "data too short": (image(data=[1.0]), "expected 2 elements in `data` for its shape, got 1"),
    "data too long": (image(data=[1.0, 2.0, 3.0]), "expected 2 elements in `data` for its shape, got 3"),
    "nested wrongly": (image(data=[[1.0, 2.0]]), "the nesting of `data` does not follow its shape"),
    "nested unevenly": (image(data=[[[1.0], [2.0]]]), "the nesting of `data` does not follow its shape"),
    "null in data": (image(data=[1.0, None]), "expected numbers in `data`, got null"),
    "boolean in numbers": (image(data=[1.0, True]), "expected numbers in `data`, got a boolean at element [0, 0, 1]"),
    "string in numbers": (image(data=[1.0, "2"]), "expected numbers in `data`, got a string"),
    "list in flat data": (image(data=[1.0, [2.0]]), "expected numbers in `data`, got a list"),
    "float too large": (image(data=[1.0, 1e39]), "the number at element [0, 0, 1] of `data` is out of range for FP32"),
    "fraction for an integer": (
        inputs(FIRST, {**SECOND, "data": [1.5]}),
        "expected integers in `data`, got a fraction",
    ),
    "integer too large": (
        inputs(FIRST, {**SECOND, "data": [2**63]}),
        "9223372036854775808 at element [0, 0] is out of range for INT64",
    ),
    "outputs is an object": (document(outputs={"a": 1}), "`outputs`: expected a list"),
    "unknown output": (document(outputs=[{"name": "scores"}]), "unknown output `scores`: did you mean `score`?"),
    "duplicate output": (document(outputs=[{"name": "score"}] * 2), "output `score` appears twice"),
    "classification": (
        document(outputs=[{"name": "score", "parameters": {"classification": 1}}]),
        "`classification` is not offered",
    ),
    "binary_data is a number": (
        document(outputs=[{"name": "score", "parameters": {"binary_data": 1}}]),
        "`binary_data`: expected true or false",
    ),
}


def test_a_request_that_another_server_has_read_is_held_to_the_same_rules():
    raw = Interface((Tensor("image", "bytes", ("rows",)),), (Tensor("label", "string", ("rows",)),), {})
    named = {"name": "image", "datatype": "BYTES", "shape": [2], "data": [b"\xff\xd8", "/9g="]}
    assert protocol.read_document({"inputs": [named]}, raw).feeds["image"].tolist() == [b"\xff\xd8", "/9g="]
    pairs = [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1.5, 2]}]
    assert protocol.read_document({"inputs": pairs}, interface("float32")).feeds["x"].tolist() == [1.5, 2]
    for wrong in ([b"1", 2], [1.5], [True, 1]):
        with pytest.raises(RequestError):
            protocol.read_document({"inputs": [{**pairs[0], "data": wrong}]}, interface("float32"))
    with pytest.raises(RequestError, match="got 0"):
        behind = {"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}
        protocol.read_document({"inputs": [behind]}, interface("float32"))


def test_null_members_are_ignored():
    plain = parse(document())
    bare = {"id": None, "parameters": None, "outputs": None}
    item = image()["inputs"]
    item[0] |= {"parameters": None}
    item[1] |= {"parameters": {"binary_data_size": None, "shared_memory_region": None}}
    for value in (
        bare,
        {"parameters": {"binary_data_output": None}},
        {"outputs": [{"name": name, "parameters": None} for name, _ in plain.wanted]},
        {"outputs": [{"name": name, "parameters": {"binary_data": None}} for name, _ in plain.wanted]},
    ):
        found = parse(document(inputs=item, **value))
        assert found.wanted == plain.wanted and found.id is None
        assert {name: array.tolist() for name, array in found.feeds.items()} == {
            name: array.tolist() for name, array in plain.feeds.items()
        }


def test_json_error_shows_its_context():
    with pytest.raises(RequestError, match=r"line 1 column \d+.*at `.*\[1.0, oops\]"):
        parse(b'{"inputs": [{"data": [1.0, oops]}]}')


def test_bf16_is_widened_to_equal_float32():
    one = Interface((Tensor("x", "float32", ("batch", 2)),), (Tensor("y", "float32", ("batch",)),), {})
    known = header_cache.HeaderCache(one, "m", "1")
    wide = np.array([[1.5, -2.0], [np.inf, 3.0e38]], np.float32)
    raw = (wide.view(np.uint32) >> 16).astype("<u2")
    for _ in range(2):  # the second time the document is known
        body, length = binary_body(raw.nbytes, raw.tobytes(), "BF16", [2, 2])
        found = known.parse(body, length).feeds["x"]
        assert found.dtype == np.float32
        assert found.tobytes() == (raw.astype(np.uint32) << 16).view(np.float32).tobytes()
    for item, sentence in (
        ({"data": [1.0, 2.0], "shape": [1, 2], "datatype": "BF16"}, "BF16 travels with `binary_data_size` only"),
        ({"parameters": {"binary_data_size": 8}, "shape": [1, 2], "datatype": "BF16"}, "`binary_data_size` of 4"),
    ):
        header = orjson.dumps({"inputs": [{"name": "x", **item}]})
        with pytest.raises(RequestError, match=sentence):
            protocol.parse(header + (bytes(8) if "parameters" in item else b""), len(header), one)


@pytest.mark.parametrize("case", REFUSED)
def test_malformed_request_is_refused_with_one_sentence(case):
    value, sentence = REFUSED[case]
    with pytest.raises(RequestError) as caught:
        parse(value)
    assert sentence in caught.value.message
    assert caught.value.status == 400
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500


def binary_body(size: Any, tail: bytes, datatype: str = "FP32", shape: list[int] | None = None) -> tuple[bytes, int]:
    item = {"name": "x", "datatype": datatype, "shape": shape or [2], "parameters": {"binary_data_size": size}}
    header = orjson.dumps({"inputs": [item]})
    return header + tail, len(header)


@pytest.mark.parametrize(
    ("dtype", "size", "tail", "sentence"),
    [
        ("float32", 8, b"1234567", "expected 8 bytes of binary data, got 7"),
        ("float32", 8, b"", "expected 8 bytes of binary data, got 0"),
        ("float32", 4, b"1234", "expected a `binary_data_size` of 8 for its shape, got 4"),
        ("float32", 12, b"1" * 12, "expected a `binary_data_size` of 8 for its shape, got 12"),
        ("float32", 8, b"123456789", "expected no bytes behind the last input, got 1"),
        ("float32", -8, b"12345678", "expected a size in bytes"),
        ("float32", "8", b"12345678", "expected a size in bytes"),
        ("float32", True, b"12345678", "expected a size in bytes"),
        ("float32", 2**62, b"12345678", "bytes of binary data, got 8"),
        ("bool", 2, b"\x01\x02", "expected bytes of 0 or 1"),
        ("string", 4, b"\x00\x00\x00\x00", "expected 2 elements for its shape, got 1"),
        ("string", 3, b"\x00\x00\x00", "element 0 is longer than the data"),
        ("string", 5, b"\xff\xff\xff\xffa", "element 0 is longer than the data"),
        ("string", 10, b"\x01\x00\x00\x00a\x01\x00\x00\x00\xff", "element 1 is not UTF-8"),
        ("string", 12, b"\x00\x00\x00\x00" * 3, "expected 2 elements for its shape, got more"),
    ],
)
def test_binary_data_of_wrong_size_is_refused(dtype, size, tail, sentence):
    body, length = binary_body(size, tail, tensors.DATATYPES[dtype])
    with pytest.raises(RequestError, match=sentence.replace("`", ".")):
        protocol.parse(body, length, interface(dtype))


def test_binary_data_needs_the_length_header():
    body, _ = binary_body(8, b"")
    with pytest.raises(RequestError, match="expected 8 bytes of binary data, got 0"):
        protocol.parse(body, None, interface("float32"))


@pytest.mark.parametrize("value", ["0", "-1", "11", "1e1", "0x1", " 5", "٣", "", "9" * 5000])
def test_header_length_outside_the_body_is_refused(value):
    with pytest.raises(RequestError, match="Inference-Header-Content-Length"):
        protocol.header_length(value, 10)


def test_header_length_inside_the_body_is_read():
    assert [protocol.header_length(value, 10) for value in (None, "1", "010", "10")] == [None, 1, 10, 10]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_result_without_json_form_is_refused_with_a_hint(dtype, value):
    request = Request(None, {}, (Wanted("y", False),), 1)
    with pytest.raises(RequestError, match=r"output `y` holds NaN or infinity.*binary_data") as caught:
        protocol.render(request, {"y": np.array([0, value], dtype)}, "m", "1")
    assert caught.value.status == 406


def test_results_may_have_any_memory_order():
    transposed = np.arange(6, dtype=np.int32).reshape(2, 3).T
    for binary in (True, False):
        reply = protocol.render(Request(None, {}, (Wanted("y", binary),), 1), {"y": transposed}, "m", "1")
        result = InferResult.from_response_body(reply.body, header_length=reply.header_length).as_numpy("y")
        assert result.tolist() == transposed.tolist()


# --- nothing but the protocol's own error, whatever the bytes ------------------------------------------------------

_KEYS = [
    "inputs",
    "outputs",
    "id",
    "parameters",
    "name",
    "datatype",
    "shape",
    "data",
    "binary_data_size",
    "binary_data_output",
    "binary_data",
]
_ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["image", "mask", "label", "score", "FP32", "INT64", "", "\x00", "é"])
)
_VALUES = st.recursive(
    _ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=5)
)


@settings(max_examples=examples(300), deadline=None)
@given(_VALUES, st.binary(max_size=16), st.booleans())
def test_any_document_raises_only_request_errors(value, tail, accepted):
    header = orjson.dumps(value)
    with contextlib.suppress(RequestError):
        protocol.parse(header + tail, len(header) if accepted else None, IMAGE)


@settings(max_examples=examples(300), deadline=None)
@given(st.data())
def test_any_damaged_request_raises_only_request_errors(data):
    items = [{**FIRST, "parameters": {"binary_data_size": 8}}, {**SECOND, "parameters": {"binary_data_size": 8}}]
    header = orjson.dumps(inputs(*({k: v for k, v in item.items() if k != "data"} for item in items)))
    body = bytearray(header + struct.pack("<2fq", 1.0, 2.0, 3))
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))])
    try:
        length = protocol.header_length(str(len(header) + data.draw(st.integers(-2, 2))), len(cut))
        request = protocol.parse(cut, length, IMAGE)
    except RequestError:
        return
    assert {name: (feed.dtype.name, feed.ndim) for name, feed in request.feeds.items()} == {
        "image": ("float32", 3),
        "mask": ("int64", 2),
    }


@settings(max_examples=examples(100), deadline=None)
@given(st.binary(max_size=64), st.integers(0, 64), st.integers(0, 20), st.sampled_from(list(tensors.DATATYPES)))
def test_any_binary_tensor_raises_only_request_errors(raw, cut, count, dtype):
    try:
        array = tensors.from_binary(memoryview(raw)[min(cut, len(raw)) :], dtype, count, "x")
    except RequestError:
        return
    assert array.size == count


# --- content encodings ---------------------------------------------------------------------------------------------

DEFLATED = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("encoding", DEFLATED)
def test_inflate_reverses_deflate(encoding):
    assert bodies.inflate(DEFLATED[encoding](b"abc" * 100), encoding, 300) == b"abc" * 100


@pytest.mark.parametrize("encoding", DEFLATED)
@pytest.mark.parametrize(
    ("damage", "status"),
    [
        (lambda whole: whole[:-1], 400),
        (lambda whole: whole + b"x", 400),
        (lambda whole: b"x" + whole, 400),
        (lambda whole: b"", 400),
    ],
)
def test_inflate_refuses_truncated_streams(encoding, damage, status):
    with pytest.raises(RequestError) as caught:
        bodies.inflate(damage(DEFLATED[encoding](b"abc")), encoding, 1000)
    assert caught.value.status == status


def test_members_of_gzip_are_joined_and_counted():
    members = [gzip.compress(bytes([65 + number]) * 70_000 * number) for number in range(4)]
    assert bodies.inflate(b"".join(members), "gzip", 10**6) == b"B" * 70_000 + b"C" * 140_000 + b"D" * 210_000
    assert bodies.inflate(gzip.compress(b"a") * 1024, "gzip", 10**6) == b"a" * 1024
    with pytest.raises(RequestError, match="at most 1024 members"):
        bodies.inflate(gzip.compress(b"a") * 1025, "gzip", 10**6)
    with pytest.raises(RequestError) as caught:
        bodies.inflate(gzip.compress(bytes(600)) * 2, "gzip", 1000)
    assert caught.value.status == 413
    with pytest.raises(RequestError):
        bodies.inflate(zlib.compress(b"a") * 2, "deflate", 1000)


@pytest.mark.parametrize(
    ("accepted", "wanted"),
    [
        (None, ""),
        ("", ""),
        ("identity", ""),
        ("br", ""),
        ("gzip", "gzip"),
        ("deflate, GZIP ;q=0.5", "gzip"),
        ("deflate", "deflate"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip; q=0.0", ""),
        ("*", ""),
        (",;=,", ""),
    ],
)
def test_answers_are_encoded_by_accept_encoding(accepted, wanted):
    assert bodies.wanted_encoding(accepted) == wanted
    if wanted:
        assert bodies.inflate(bodies.deflate(b"abc" * 999, wanted), wanted, 3000) == b"abc" * 999


@pytest.mark.parametrize("encoding", DEFLATED)
def test_inflate_stops_at_the_limit(encoding):
    with pytest.raises(RequestError) as caught:
        bodies.inflate(DEFLATED[encoding](b"\0" * 10_000_000), encoding, 999)
    assert caught.value.status == 413
