# SPDX-License-Identifier: Apache-2.0
"""The definitions of reflection, parsed by protobuf and compared with Triton's."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor
from tritonclient.grpc import service_pb2

from packager.server.grpc import descriptors

OURS = descriptors.compile_file("grpc_service.proto")


def pool() -> descriptor_pool.DescriptorPool:
    made = descriptor_pool.DescriptorPool()
    for file in descriptors.FILES:
        made.AddSerializedFile(descriptors.compile_file(file))
    return made


def fields(message: Descriptor) -> dict[str, tuple]:
    return {
        one.name: (
            one.number,
            one.type,
            one.is_repeated,
            one.containing_oneof and one.containing_oneof.name,
            (one.message_type or one.enum_type).full_name if one.message_type or one.enum_type else None,
        )
        for one in message.fields
    }


def walk(message: Descriptor) -> list[Descriptor]:
    return [message, *(one for nested in message.nested_types for one in walk(nested))]


@pytest.mark.parametrize("name", [m.name for m in descriptor_pb2.FileDescriptorProto.FromString(OURS).message_type])
def test_reflection_equals_triton_s_definitions(name: str) -> None:
    triton = service_pb2.DESCRIPTOR.pool
    for ours in walk(pool().FindMessageTypeByName(f"inference.{name}")):
        theirs = fields(triton.FindMessageTypeByName(ours.full_name))
        assert fields(ours).items() <= theirs.items(), ours.full_name


def test_services_and_symbols() -> None:
    found = pool()
    service = found.FindServiceByName("inference.GRPCInferenceService")
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in service.methods:
        other = theirs.methods_by_name[method.name]
        assert (
            method.input_type.full_name,
            method.output_type.full_name,
            method.client_streaming,
            method.server_streaming,
        ) == (other.input_type.full_name, other.output_type.full_name, other.client_streaming, other.server_streaming)
    assert descriptors.services() == ["inference.GRPCInferenceService", "grpc.health.v1.Health"]
    symbols = descriptors.symbols("grpc_service.proto")
    assert {
        "inference.ModelInferRequest.InferInputTensor",
        "inference.GRPCInferenceService.ModelInfer",
        "inference.DataType",
        "inference.GRPCInferenceService",
    } <= symbols
    assert (
        found.FindEnumTypeByName("grpc.health.v1.HealthCheckResponse.ServingStatus").values_by_name["SERVING"].number
        == 1
    )
