# SPDX-License-Identifier: Apache-2.0
"""The contract: derived from the graph, strict to read, the same to its schema and its parser."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packager import canonical
from packager.contract import contract
from packager.errors import IntegrityError, StepError
from tests.support import contracts

SCHEMA = jsonschema.Draft202012Validator(json.loads(contract.build_schema()))


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(contract.build_schema()))


def test_what_is_derived_satisfies_schema_and_parser() -> None:
    value = contracts.derived()
    SCHEMA.validate(value)
    read = contracts.read(value)
    assert read.runs_on["onnxruntime"].loads == ">=1.15.0" and read.runs_on["onnxruntime"].versions == ">=1.17"
    assert read.runs_on["onnxruntime"].oldest == {
        "version": "1.17.0",
        "numpy": "<2",
        "python": ["3.8", "3.9", "3.10", "3.11", "3.12"],
    }
    assert read.runs_on["triton"].oldest["driver"] == "550.54.15"
    assert read.slo == {"p99_ms": 5, "at_rps": 200, "memory": 1 << 30}
    terms = read.targets["onnxruntime-cpu-fp32"]
    assert terms.needs["memory"]["peak"] == terms.needs["memory"]["weights"] + (1 << 20)
    assert terms.needs["memory"]["activations"] == 4096 and terms.tolerance["y"]["atol"] == 1e-5
    assert terms.graph["operators"]["ai.onnx"]["Conv"] == {"11": ["T=float32"]}


def test_it_is_a_function_of_the_model() -> None:
    assert canonical.dump(contracts.derived()) == canonical.dump(contracts.derived())


def test_a_promise_that_is_known_not_to_hold_is_an_error_with_the_remedy() -> None:
    text = contracts.RECIPE.replace(">=1.17", ">=1.15")
    with pytest.raises(StepError) as caught:
        contracts.derived(text, graph="shapes at 19")
    assert "cannot keep `onnxruntime>=1.15`" in caught.value.message
    assert "no kernel for Cast-19" in caught.value.message
    assert 'promise `onnxruntime: ">=1.16.0"`' in (caught.value.hint or "")
    assert "re-export at opset 18" in (caught.value.hint or "")


def test_a_gpu_target_needs_its_capability() -> None:
    text = contracts.RECIPE.replace(
        'onnxruntime: ">=1.17"', 'onnxruntime: {versions: ">=1.17", devices: [sm_86, sm_120]}'
    )
    targets = contracts.derived(text)["targets"]
    assert targets["onnxruntime-sm_86-fp32"]["needs"]["capability"] == "8.6"
    assert targets["onnxruntime-sm_120-fp32"]["needs"]["capability"] == "12.0"


BROKEN: list[tuple[tuple[str, ...], Any]] = [
    (("format",), 3),
    (("format",), 1),
    (("values",), {"x": {"min": 1}}),
    (("values",), {"x": {"values": []}}),
    (("missing",), {"x": 1}),
    (("interface", "dimensions", "batch"), {"min": 1, "max": 8, "limit": {"max": 9}}),
    (("interface", "dimensions", "batch"), {"min": 1, "max": 8, "step": 0}),
    (("interface", "dimensions", "batch"), {"min": 1, "max": 8, "is": [0, "x"]}),
    (("interface", "dimensions", "batch"), {"min": 1, "max": 8, "limit": {"min": 32, "step": 32, "also": [0]}}),
    (("interface", "dimensions", "batch"), {"min": 1, "max": 8, "limit": {"min": 32, "step": 32, "remainders": 1}}),
    (("interface", "dimensions", "batch"), {"min": 1, "max": 8, "limit": {"min": 32, "step": 32, "besides": [1]}}),
    (("extra",), 1),
    (("interface", "inputs"), {}),
    (("interface", "inputs"), [{"name": "x", "dtype": "complex64", "shape": []}]),
    (("interface", "inputs"), [{"name": "x", "dtype": "int8", "shape": [-1]}]),
    (("interface", "dimensions", "batch"), {"min": 0, "max": 8}),
    (("interface", "dimensions", "batch"), {"min": 1}),
    (("ranges",), {"x": [0]}),
    (("graph", "ir"), "8"),
    (("graph", "opset"), {"ai.onnx": 1.5}),
    (("graph", "operators"), {"ai.onnx": {"Conv": {"eleven": []}}}),
    (("graph", "operators"), {"ai.onnx": {"Conv": {"11": [1]}}}),
    (("runs-on", "onnxruntime"), {"versions": ">=1"}),
    (("runs-on", "onnxruntime"), {"versions": ">=1", "loads": 3}),
    (("targets", "onnxruntime-cpu-fp32", "tolerance"), {"y": {"atol": "0", "rtol": 0}}),
    (("targets", "onnxruntime-cpu-fp32", "colour"), "red"),
    (("targets", "onnxruntime-cpu-fp32", "needs"), {"cpu": [], "memory": {"weights": -1}}),
    (("targets", "onnxruntime-cpu-fp32", "stability"), "mostly"),
    (("slo",), {"p99_ms": "5"}),
]


def changed(path: tuple[str, ...], member: Any) -> Any:
    value = copy.deepcopy(contracts.derived())
    place = value
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = member
    return value


@pytest.mark.parametrize(("path", "member"), BROKEN, ids=str)
def test_schema_and_parser_refuse_the_same(path: tuple[str, ...], member: Any) -> None:
    value = changed(path, member)
    assert not SCHEMA.is_valid(value)
    with pytest.raises(IntegrityError, match="not a contract of format 1 or 2"):
        contracts.read(value)


@pytest.mark.parametrize("path", ["../model.onnx", "/etc/passwd", "a\\b"])
def test_a_path_out_of_the_bundle_is_refused(path: str) -> None:
    with pytest.raises(IntegrityError):
        contracts.read(changed(("targets", "onnxruntime-cpu-fp32", "path"), path))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
PLACES = [path for path, _ in BROKEN]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.sampled_from(PLACES), JUNK)
def test_hostile_contracts_end_in_our_error(path: tuple[str, ...], junk: Any) -> None:
    data = json.dumps(changed(path, junk)).encode()
    try:
        contract.parse(data)
    except IntegrityError as error:
        assert error.subject == "contract.json"


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{" * 99, b'{"format": 1, "format": 1}', b"\xff"])
def test_bytes_that_are_no_contract(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        contract.parse(data)
