# SPDX-License-Identifier: Apache-2.0
"""Limits of sizes and values, missing numbers, and the inputs of warm-up: only values that the contract allows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packager.formats import safetensors
from packager.server import config
from packager.server.errors import RequestError
from packager.server.execution import session as model
from packager.server.execution.warm_up import WarmUpInputs
from packager.server.grpc import messages
from packager.server.http.header_cache import HeaderCache
from packager.server.protocol import protocol, tensors
from packager.server.protocol.interface import Interface, Range
from packager.server.protocol.values import Values

JSON_INTERFACE = {
    "inputs": [
        {"name": "sr", "dtype": "int64", "shape": []},
        {"name": "ids", "dtype": "int64", "shape": ["batch", "words"]},
        {"name": "x", "dtype": "float32", "shape": ["batch", 2]},
        {"name": "unit", "dtype": "string", "shape": ["batch"]},
    ],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 2]}],
    "dimensions": {
        "batch": {"min": 1, "max": 4, "limit": {"min": 1}},
        "words": {"min": 2, "max": 8, "step": 2, "limit": {"min": 2, "step": 2}},
    },
}
VALUES = {
    "sr": {"values": [8000, 16000]},
    "ids": {"min": 0, "max": 976},
    "x": {"min": -1, "max": 1},
    "unit": {"values": ["m", "km"]},
}
FEEDS: dict[str, Any] = {
    "sr": np.array(16000),
    "ids": np.array([[0, 976], [5, 6]]),
    "x": np.array([[0.5, -1], [1, 0]], "float32"),
    "unit": np.array(["m", "km"], object),
}


def configured(tmp_path: Path, **more: Any) -> config.Config:
    value = {
        "name": "m",
        "version": "1.0.0",
        "digest": "sha256:0",
        "runtime": "onnxruntime",
        "target": "t",
        "artefact": "model.onnx",
        "interface": JSON_INTERFACE,
        "values": VALUES,
        "missing": ["x"],
        "ranges": {"ids": [0, 976]},
        **more,
    }
    (tmp_path / "model.onnx").write_bytes(b"")
    (tmp_path / "serve.json").write_text(json.dumps(value))
    return config.read(tmp_path / "serve.json")


@pytest.fixture
def interface(tmp_path: Path) -> Interface:
    return configured(tmp_path).interface


def body(feeds: dict[str, Any], **data: Any) -> bytes:
    kinds = {"sr": "INT64", "ids": "INT64", "x": "FP32", "unit": "BYTES"}
    inputs = [
        {"name": n, "datatype": kinds[n], "shape": list(a.shape), "data": data.get(n, a.reshape(-1).tolist())}
        for n, a in feeds.items()
    ]
    return json.dumps({"inputs": inputs}).encode()


def encoded(feeds: dict[str, Any]) -> bytes:
    """Write the same request as a gRPC message with raw contents."""
    block, parts, raws = messages.encode_field, [messages.encode_field(1, "m")], []
    kinds = {"sr": "INT64", "ids": "INT64", "x": "FP32", "unit": "BYTES"}
    for name, array in feeds.items():
        sizes = block(3, b"".join(map(messages.encode_varint, array.shape)))
        parts.append(block(5, block(1, name) + block(2, kinds[name]) + sizes))
        raws.append(block(7, bytes(tensors.to_binary(array))))
    return b"".join([*parts, *raws])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": np.array([[0, -1], [0, 0]])}, "input `ids`: expected values from 0 to 976, got `-1`"),
        ({"ids": np.array([[0, 977], [0, 0]])}, "input `ids`: expected values from 0 to 976, got `977`"),
        ({"sr": np.array(0)}, "input `sr`: expected one of 8000, 16000, got `0`"),
        ({"x": np.array([[0, 1.5], [0, 0]], "float32")}, "input `x`: expected values from -1 to 1, got `1.5`"),
        ({"unit": np.array(["m", "mile"], object)}, "input `unit`: expected one of m, km, got `mile`"),
        ({"ids": np.zeros((2, 3), "int64")}, "expected `words` of at least 2, a multiple of 2, got 3"),
    ],
)
def test_values_outside_the_contract_are_refused_by_name(
    interface: Interface, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError) as caught:
        protocol.parse(body({**FEEDS, **change}), None, interface)
    assert message in caught.value.message and caught.value.status == 400
    with pytest.raises(RequestError) as caught:
        messages.Inference.of(encoded({**FEEDS, **change}), interface).request(interface)
    assert message in caught.value.message and caught.value.status == 400


def test_unmeasured_size_is_answered_and_counted(interface: Interface) -> None:
    rows = {name: np.concatenate([array] * 3) if array.ndim else array for name, array in FEEDS.items()}
    assert protocol.parse(body(rows), None, interface).outside == ("batch",)
    assert messages.Inference.of(encoded(rows), interface).request(interface).outside == ("batch",)
    assert protocol.parse(body(FEEDS), None, interface).outside == ()
    with pytest.raises(RequestError, match="`batch` of 1 to 4, got 6"):
        protocol.parse(body(rows), None, interface.limited_to_measured())


def test_cached_header_is_checked_against_the_same_limits(interface: Interface) -> None:
    cache = HeaderCache(replace(interface, inputs=interface.inputs[1:2], values={"ids": Values(0, 976)}), "m", "1")

    def parse(value: int) -> protocol.Request:
        array = np.full((6, 2), value, "int64")
        item = {"name": "ids", "datatype": "INT64", "shape": [6, 2], "parameters": {"binary_data_size": array.nbytes}}
        document = json.dumps({"inputs": [item]}).encode()
        return cache.parse(document + array.tobytes(), len(document))

    assert parse(1).outside == parse(2).outside == ("batch",)
    assert cache.request_count == 1
    with pytest.raises(RequestError, match="from 0 to 976, got `977`"):
        parse(977)


def test_missing_number_is_null_where_allowed(interface: Interface) -> None:
    request = protocol.parse(body(FEEDS, x=[None, 0.5, 1, None]), None, interface)
    assert np.isnan(request.feeds["x"]).tolist() == [[True, False], [False, True]]
    with pytest.raises(RequestError, match=r"values from -1 to 1, got `2\.0`"):
        protocol.parse(body(FEEDS, x=[None, 2, 1, None]), None, interface)
    with pytest.raises(
        RequestError, match=r"got null at element .*: the model takes no missing numbers here.*`binary_data_size`"
    ):
        protocol.parse(body(FEEDS, x=[None, 0.5, 1, None]), None, replace(interface, missing=frozenset()))
    with pytest.raises(RequestError, match=r"got null at element .*: whole numbers cannot be missing"):
        protocol.parse(body(FEEDS, ids=[None, 1, 2, 3]), None, interface)
    with pytest.raises(RequestError, match=r"got null at element .*: a missing text is an empty one"):
        protocol.parse(body(FEEDS, unit=[None, "m"]), None, interface)
    with pytest.raises(
        RequestError, match=r"not JSON.*send `null` for a missing number, others with `binary_data_size`"
    ):
        protocol.parse(body(FEEDS, x=[float("nan"), 0.5, 1, 1]), None, interface)


class Picky:
    """A session that refuses what its contract excludes, as a real one may."""

    inputs = outputs = ()
    provider, version = "toy", "0"

    def __init__(self, taken: Interface) -> None:
        self.taken, self.runs = taken, []

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        self.taken.check_values(feeds)
        for tensor in self.taken.inputs:
            self.taken.check_shape(tensor, feeds[tensor.name].shape, {})
        self.runs.append(feeds)
        return [feeds["x"]]


def test_warm_up_uses_only_allowed_values(tmp_path: Path) -> None:
    found = configured(tmp_path)
    session = Picky(found.interface)
    model.warm_up(session, WarmUpInputs.of(found))
    assert model.passes_self_test(session, WarmUpInputs.of(found))
    assert {int(feeds["sr"]) for feeds in session.runs} == {8000}
    assert {feeds["ids"].shape[1] for feeds in session.runs} == {2, 4, 8}
    for feeds in WarmUpInputs.of(found).row_pair():
        session.run(feeds)


def response_count(folder: Path) -> Path:
    """Write reference inputs as a bundle carries them."""
    (folder / "vectors/inputs").mkdir(parents=True)
    (folder / "vectors/index.json").write_text(json.dumps({"cases": [{"file": "01-a"}, {"file": "02-gone"}]}))
    numbers = {n: (a.dtype.name, a.shape, a.tobytes()) for n, a in FEEDS.items() if a.dtype != object}
    (folder / "vectors/inputs/01-a.safetensors").write_bytes(safetensors.dump(numbers))
    texts = [{"name": "unit", "datatype": "BYTES", "shape": [2], "data": ["m", "km"]}]
    (folder / "vectors/inputs/01-a.json").write_text(json.dumps({"inputs": texts}))
    return folder / "vectors"


def test_warm_up_uses_the_reference_inputs(tmp_path: Path) -> None:
    response_count(tmp_path)
    inputs = WarmUpInputs.of(configured(tmp_path, reference="vectors"))
    assert all((inputs.smallest()[name] == array).all() for name, array in FEEDS.items())
    scaled = inputs.scaled(2)
    assert scaled["ids"].shape == (4, 4) and scaled["x"].shape == (4, 2) and set(scaled["unit"]) == {"m", "km"}
    session = Picky(inputs.interface)
    model.warm_up(session, inputs)
    assert {int(feeds["sr"]) for feeds in session.runs} == {16000}


@pytest.mark.parametrize("damage", ["index.json", "inputs/01-a.safetensors", "inputs/01-a.json"])
def test_damaged_reference_inputs_are_left_out(tmp_path: Path, damage: str) -> None:
    (response_count(tmp_path) / damage).write_bytes(b"\xff" * 40)
    inputs = WarmUpInputs.of(configured(tmp_path, reference="vectors"))
    assert inputs.known == () and inputs.smallest()["sr"] == 8000


def test_sizes_of_older_configurations_are_limits() -> None:
    found = Interface.from_json({**JSON_INTERFACE, "dimensions": {"batch": {"min": 1, "max": 4}}})
    assert found.allowed_range("batch") == Range(1, 4) == found.measured_range("batch")
    assert found.allowed_range("words") == Range() and found.outside({"words": 9, "batch": 4}) == ()


@pytest.mark.parametrize(
    ("limit", "taken"),
    [
        ({}, {1, 32, 64, 96}),
        ({"max": 64}, {1, 32, 64}),
        ({"also": [3]}, {3, 32, 64, 96}),
        ({"remainders": [30]}, {1, 32, 62, 64, 94, 96}),
    ],
)
def test_single_sizes_are_taken_besides_a_step(limit: dict[str, Any], taken: set[int]) -> None:
    span = {"min": 32, "max": 64, "step": 32, "limit": {"min": 32, "step": 32, "also": [1], **limit}}
    read = Interface.from_json({**JSON_INTERFACE, "dimensions": {"words": span}})
    assert {size for size in range(1, 100) if size in read.allowed_range("words")} == taken
    assert read.outside({"words": min(taken)}) == ("words",), "it is taken, and was not measured"
    rests = tuple(limit.get("remainders", ()))
    told = " or with remainder 30" if rests else ""
    assert f"a multiple of 32{told}, or {min(taken)}" in str(read.allowed_range("words"))
    assert read.allowed_range("words").up_to(40) == Range(32, 32, 32, (), rests, (min(taken),))


@pytest.mark.parametrize("also", [1, ["1"], [1.5], {"1": 1}])
def test_single_sizes_of_another_form_are_refused(also: Any) -> None:
    span = {"min": 32, "max": 64, "step": 32, "also": also}
    with pytest.raises(ValueError, match="expected a list of sizes"):
        Interface.from_json({**JSON_INTERFACE, "dimensions": {"words": span}})
