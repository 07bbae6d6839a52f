# SPDX-License-Identifier: Apache-2.0
"""gRPC's standard services and streams, called by gRPC's clients and Triton's."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.e2e.test_server import Server, app, free_port, in_process, models, running, sample  # noqa: F401

SERVING, NOT_SERVING = (health_pb2.HealthCheckResponse.ServingStatus.Value(n) for n in ("SERVING", "NOT_SERVING"))


@pytest.fixture(scope="module")
def mlp(app: Path, models: dict[str, Path]) -> Iterator[tuple[Server, int]]:  # noqa: F811
    port = free_port()
    with running(app, models["mlp"], "--grpc-port", str(port)) as server:
        yield server, port


@pytest.fixture
def channel(mlp: tuple[Server, int]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{mlp[1]}") as made:
        yield made


def inputs_of(x: np.ndarray, name: str = "x") -> list[triton.InferInput]:
    return [triton.InferInput(name, list(x.shape), "FP32").set_data_from_numpy(x)]


def test_health_of_the_server_its_services_and_its_model(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "mlp", "inference.GRPCInferenceService", "grpc.health.v1.Health"):
        assert health.Check(health_pb2.HealthCheckRequest(service=name), timeout=20).status == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="other"), timeout=20)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_health_watch_reports_the_end(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    port = free_port()
    reported: list[int] = []
    with (
        running(app, models["mlp"], "--grpc-port", str(port)) as server,
        grpc.insecure_channel(f"127.0.0.1:{port}") as made,
    ):
        watch = health_pb2_grpc.HealthStub(made).Watch(health_pb2.HealthCheckRequest(), timeout=60)

        def listen() -> None:
            try:
                reported.extend(one.status for one in watch)
            except grpc.RpcError:
                reported.append(-1)

        listener = threading.Thread(target=listen)
        listener.start()
        end = time.monotonic() + 20
        while not reported and time.monotonic() < end:
            time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        listener.join()
    assert reported == [SERVING, NOT_SERVING, -1]


def test_reflection_describes_the_services(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {"inference.GRPCInferenceService", "grpc.health.v1.Health"}
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    request = service.methods_by_name["ModelInfer"].input_type
    assert request.fields_by_name["raw_input_contents"].number == 7
    assert pool.FindMessageTypeByName("grpc.health.v1.HealthCheckRequest")
    with pytest.raises(KeyError):
        pool.FindMessageTypeByName("inference.Nothing")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(file_by_filename="none.proto"),
        reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="inference.ModelConfig"),
        reflection_pb2.ServerReflectionRequest(host="h", list_services=""),
    ]
    answers = list(stub.ServerReflectionInfo(iter(requests), timeout=20))
    assert [one.WhichOneof("message_response") for one in answers] == [
        "error_response",
        "all_extension_numbers_response",
        "list_services_response",
    ]
    assert answers[2].valid_host == "h" and answers[2].original_request == requests[2]


def test_stream_answers_each_request(mlp: tuple[Server, int], models: dict[str, Path]) -> None:  # noqa: F811
    answers: queue.Queue = queue.Queue()
    with triton.InferenceServerClient(f"127.0.0.1:{mlp[1]}") as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        batches = [sample(1 + number % 3) for number in range(20)]
        for number, x in enumerate(batches):
            client.async_stream_infer("mlp", inputs_of(x), request_id=str(number))
        for number, x in enumerate(batches):
            result, error = answers.get(timeout=30)
            assert error is None and result.get_response().id == str(number)
            assert result.as_numpy("score").tobytes() == in_process(models["mlp"], {"x": x})[0].tobytes()
        client.async_stream_infer("mlp", inputs_of(batches[0], "y"), request_id="wrong")
        client.async_stream_infer("mlp", inputs_of(batches[0]), request_id="right")
        result, error = answers.get(timeout=30)
        assert "unknown input `y`" in str(error)
        result, error = answers.get(timeout=30)
        assert error is None and result.get_response().id == "right"
        client.stop_stream()


def test_open_streams_are_bounded_and_released(mlp: tuple[Server, int], channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    watches = [health.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(16)]
    assert [next(one).status for one in watches] == [SERVING] * 16
    with pytest.raises(grpc.RpcError) as caught:
        next(health.Watch(health_pb2.HealthCheckRequest(), timeout=20))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=20).status == SERVING
    for one in watches:
        one.cancel()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            assert next(health.Watch(health_pb2.HealthCheckRequest(), timeout=20)).status == SERVING
            return
        except grpc.RpcError:
            time.sleep(0.1)
    pytest.fail("the streams are never free again")


def test_waiting_stream_does_not_delay_shutdown(app: Path, models: dict[str, Path]) -> None:  # noqa: F811
    port = free_port()
    with running(app, models["mlp"], "--grpc-port", str(port), "--drain", "60") as server:
        answers: queue.Queue = queue.Queue()
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            client.start_stream(lambda result, error: answers.put((result, error)))
            client.async_stream_infer("mlp", inputs_of(sample(1)))
            assert answers.get(timeout=30)[1] is None
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(60) == 0
    assert server.events("stopped")[0]["took_s"] < 40
