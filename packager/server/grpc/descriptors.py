# SPDX-License-Identifier: Apache-2.0
"""Interface definitions for gRPC reflection: the services here as FileDescriptorProto bytes.

The definitions are in the protocol buffers language; `compile_file` parses the part of it that is used here (messages,
fields, maps, oneofs, enums, services). They hold only what the server reads or writes; the numbers are those of the
protocol and of Triton's extensions, and a test compares them with Triton's.

Sources: `grpc_predict_v2.proto` of the Open Inference Protocol, `grpc_service.proto` and `model_config.proto` of
Triton, `health.proto` and `reflection.proto` of gRPC, `descriptor.proto` of protocol buffers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from packager.server.grpc.messages import encode_field, encode_varint

INFERENCE = """
package inference;
service GRPCInferenceService {
  rpc ServerLive(ServerLiveRequest) returns (ServerLiveResponse);
  rpc ServerReady(ServerReadyRequest) returns (ServerReadyResponse);
  rpc ModelReady(ModelReadyRequest) returns (ModelReadyResponse);
  rpc ServerMetadata(ServerMetadataRequest) returns (ServerMetadataResponse);
  rpc ModelMetadata(ModelMetadataRequest) returns (ModelMetadataResponse);
  rpc ModelInfer(ModelInferRequest) returns (ModelInferResponse);
  rpc ModelStreamInfer(stream ModelInferRequest) returns (stream ModelStreamInferResponse);
  rpc ModelConfig(ModelConfigRequest) returns (ModelConfigResponse);
  rpc ModelStatistics(ModelStatisticsRequest) returns (ModelStatisticsResponse);
}
message ServerLiveRequest {}
message ServerLiveResponse { bool live = 1; }
message ServerReadyRequest {}
message ServerReadyResponse { bool ready = 1; }
message ModelReadyRequest { string name = 1; string version = 2; }
message ModelReadyResponse { bool ready = 1; }
message ServerMetadataRequest {}
message ServerMetadataResponse { string name = 1; string version = 2; repeated string extensions = 3; }
message ModelMetadataRequest { string name = 1; string version = 2; }
message ModelMetadataResponse {
  message TensorMetadata { string name = 1; string datatype = 2; repeated int64 shape = 3; }
  string name = 1; repeated string versions = 2; string platform = 3;
  repeated TensorMetadata inputs = 4; repeated TensorMetadata outputs = 5;
}
message InferParameter {
  oneof parameter_choice { bool bool_param = 1; int64 int64_param = 2; string string_param = 3; }
}
message InferTensorContents {
  repeated bool bool_contents = 1; repeated int32 int_contents = 2; repeated int64 int64_contents = 3;
  repeated uint32 uint_contents = 4; repeated uint64 uint64_contents = 5; repeated float fp32_contents = 6;
  repeated double fp64_contents = 7; repeated bytes bytes_contents = 8;
}
message ModelInferRequest {
  message InferInputTensor {
    string name = 1; string datatype = 2; repeated int64 shape = 3; map<string, InferParameter> parameters = 4;
    InferTensorContents contents = 5;
  }
  message InferRequestedOutputTensor { string name = 1; map<string, InferParameter> parameters = 2; }
  string model_name = 1; string model_version = 2; string id = 3; map<string, InferParameter> parameters = 4;
  repeated InferInputTensor inputs = 5; repeated InferRequestedOutputTensor outputs = 6;
  repeated bytes raw_input_contents = 7;
}
message ModelInferResponse {
  message InferOutputTensor { string name = 1; string datatype = 2; repeated int64 shape = 3; }
  string model_name = 1; string model_version = 2; string id = 3;
  repeated InferOutputTensor outputs = 5; repeated bytes raw_output_contents = 6;
}
message ModelStreamInferResponse { string error_message = 1; ModelInferResponse infer_response = 2; }
message ModelConfigRequest { string name = 1; string version = 2; }
message ModelConfigResponse { ModelConfig config = 1; }
enum DataType {
  TYPE_INVALID = 0; TYPE_BOOL = 1; TYPE_UINT8 = 2; TYPE_UINT16 = 3; TYPE_UINT32 = 4; TYPE_UINT64 = 5; TYPE_INT8 = 6;
  TYPE_INT16 = 7; TYPE_INT32 = 8; TYPE_INT64 = 9; TYPE_FP16 = 10; TYPE_FP32 = 11; TYPE_FP64 = 12; TYPE_STRING = 13;
  TYPE_BF16 = 14;
}
message ModelInput { string name = 1; DataType data_type = 2; repeated int64 dims = 4; }
message ModelOutput { string name = 1; DataType data_type = 2; repeated int64 dims = 3; }
message ModelConfig {
  string name = 1; string platform = 2; int32 max_batch_size = 4; repeated ModelInput input = 5;
  repeated ModelOutput output = 6; string backend = 17;
}
message ModelStatisticsRequest { string name = 1; string version = 2; }
message StatisticDuration { uint64 count = 1; uint64 ns = 2; }
message InferStatistics {
  StatisticDuration success = 1; StatisticDuration fail = 2; StatisticDuration queue = 3;
  StatisticDuration compute_input = 4; StatisticDuration compute_infer = 5; StatisticDuration compute_output = 6;
}
message ModelStatistics {
  string name = 1; string version = 2; uint64 last_inference = 3; uint64 inference_count = 4;
  uint64 execution_count = 5; InferStatistics inference_stats = 6;
}
message ModelStatisticsResponse { repeated ModelStatistics model_stats = 1; }
"""
HEALTH = """
package grpc.health.v1;
service Health {
  rpc Check(HealthCheckRequest) returns (HealthCheckResponse);
  rpc Watch(HealthCheckRequest) returns (stream HealthCheckResponse);
}
message HealthCheckRequest { string service = 1; }
message HealthCheckResponse {
  enum ServingStatus { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; SERVICE_UNKNOWN = 3; }
  ServingStatus status = 1;
}
"""
FILES = {"grpc_service.proto": INFERENCE, "grpc/health/v1/health.proto": HEALTH}

_WORD = re.compile(r"[\w.]+|[{}=;,<>()]")
_SCALARS = {
    "double": 1,
    "float": 2,
    "int64": 3,
    "uint64": 4,
    "int32": 5,
    "bool": 8,
    "string": 9,
    "bytes": 12,
    "uint32": 13,
}
_MESSAGE, _ENUM = 11, 14
_OPTIONAL, _REPEATED = 1, 3


@dataclass(slots=True)
class _Scope:
    """A message, or the file: what it declares, and the encoded parts that become its descriptor."""

    name: str
    parts: dict[str, list[bytes]] = field(default_factory=lambda: {"message": [], "enum": [], "oneof": [], "field": []})


def compile_file(file: str) -> bytes:
    """Return the FileDescriptorProto of one of FILES."""
    words = iter(_WORD.findall(FILES[file]))
    _, package = next(words), next(words)
    kinds = dict(_declared(iter(_WORD.findall(FILES[file])), f".{package}"))
    scope, services = _Scope(f".{package}"), []
    next(words)
    for word in words:
        if word == "service":
            services.append(_service(words, kinds, scope.name))
        else:
            _member(word, words, scope, kinds)
    parts = [encode_field(1, file), encode_field(2, package), *(encode_field(4, one) for one in scope.parts["message"])]
    parts += [*(encode_field(5, one) for one in scope.parts["enum"]), *(encode_field(6, one) for one in services)]
    return b"".join([*parts, encode_field(12, "proto3")])


def symbols(file: str) -> set[str]:
    """Return the full names of what a file declares."""
    words = _WORD.findall(FILES[file])
    found = {name.lstrip(".") for name, _ in _declared(iter(words), f".{words[1]}")}
    services = {f"{words[1]}.{words[at + 1]}" for at, word in enumerate(words) if word == "service"}
    methods = {f"{min(services)}.{words[at + 1]}" for at, word in enumerate(words) if word == "rpc"}
    return found | services | methods


def services() -> list[str]:
    """Return the full names of all services."""
    return [
        f"{_WORD.findall(text)[1]}.{name}" for text in FILES.values() for name in re.findall(r"service (\w+)", text)
    ]


def _declared(words: Iterator[str], scope: str) -> Iterator[tuple[str, int]]:
    """Yield the names of messages and enums with what they are."""
    depth, names, before = 0, [scope], ""
    opened: list[bool] = []
    for word in words:
        if before in ("message", "enum"):
            names.append(f"{names[-1]}.{word}")
            yield names[-1], _MESSAGE if before == "message" else _ENUM
        elif word == "{":
            opened.append(len(names) - 1 > depth)
            depth += opened[-1]
        elif word == "}" and opened.pop():
            names.pop()
            depth -= 1
        before = word


def _member(word: str, words: Iterator[str], scope: _Scope, kinds: Mapping[str, int]) -> None:
    if word == "message":
        inner = _Scope(f"{scope.name}.{next(words)}")
        next(words)
        while (word := next(words)) != "}":
            _member(word, words, inner, kinds)
        scope.parts["message"].append(_described(inner))
    elif word == "enum":
        scope.parts["enum"].append(_enum(words))
    elif word == "oneof":
        scope.parts["oneof"].append(encode_field(1, next(words)))
        next(words)
        while (word := next(words)) != "}":
            _field(word, words, scope, kinds, oneof=len(scope.parts["oneof"]) - 1)
    else:
        _field(word, words, scope, kinds)


def _described(scope: _Scope) -> bytes:
    """Return DescriptorProto."""
    numbers = {"field": 2, "message": 3, "enum": 4, "oneof": 8}
    parts = (encode_field(numbers[kind], one) for kind, found in scope.parts.items() for one in found)
    return encode_field(1, scope.name.rpartition(".")[2]) + b"".join(parts)


def _field(word: str, words: Iterator[str], scope: _Scope, kinds: Mapping[str, int], oneof: int | None = None) -> None:
    label, kind = _OPTIONAL, word
    if word == "repeated":
        label, kind = _REPEATED, next(words)
    if word == "map":
        _, key, _, value, _ = (next(words) for _ in range(5))
        label, kind = _REPEATED, ""
    name, _, tag, _ = (next(words) for _ in range(4))
    if word == "map":
        kind = "".join(part.capitalize() for part in name.split("_")) + "Entry"
        entry = _Scope(f"{scope.name}.{kind}")
        _add(entry, "key", 1, _OPTIONAL, key, kinds)
        _add(entry, "value", 2, _OPTIONAL, value, kinds)
        scope.parts["message"].append(_described(entry) + encode_field(7, _flag(7)))
        kinds = {**kinds, entry.name: _MESSAGE}
    _add(scope, name, int(tag), label, kind, kinds, oneof)


def _add(
    scope: _Scope, name: str, tag: int, label: int, kind: str, kinds: Mapping[str, int], oneof: int | None = None
) -> None:
    """Add FieldDescriptorProto."""
    parts = [encode_field(1, name), _integer(3, tag), _integer(4, label)]
    if kind in _SCALARS:
        parts.append(_integer(5, _SCALARS[kind]))
    else:
        full = _resolved(kind, scope.name, kinds)
        parts += [_integer(5, kinds[full]), encode_field(6, full)]
    if oneof is not None:
        parts.append(_integer(9, oneof))
    scope.parts["field"].append(b"".join(parts))


def _resolved(kind: str, scope: str, kinds: Mapping[str, int]) -> str:
    """Return the full name of a type, looked for from the inside out."""
    while f"{scope}.{kind}" not in kinds:
        scope = scope.rpartition(".")[0]
    return f"{scope}.{kind}"


def _enum(words: Iterator[str]) -> bytes:
    """Return EnumDescriptorProto."""
    parts = [encode_field(1, next(words))]
    next(words)
    while (name := next(words)) != "}":
        _, value, _ = (next(words) for _ in range(3))
        parts.append(encode_field(2, encode_field(1, name) + _integer(2, int(value))))
    return b"".join(parts)


def _service(words: Iterator[str], kinds: Mapping[str, int], scope: str) -> bytes:
    """Return ServiceDescriptorProto."""
    parts = [encode_field(1, next(words))]
    next(words)
    while next(words) != "}":
        method = [encode_field(1, next(words))]
        for types, streams in ((2, 5), (3, 6)):
            while (word := next(words)) in ("(", "returns"):
                continue
            if word == "stream":
                method.append(_flag(streams))
                word = next(words)
            method.append(encode_field(types, _resolved(word, scope, kinds)))
            next(words)
        next(words)
        parts.append(encode_field(2, b"".join(method)))
    return b"".join(parts)


def _integer(tag: int, value: int) -> bytes:
    return encode_varint(tag << 3) + encode_varint(value)


def _flag(tag: int) -> bytes:
    return _integer(tag, 1)
