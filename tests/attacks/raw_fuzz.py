# SPDX-License-Identifier: Apache-2.0
"""Requests with pictures and sound that a seed has mangled, in every form that a server takes, and files that unpack.

Each is what a client puts on the wire, for a server of the model `model`.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import numpy as np
import PIL.Image

from packager.pipelines.pictures import draw_pictures

_EXTREMES = (0, 1, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1)
_SIDE = 8000  # of a picture of one colour just below the most pixels that are decoded
_BOUNDARY = "a-boundary"
TYPES = {"image": ("image/jpeg", "image/png", "image/webp"), "audio": ("audio/wav",)}


def wav(samples: bytes, rate: int = 16_000, channels: int = 1, bits: int = 16, length: int | None = None) -> bytes:
    """Return a WAV file of PCM, which may state another length than it has."""
    block = channels * bits // 8
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, (rate * block) % 2**32, block, bits)
    data = b"data" + struct.pack("<I", len(samples) if length is None else length) + samples
    return b"RIFF" + struct.pack("<I", 4 + len(form) + len(data)) + b"WAVE" + form + data


def png(width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8, kind: int = 0) -> bytes:
    """Return a grey PNG that announces a size, with these chunks before its end."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    found = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (header, *chunks, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + found


def grey(side: int) -> bytes:
    """Return a black PNG."""
    return png(side, side, (b"IDAT", zlib.compress(bytes((side + 1) * side), 9)))


@cache
def large_pictures() -> list[bytes]:
    """Return files that are small and unpack to much, or say that they do."""
    nothing = zlib.compress(bytes(200 << 20), 9)
    plain = (b"IDAT", zlib.compress(bytes((_SIDE + 1) * _SIDE), 9))
    small = (b"IDAT", zlib.compress(bytes(65 * 64)))
    sink = io.BytesIO()
    PIL.Image.new("RGB", (_SIDE, _SIDE)).save(sink, "JPEG", quality=1)
    frame = sink.getvalue()
    start = frame.index(b"\xff\xc0") + 5
    return [
        grey(_SIDE),
        png(60_000, 60_000, plain),
        png(2**31 - 1, 1, plain),
        png(64, 64, (b"IDAT", nothing)),
        png(64, 64, (b"iCCP", b"x\0\0" + nothing), small),
        png(64, 64, *[(b"zTXt", b"x\0\0" + nothing)] * 4, small),
        frame,
        frame[:start] + struct.pack(">HH", 65_500, 65_500) + frame[start + 4 :],
        b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + b"\xff\x3f\0" * 2,
    ]


@cache
def large_sounds() -> list[bytes]:
    """Return files whose features, or whose filter to another rate, are much larger than they."""
    return [
        wav(bytes(599 * 4000), 4000, bits=8),
        wav(bytes(599 * 4001), 4001, bits=8),
        wav(bytes(20), 191_999),
        wav(bytes(2 * 191_999), 191_999),
        wav(bytes(64 * 1000), channels=32),
        wav(bytes(100), length=2**32 - 1),
        wav(b"", length=0),
        b"RIFF\xff\xff\xff\xffWAVE" + b"junk\0\0\0\0" * 5000,
    ]


def sounds() -> list[bytes]:
    """Return honest files of several lengths and forms."""
    waves = [np.sin(np.arange(count) / pitch) for count, pitch in ((500, 3), (4000, 7), (16_000, 11))]
    small = [wav((wave * 2**14).astype("<i2").tobytes(), rate) for wave in waves for rate in (8000, 16_000, 44_100)]
    return [*small, wav((waves[1] * 100 + 128).astype("u1").tobytes(), bits=8), wav(bytes(8000), channels=2)]


def requests(member: str, seed: int, count: int) -> Iterator[bytes]:
    """Yield requests with the files of `image` or `audio`; one in forty has a file that unpacks."""
    draw = random.Random(seed)
    honest = [data for _, data in draw_pictures(0)] if member == "image" else sounds()
    forms: Sequence[Callable[[random.Random, str, list[bytes]], tuple[dict[str, str], bytes]]]
    forms = (_body, _multipart, _json, _protocol)
    for number in range(count):
        if number % 40 == 39:
            files = [draw.choice(large_pictures() if member == "image" else large_sounds())] * draw.choice(
                (1, 1, 2, 8, 64)
            )
        else:
            files = [mangle(draw, draw.choice(honest), honest) for _ in range(draw.choice((1, 1, 1, 2, 5)))]
        headers, body = draw.choice(forms)(draw, member, files)
        if draw.random() < 0.05:
            headers, body = {**headers, "Content-Encoding": "gzip"}, gzip.compress(body, 1)
        yield wire(headers, body)


def wire(headers: Mapping[str, str], body: bytes) -> bytes:
    """Return a request: to the protocol where it has the length of a document, else to `/predict`."""
    path = "/v2/models/model/infer" if "Inference-Header-Content-Length" in headers else "/predict"
    lines = {"Host": "t", **headers, "Content-Length": str(len(body))}
    fields = "".join(f"{key}: {value}\r\n" for key, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{fields}\r\n".encode() + body


def mangle(draw: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return a file with up to three changes, also none."""
    found = bytearray(data)
    for _ in range(draw.randrange(4)):
        start = draw.randrange(len(found) + 1)
        end = min(len(found), start + draw.randrange(1, 200))
        change = draw.randrange(7)
        if change == 0:
            for place in range(start, end):
                found[place] = draw.randrange(256)
        elif change == 1:
            del found[start:]
        elif change == 2:
            del found[start:end]
        elif change == 3:
            found[start:start] = found[start:end] * draw.randrange(1, 50)
        elif change == 4:
            other = draw.choice(others)
            found[start:] = other[draw.randrange(len(other)) :]
        elif len(found) > 8:
            place = draw.randrange(min(64, len(found) - 4))
            found[place : place + 4] = struct.pack(draw.choice("<>") + "I", draw.choice(_EXTREMES))
    return bytes(found)


def _body(draw: random.Random, member: str, files: list[bytes]) -> tuple[dict[str, str], bytes]:
    return {"Content-Type": draw.choice(TYPES[member])}, files[0]


def _multipart(draw: random.Random, member: str, files: list[bytes]) -> tuple[dict[str, str], bytes]:
    name = draw.choice((*[member] * 20, "", "text", '"', "\0"))
    head = f'Content-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n'.encode()
    body = b"".join(b"--" + _BOUNDARY.encode() + b"\r\n" + head + file + b"\r\n" for file in files)
    body += f"--{_BOUNDARY}--\r\n".encode()
    if draw.random() < 0.2:
        body = mangle(draw, body, [body])
    boundary = draw.choice((*[_BOUNDARY] * 20, "", "other", "a" * 100, '"'))
    return {"Content-Type": f"multipart/form-data; boundary={boundary}"}, body


def _json(draw: random.Random, member: str, files: list[bytes]) -> tuple[dict[str, str], bytes]:
    coded = [base64.b64encode(file).decode() for file in files]
    rows = [{draw.choice((*[member] * 20, "text")): text} if draw.random() < 0.9 else text for text in coded]
    body = json.dumps({"rows": rows, **draw.choice((*[{"top": 1}] * 10, {}, {"top": -1}, {"top": 2**70}))}).encode()
    return {"Content-Type": "application/json"}, mangle(draw, body, [body]) if draw.random() < 0.2 else body


def _protocol(draw: random.Random, member: str, files: list[bytes]) -> tuple[dict[str, str], bytes]:
    data = b"".join(struct.pack("<I", len(file)) + file for file in files)
    size = draw.choice((*[len(data)] * 20, 0, 2**31, -1))
    shape = draw.choice((*[[len(files)]] * 20, [0], [2**40], [1, 1]))
    named = {"name": member, "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [named]}).encode()
    return {"Inference-Header-Content-Length": str(len(head))}, head + data
