# SPDX-License-Identifier: Apache-2.0
"""Triton's extensions for model configuration and statistics, which its clients and `perf_analyzer` request.

They give the interface as a configuration and the counters of `/metrics` as statistics, and are read-only. Without a
queue, the time in it is 0; parsing and writing tensors is not part of the run.

Sources: Triton's documents `extension_model_configuration.md` and `extension_statistics.md`; the numbers of fields and
of data types from `model_config.proto` and `grpc_service.proto` of its protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packager.server.config import Config
from packager.server.grpc.messages import encode_field, encode_varint
from packager.server.protocol.interface import Interface, Tensor
from packager.server.telemetry.metrics import Metrics

NAMES = ["model_configuration", "statistics"]
_TYPES = {
    "BOOL": 1,
    "UINT8": 2,
    "UINT16": 3,
    "UINT32": 4,
    "UINT64": 5,
    "INT8": 6,
    "INT16": 7,
    "INT32": 8,
    "INT64": 9,
    "FP16": 10,
    "FP32": 11,
    "FP64": 12,
    "BYTES": 13,
    "BF16": 14,
}
_DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


def configuration(config: Config) -> dict[str, Any]:
    """Describe a model as Triton's configuration does: the batch dimension is not among the sizes."""
    most = _most_rows(config.interface)
    return {
        "name": config.name,
        "platform": f"{config.runtime}_onnx",
        "backend": config.runtime,
        "max_batch_size": most,
        "input": [_port(tensor, most) for tensor in config.interface.inputs],
        "output": [_port(tensor, most) for tensor in config.interface.outputs],
    }


def _most_rows(interface: Interface) -> int:
    """Return the most rows of a request where one bounded dimension leads every tensor, else 0: it does not batch."""
    firsts = {tensor.shape[0] if tensor.shape else 0 for tensor in (*interface.inputs, *interface.outputs)}
    name = firsts.pop() if len(firsts) == 1 else 0
    return (interface.measured_range(name).maximum or 0) if isinstance(name, str) else 0


def _port(tensor: Tensor, most: int) -> dict[str, Any]:
    sizes = [size if isinstance(size, int) else -1 for size in tensor.shape]
    kind = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    return {"name": tensor.name, "data_type": f"TYPE_{kind}", "dims": sizes[1:] if most else sizes}


def statistics(config: Config, metrics: Metrics) -> dict[str, Any]:
    """Return the counters since the start in Triton's form; durations are sums in nanoseconds."""
    metrics.flush()
    answered = {
        sample.labels["code"]: sample.value
        for sample in _samples(metrics.requests)
        if sample.name.endswith("_total") and sample.labels["route"] == "infer"
    }
    good = int(answered.get("200", 0))
    runs, rows, whole = _sums(metrics.run), _sums(metrics.rows), _sums(metrics.duration)
    counts = {
        "success": (good, whole["sum"]),
        "fail": (int(sum(answered.values())) - good, 0.0),
        "queue": (good, 0.0),
        "compute_input": (good, 0.0),
        "compute_infer": (int(runs["count"]), runs["sum"]),
        "compute_output": (good, 0.0),
    }
    found = {
        "name": config.name,
        "version": config.version,
        "last_inference": int(1000 * metrics.last_inference),
        "inference_count": int(rows["sum"]),
        "execution_count": int(runs["count"]),
        "inference_stats": {name: {"count": count, "ns": int(spent * 1e9)} for name, (count, spent) in counts.items()},
        "batch_stats": [],
    }
    return {"model_stats": [found]}


def _samples(metric: Any) -> list[Any]:
    return [sample for family in metric.collect() for sample in family.samples]


def _sums(metric: Any) -> Mapping[str, float]:
    return {sample.name.rpartition("_")[2]: sample.value for sample in _samples(metric)}


# the same as messages


def encoded_configuration(config: Config) -> bytes:
    """Return ModelConfigResponse."""
    value = configuration(config)
    parts = [encode_field(1, value["name"]), encode_field(2, value["platform"]), _integer(4, value["max_batch_size"])]
    parts += [
        encode_field(5, _encoded(tensor, item, 4))
        for tensor, item in zip(config.interface.inputs, value["input"], strict=True)
    ]
    parts += [
        encode_field(6, _encoded(tensor, item, 3))
        for tensor, item in zip(config.interface.outputs, value["output"], strict=True)
    ]
    return encode_field(1, b"".join([*parts, encode_field(17, value["backend"])]))


def _encoded(tensor: Tensor, item: Mapping[str, Any], dims: int) -> bytes:
    sizes = b"".join(map(encode_varint, item["dims"]))
    return encode_field(1, tensor.name) + _integer(2, _TYPES[tensor.datatype]) + encode_field(dims, sizes)


def encoded_statistics(config: Config, metrics: Metrics) -> bytes:
    """Return ModelStatisticsResponse."""
    (found,) = statistics(config, metrics)["model_stats"]
    durations = b"".join(
        encode_field(
            field,
            _integer(1, found["inference_stats"][name]["count"]) + _integer(2, found["inference_stats"][name]["ns"]),
        )
        for field, name in enumerate(_DURATIONS, start=1)
    )
    parts = (
        encode_field(1, found["name"]),
        encode_field(2, found["version"]),
        _integer(3, found["last_inference"]),
        _integer(4, found["inference_count"]),
        _integer(5, found["execution_count"]),
        encode_field(6, durations),
    )
    return encode_field(1, b"".join(parts))


def _integer(field: int, value: int) -> bytes:
    return encode_varint(field << 3) + encode_varint(value)
