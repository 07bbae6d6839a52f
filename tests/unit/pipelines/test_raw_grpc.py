# SPDX-License-Identifier: Apache-2.0
"""Raw inputs over gRPC, with NVIDIA's client: the answers of HTTP, and its refusals."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.support.raw_client import Client
from tests.support.raw_models import Made
from tests.unit.pipelines.test_images import jpeg
from tests.unit.pipelines.test_served import TEXTS, serving

Both = tuple[Client, str]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def classes(classifier: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    classifier.step(folder, {"task": "text-classification"}, strings=20)
    with serving(classifier, folder, "--grpc-port", port) as client:
        yield client, f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def pictures(pictures_model: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    pictures_model.step(folder, {"task": "image-classification", "top": 2})
    with serving(pictures_model, folder, "--grpc-port", port) as client:
        yield client, f"127.0.0.1:{port}"


def tensor(name: str, values: list[bytes]) -> Any:
    made = tritonclient.grpc.InferInput(name, [len(values)], "BYTES")
    made.set_data_from_numpy(np.array(values, object))
    return made


def shown(answer: Any) -> list[list[dict[str, Any]]]:
    """Return labels and scores as `/predict` has them."""
    pairs = zip(answer.as_numpy("label"), answer.as_numpy("score"), strict=True)
    return [
        [
            {"label": label.decode(), "score": pytest.approx(float(score), abs=1e-6)}
            for label, score in zip(*row, strict=True)
        ]
        for row in pairs
    ]


def test_texts_get_the_answers_of_http(classes: Both) -> None:
    client, address = classes
    with tritonclient.grpc.InferenceServerClient(address) as triton:
        answer = triton.infer("model", [tensor("text", [text.encode() for text in TEXTS])], request_id="7")
        assert client.predict(TEXTS) == shown(answer) and answer.get_response().id == "7"
        wanted = [tritonclient.grpc.InferRequestedOutput("score")]
        assert triton.infer("model", [tensor("text", [b"a"])], outputs=wanted).as_numpy("label") is None
        found: list[Any] = []
        triton.start_stream(lambda result, error: found.append((result, error)))
        triton.async_stream_infer("model", [tensor("text", [b"a small cat"])])
        triton.stop_stream()
    assert found[0][1] is None and client.predict(["a small cat"]) == shown(found[0][0])


def test_tensors_are_taken_beside(classes: Both) -> None:
    _, address = classes
    names = ("input_ids", "token_type_ids", "attention_mask")
    feeds = [tritonclient.grpc.InferInput(name, [1, 3], "INT64") for name in names]
    for feed, value in zip(feeds, (2, 0, 1), strict=True):
        feed.set_data_from_numpy(np.full((1, 3), value, np.int64))
    with tritonclient.grpc.InferenceServerClient(address) as triton:
        assert triton.infer("model", feeds).as_numpy("logits").shape == (1, 3)


def test_images_travel_as_bytes_in_both_forms(pictures: Both) -> None:
    client, address = pictures
    with tritonclient.grpc.InferenceServerClient(address) as triton:
        answer = triton.infer("model", [tensor("image", [jpeg(), jpeg()])])
    expected = client.ask("/predict", jpeg(), content_type="image/jpeg")[1]["answers"] * 2
    assert expected == shown(answer)
    request = service_pb2.ModelInferRequest(model_name="model")
    part = request.inputs.add(name="image", datatype="BYTES", shape=[1])
    part.contents.bytes_contents.append(jpeg())
    with grpc.insecure_channel(address) as channel:
        typed = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert typed.raw_output_contents[1] == answer.as_numpy("score")[:1].tobytes()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([("text", [b"\xff"])], "is not UTF-8"),
        ([("text", [])], "expected `rows` of at least 1"),
        ([("text", [b"a"]), ("image", [b"b"])], "unknown input `image`"),
        ([("question", [b"a"])], "unknown input `question`"),
        ([("text", [b"a"]), ("text", [b"a"])], "appears twice"),
    ],
)
def test_refusals_are_those_of_http(classes: Both, given: list[tuple[str, list[bytes]]], words: str) -> None:
    _, address = classes
    with tritonclient.grpc.InferenceServerClient(address) as triton:
        with pytest.raises(InferenceServerException, match=words) as caught:
            triton.infer("model", [tensor(*pair) for pair in given])
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        assert triton.is_server_ready()


def test_what_is_no_image_is_refused(pictures: Both) -> None:
    _, address = pictures
    request = service_pb2.ModelInferRequest(model_name="model")
    part = request.inputs.add(name="image", datatype="BYTES", shape=[2])
    part.contents.bytes_contents.append(jpeg())
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="expected 2 elements for its shape, got 1"):
            stub.ModelInfer(request)
        part.contents.bytes_contents.append(b"no picture")
        with pytest.raises(grpc.RpcError, match="row 1"):
            stub.ModelInfer(request)
