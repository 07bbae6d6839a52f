# SPDX-License-Identifier: Apache-2.0
"""Hostile requests: small, and as costly to read as possible.

Each is what a client puts on the wire, for the model `MODEL`: one input of numbers, one of integers and one of texts.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import TensorProto, helper

NAME = "probe"
MIB = 1 << 20
JSON_SIZE = 11 * MIB  # as long as a document may be
_PORTS = (("x", "float32", TensorProto.FLOAT), ("i", "int64", TensorProto.INT64), ("s", "string", TensorProto.STRING))


def write_model(folder: Path) -> Path:
    """Write a model that repeats its inputs, of rows without a bound; return the configuration's path."""
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name, _, _ in _PORTS]
    ports = [
        [helper.make_tensor_value_info(name + end, kind, ["batch", 2]) for name, _, kind in _PORTS]
        for end in ("", "_out")
    ]
    graph = helper.make_graph(nodes, NAME, *ports)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    ports = [
        [{"name": name + end, "dtype": dtype, "shape": ["batch", 2]} for name, dtype, _ in _PORTS]
        for end in ("", "_out")
    ]
    config = {
        "name": NAME,
        "version": "1.0.0",
        "digest": "sha256:" + "0" * 64,
        "runtime": "onnxruntime",
        "target": "onnxruntime-cpu-fp32",
        "artefact": "model.onnx",
        "interface": {"inputs": ports[0], "outputs": ports[1], "dimensions": {"batch": {"min": 1}}},
    }
    path = folder / "serve.json"
    path.write_text(json.dumps(config))
    return path


@dataclass(frozen=True)
class Post:
    """One HTTP request to the model: its body and header fields; `raw` is sent as it is instead."""

    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes = b""

    def wire(self) -> bytes:
        fields = {"Content-Length": str(len(self.body)), **self.headers}
        head = "".join(f"{key}: {value}\r\n" for key, value in fields.items())
        return self.raw or f"POST /v2/models/{NAME}/infer HTTP/1.1\r\nHost: t\r\n{head}\r\n".encode() + self.body


def number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def block(key: int, data: bytes) -> bytes:
    return number(key << 3 | 2) + number(len(data)) + data


def tensor(name: bytes, kind: bytes, shape: bytes, more: bytes = b"") -> bytes:
    return block(5, block(1, name) + block(2, kind) + block(3, shape) + more)


# Protobuf


def good_message() -> bytes:
    items = tensor(b"x", b"FP32", b"\1\2") + tensor(b"i", b"INT64", b"\1\2") + tensor(b"s", b"BYTES", b"\1\2")
    return block(1, NAME.encode()) + items + block(7, bytes(8)) + block(7, bytes(16)) + block(7, b"\1\0\0\0a" * 2)


def shape_of_varints(size: int) -> bytes:
    return block(1, NAME.encode()) + tensor(b"x", b"FP32", b"\x81\x02" * (size // 2))


def packed_varints(size: int) -> bytes:
    return block(1, NAME.encode()) + tensor(b"i", b"INT64", b"\1\2", block(5, block(3, b"\x81\x02" * (size // 2))))


def packed_varints_that_fit(size: int) -> bytes:
    """Eight times as many bytes once they are integers."""
    rows = size // 2
    return block(1, NAME.encode()) + tensor(b"i", b"INT64", number(rows) + b"\2", block(5, block(3, b"\1" * size)))


def texts_of_two_letters(size: int) -> bytes:
    return block(1, NAME.encode()) + tensor(b"s", b"BYTES", b"\1\2") + block(7, b"\2\0\0\0ab" * (size // 6))


def texts_that_fit(size: int) -> bytes:
    count = size // 5 // 2 * 2
    return block(1, NAME.encode()) + tensor(b"s", b"BYTES", number(count // 2) + b"\2") + block(7, b"\1\0\0\0a" * count)


def texts_as_fields(size: int) -> bytes:
    return block(1, NAME.encode()) + tensor(b"s", b"BYTES", b"\1\2", block(5, block(8, b"a") * (size // 3)))


def empty_fields(size: int) -> bytes:
    return block(1, NAME.encode()) + block(9, b"") * (size // 2)


def long_varints(size: int) -> bytes:
    return block(1, NAME.encode()) + (b"\x48" + b"\xff" * 9 + b"\1") * (size // 11)


MESSAGES: dict[str, Callable[[int], bytes]] = {
    make.__name__: make
    for make in (
        shape_of_varints,
        packed_varints,
        packed_varints_that_fit,
        texts_of_two_letters,
        texts_that_fit,
        texts_as_fields,
        empty_fields,
        long_varints,
    )
}


# HTTP


def _document(inputs: list[dict[str, object]], data: bytes = b"", pad: int = 0) -> Post:
    head = json.dumps({"inputs": inputs}).encode() + b" " * pad
    return Post(head + data, {"Inference-Header-Content-Length": str(len(head))})


def good_post() -> Post:
    return _document(
        [
            {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
            {"name": "i", "datatype": "INT64", "shape": [1, 2], "parameters": {"binary_data_size": 16}},
            {"name": "s", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]},
        ],
        bytes(16),
    )


def binary_texts(size: int) -> Post:
    data = b"\2\0\0\0ab" * (size // 6)
    return _document(
        [{"name": "s", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": len(data)}}], data
    )


def binary_texts_that_fit(size: int) -> Post:
    count = size // 4 // 2
    return _document(
        [{"name": "s", "datatype": "BYTES", "shape": [count, 2], "parameters": {"binary_data_size": count * 8}}],
        bytes(count * 8),
    )


def unaligned_numbers(size: int) -> Post:
    rows = size // 16
    asked = [{"name": "i", "datatype": "INT64", "shape": [rows, 2], "parameters": {"binary_data_size": rows * 16}}]
    return _document(asked, bytes(rows * 16), pad=1 + (len(json.dumps({"inputs": asked})) % 2))


def numbers_in_json(size: int) -> Post:
    return Post(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[' + b"0," * (size // 2) + b"0]}]}")


def numbers_in_json_that_fit(size: int) -> Post:
    rows = size // 4
    head = f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[{rows + 1},2],"data":['.encode()
    return Post(head + b"0," * (2 * rows + 1) + b"0]}]}")


def lists_in_json(size: int) -> Post:
    return Post(b'{"inputs":[' + b"[]," * (size // 3) + b"[]]}")


def objects_in_json(size: int) -> Post:
    return Post(b'{"inputs":[' + b'{"a":0},' * (size // 8) + b"{}]}")


def deep_json(size: int) -> Post:
    return Post(b"[" * size)


def inflated(size: int) -> Post:
    """A thousandth of what it becomes."""
    return Post(gzip.compress(b'{"inputs":[' + b"[]," * (size // 3) + b"[]]}"), {"Content-Encoding": "gzip"})


POSTS: dict[str, Callable[[int], Post]] = {
    make.__name__: make
    for make in (
        binary_texts,
        binary_texts_that_fit,
        unaligned_numbers,
        numbers_in_json,
        numbers_in_json_that_fit,
        lists_in_json,
        objects_in_json,
        deep_json,
        inflated,
    )
}


def chunked(*pieces: bytes) -> bytes:
    """Write a request in chunks, without the last one: `pieces` are what follows the head."""
    head = f"POST /v2/models/{NAME}/infer HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n"
    length = good_post().headers["Inference-Header-Content-Length"]
    return f"{head}Inference-Header-Content-Length: {length}\r\n\r\n".encode() + b"".join(pieces)


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def broken_chunks() -> Iterator[tuple[str, bytes]]:
    """Yield requests whose body is whole, and whose chunks do not end as chunks end."""
    body = good_post().body
    yield "cut before the last chunk", chunked(chunk(body))
    yield "cut in the last chunk", chunked(chunk(body), b"0\r\n")
    yield "no number", chunked(chunk(body), b"zz\r\n")
    yield "a number too long", chunked(chunk(body), b"f" * 40 + b"\r\n")
    yield "a chunk longer than it says", chunked(f"{len(body):x}\r\n".encode() + body + b"xx0\r\n\r\n")
    yield "a negative chunk", chunked(chunk(body), b"-1\r\n\r\n")
    yield "binary behind", chunked(chunk(body), b"\xff\x00\xff\r\n\r\n")


def mutated(dice: random.Random, data: bytes) -> bytes:
    """Change one to four places of a request."""
    raw = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(raw))
        match dice.randrange(4):
            case 0:
                raw[at] = dice.randrange(256)
            case 1:
                del raw[at : at + dice.randint(1, 20)]
            case 2:
                raw[at:at] = dice.randbytes(dice.randint(1, 20))
            case _:
                raw[at:at] = raw[at : at + dice.randint(1, 40)]
        if not raw:
            return b"\0"
    return bytes(raw)


def crowd(count: int, large: int, medium: int, seed: int = 0) -> list[tuple[str, str | bytes, int]]:
    """Return `count` hostile requests, shuffled: where to ("http" or "grpc"), bytes or the name of a crafted one, its size.

    Every crafted one comes with `large` bytes, with `JSON_SIZE` and twice with `medium`; small and mutated ones fill up.
    """
    dice = random.Random(seed)
    crafted = [("grpc", name) for name in MESSAGES] + [("http", name) for name in POSTS]
    found: list[tuple[str, str | bytes, int]] = [
        (way, name, size) for way, name in crafted for size in (large, medium, medium, JSON_SIZE)
    ]
    found += [("http", raw, 0) for _, raw in broken_chunks()]
    good = {"http": good_post().wire(), "grpc": good_message()}
    while len(found) < count:
        way = dice.choice(("http", "grpc"))
        if dice.random() < 0.1:
            found.append((*dice.choice(crafted), 1 << 15))
        else:
            found.append((way, mutated(dice, good[way]), 0))
    dice.shuffle(found)
    return found[:count]
