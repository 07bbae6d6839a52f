# SPDX-License-Identifier: Apache-2.0
"""Image pipelines: the processor's own pixels, its answers, and pictures that are bombs, cut or no pictures."""

from __future__ import annotations

import base64
import io
import json
import random
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tritonclient.http

from packager.errors import StepError
from packager.pipelines.pictures import draw_pictures
from packager.server.errors import RequestError
from packager.server.pipeline.pipeline import Pipeline, open_pipeline
from packager.server.protocol.interface import Interface
from tests.attacks import hostile_driver, raw_fuzz
from tests.support.raw_client import Client
from tests.support.raw_models import Made
from tests.unit.pipelines.test_served import serving

SPEC = {"task": "image-classification", "top": 2}


@pytest.fixture(scope="module")
def folder(pictures_model: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pipeline")
    facts = pictures_model.step(made, SPEC)
    assert facts["inputs"] > 100 and facts["largest"] < 0.01 and facts["rows"] >= 10 and facts["max_abs"] < 1e-5
    return made


@pytest.fixture(scope="module")
def opened(pictures_model: Made, folder: Path) -> Pipeline:
    return open_pipeline(folder, Interface.from_json(pictures_model.interface))


@pytest.fixture(scope="module")
def client(pictures_model: Made, folder: Path) -> Iterator[Client]:
    with serving(pictures_model, folder) as made:
        yield made


def with_processor(made: Made, folder: Path, **members: Any) -> Path:
    shutil.copytree(made.source, folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **members}))
    return folder


def test_a_crop_of_the_middle(pictures_model: Made, tmp_path: Path) -> None:
    crop = {"size": {"shortest_edge": 30}, "crop_size": {"height": 24, "width": 24}, "do_center_crop": True}
    kind = {"image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True}
    source = with_processor(pictures_model, tmp_path / "source", **crop, **kind)
    facts = pictures_model.step(tmp_path / "out", SPEC, source=source)
    assert facts["largest"] < 0.01
    assert json.loads((tmp_path / "out" / "pipeline.json").read_text())["image"]["crop"] == [24, 24]


def test_a_processor_that_does_more_ends_the_build(pictures_model: Made, tmp_path: Path) -> None:
    """ConvNeXT's resizes to a larger size and crops: its configuration looks like any other."""
    kind = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 24}, "crop_pct": 0.875}
    source = with_processor(pictures_model, tmp_path / "source", **kind)
    with pytest.raises(StepError, match=r"other pixels of the image `.*` than the source's processor"):
        pictures_model.step(tmp_path / "out", SPEC, source=source)


def png(width: int, height: int) -> bytes:
    """Return a PNG whose header announces a size that its data does not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"no image", 400),
        (b"GIF89a" + b"\0" * 100, 400),
        (png(60_000, 60_000), 413),
        (png(9_000, 9_000), 413),
        (png(100, 100), 400),
        (b"\xff\xd8\xff\xe0" + b"\0" * 1000, 400),
    ],
)
def test_bombs_and_what_is_no_picture(opened: Pipeline, data: bytes, status: int) -> None:
    with pytest.raises(RequestError) as caught:
        opened.prepare([{"image": data}])
    assert caught.value.status == status


def test_mangled_files_are_an_answer_or_refused(opened: Pipeline) -> None:
    draw, files = random.Random(0), [data for _, data in draw_pictures(0)]
    for _ in range(600):
        data = bytearray(draw.choice(files))
        for _ in range(draw.randint(1, 20)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            opened.prepare([{"image": bytes(data[: draw.randint(1, len(data))])}])
        except RequestError as error:
            assert error.status in (400, 413)


def test_fuzzed_requests_are_an_answer_or_refused(client: Client) -> None:
    """In every form; 10,000 of them, with files that unpack, are `tests/benchmarks/soak_raw.py`."""
    port = int(client.address.rpartition(":")[2])
    found = Counter(hostile_driver.send_http(port, raw) for raw in raw_fuzz.requests("image", 7, 39))
    assert found["200"] and set(found) <= {"200", "400", "413", "415"}, found


def jpeg() -> bytes:
    sink = io.BytesIO()
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)).save(sink, "JPEG")
    return sink.getvalue()


def test_every_way_in(client: Client, opened: Pipeline) -> None:
    data = jpeg()
    expected = client.ask("/predict", data, content_type="image/jpeg")[1]["answers"]
    assert [len(row) for row in expected] == [2] and {item["label"] for item in expected[0]} < {"cat", "dog", "owl"}
    encoded = base64.b64encode(data).decode()
    assert client.predict([{"image": encoded}]) == expected
    assert client.predict([f"data:image/jpeg;base64,{encoded}"]) == expected
    form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + data + b"\r\n"
    status, answer = client.ask("/predict", form * 2 + b"--x--\r\n", content_type="multipart/form-data; boundary=x")
    assert status == 200 and len(answer["answers"]) == 2
    assert [item["label"] for item in answer["answers"][1]] == [item["label"] for item in expected[0]]
    raw = tritonclient.http.InferInput("image", [1], "BYTES")
    raw.set_data_from_numpy(np.array([data], object))
    with tritonclient.http.InferenceServerClient(client.address.removeprefix("http://")) as triton:
        answer = triton.infer("model", [raw])
    assert answer.as_numpy("label")[0].tolist() == [item["label"].encode() for item in expected[0]]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "multipart/form-data; boundary=x"),
        (b"--x", "multipart/form-data; boundary=x"),
        (b"--x\r\n\r\n\r\n--x--", "multipart/form-data; boundary=x"),
        (b"--x--", "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--", "multipart/form-data"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\n" * 3000, "multipart/form-data; boundary=x"),
        (b"abc", "image/png"),
        (b'{"rows": [{"image": "?"}]}', "application/json"),
        (b'{"rows": [{"image": 1}]}', "application/json"),
        (b'{"rows": [{"text": "a"}]}', "application/json"),
        (b"a text", "text/plain"),
    ],
)
def test_hostile_requests(client: Client, body: bytes, kind: str) -> None:
    status, answer = client.ask("/predict", body, content_type=kind)
    assert status == 400 and answer["error"], answer
