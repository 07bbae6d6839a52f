# SPDX-License-Identifier: Apache-2.0
"""Configuration, warm-up and admission: what decides, before any socket, whether and where a request runs."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from packager.server import config
from packager.server.admission.admission import Admission, Limits
from packager.server.errors import RequestError, StartError, quote
from packager.server.execution import session as model
from packager.server.execution.warm_up import WarmUpInputs
from packager.server.http import bodies
from packager.server.http.auth import Guard
from packager.server.protocol.interface import Interface, Range, Tensor

X = Tensor("x", "float32", ("batch", 256))
ROW = 1024  # bytes


@dataclass
class Timed:
    """A session that takes a known time per row."""

    row_seconds: float
    inputs: tuple[Tensor, ...] = (X,)
    outputs: tuple[Tensor, ...] = (X,)
    provider: str = "toy"
    version: str = "0"
    sizes: list[int] = field(default_factory=list)

    def run(self, feeds):
        rows = len(feeds["x"])
        self.sizes.append(rows)
        if self.row_seconds == float("inf"):
            raise ValueError("no zeros, please")
        end = time.perf_counter() + self.row_seconds * rows
        while time.perf_counter() < end:
            pass
        return [feeds["x"]]


def interface(low: int, high: int | None) -> Interface:
    return Interface((X,), (X,), {"batch": Range(low, high)})


def test_fast_model_runs_inline_for_every_size():
    assert model.warm_up(Timed(0.0), WarmUpInputs(interface(1, 64))).inline_bytes == model.INLINE_BYTES
    assert model.warm_up(Timed(0.0), WarmUpInputs(interface(1, None))).inline_bytes >= model.INLINE_BYTES / 2


def test_slow_model_never_runs_inline():
    session = Timed(0.003)
    warm = model.warm_up(session, WarmUpInputs(interface(2, 64)))
    assert (warm.inline_bytes, set(session.sizes)) == (0, {2})
    assert warm.seconds >= 0.006


def test_inputs_run_inline_up_to_the_size_that_takes_a_millisecond():
    limit = model.warm_up(Timed(0.0003), WarmUpInputs(interface(1, 64))).inline_bytes
    assert 1 * ROW <= limit <= 4 * ROW + 1024


def test_warm_up_stays_inside_the_contract_s_shapes():
    session = Timed(0.0)
    model.warm_up(session, WarmUpInputs(interface(3, 5)))
    assert set(session.sizes) == {3, 5}


def test_model_that_fails_on_smallest_inputs_does_not_start():
    with pytest.raises(StartError, match="no zeros, please"):
        model.warm_up(Timed(float("inf")), WarmUpInputs(interface(1, 2)))


@pytest.mark.parametrize(
    ("ports", "sentence"),
    [
        ((Tensor("z", "float32", ("n", 256)),), "expected inputs `x`, got `z`"),
        ((X, Tensor("z", "float32", ("n", 256))), "expected inputs `x`, got `x, z`"),
        ((Tensor("x", "float64", ("n", 256)),), "to be float32 .* got float64"),
        ((Tensor("x", "float32", ("n", 255)),), r"\['batch', 256\], got float32 \['n', 255\]"),
        ((Tensor("x", "float32", (256,)),), "to be float32"),
    ],
)
def test_artefact_with_other_ports_does_not_start(ports, sentence):
    with pytest.raises(StartError, match=sentence):
        model._check_role(ports, (X,), "input")


def test_artefact_may_leave_sizes_open():
    model._check_role((Tensor("x", "float32", ("N", 256)),), (Tensor("x", "float32", (1, 256)),), "input")
    model._check_role((Tensor("x", "float32", (None, 256)),), (X,), "input")  # type: ignore[arg-type]


# --- configuration -------------------------------------------------------------------------------------------------

GOOD = {
    "name": "m",
    "version": "1.0.0",
    "digest": "sha256:0",
    "runtime": "onnxruntime",
    "target": "t",
    "artefact": "model.onnx",
    "interface": {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 2]}],
        "outputs": [{"name": "y", "dtype": "string", "shape": []}],
        "dimensions": {"batch": {"min": 1, "max": 64}},
    },
}


def written(directory, value):
    (directory / "model.onnx").write_bytes(b"")
    path = directory / "serve.json"
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return path


def changed(*keys, to):
    value = json.loads(json.dumps(GOOD))
    place = value
    for key in keys[:-1]:
        place = place[key]
    if to is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = to
    return value


def test_configuration_is_read(tmp_path):
    read = config.read(written(tmp_path, GOOD))
    assert read.artefact == tmp_path / "model.onnx"
    assert read.interface.inputs == (Tensor("x", "float32", ("batch", 2)),)
    assert read.interface.allowed_range("batch") == Range(1, 64)
    assert read.interface.allowed_range("other") == Range(1, None)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (b"", "unexpected end|empty|EOF"),
        (b"[]", "`the document` is not an object"),
        (changed("name", to=None), "`the document` lacks `name`"),
        (changed("extra", to=1), "`the document` has an unknown key `extra`"),
        (changed("name", to=3), "`name`: expected a string, got `3`"),
        (changed("name", to=""), "`name`: expected a string"),
        (changed("runtime", to="../x"), "`runtime`: expected the name of a runtime"),
        (changed("artefact", to="other.onnx"), "artefact `.*other.onnx` is not there"),
        (changed("interface", "inputs", to=[]), "`interface.inputs` is not a list of tensors"),
        (changed("interface", "inputs", 0, "dtype", to="float33"), "`interface.inputs.0..dtype`: expected one of"),
        (changed("interface", "inputs", 0, "shape", to=[-1]), "expected sizes or names, got `-1`"),
        (changed("interface", "inputs", 0, "shape", to="batch"), "shape` is not a list"),
        (changed("interface", "inputs", to=GOOD["interface"]["inputs"] * 2), "names a tensor twice"),
        (changed("interface", "dimensions", "batch", to={"min": 2, "max": 1}), "expected 0 <= min <= max"),
        (changed("interface", "dimensions", "batch", to={"min": "1"}), "expected 0 <= min <= max"),
        (changed("interface", "dimensions", to=[]), "`interface.dimensions` is not an object"),
    ],
)
def test_defective_configuration_is_refused_in_one_line(tmp_path, value, sentence):
    with pytest.raises(StartError, match=sentence) as caught:
        config.read(written(tmp_path, value))
    assert caught.value.code == 4
    assert "\n" not in caught.value.message


def test_a_message_shows_paths_whole_and_marks_what_it_cuts(tmp_path):
    deep = tmp_path / ("folder" * 20)
    deep.mkdir()
    with pytest.raises(StartError) as caught:
        config.read(written(deep, changed("artefact", to="other.onnx")))
    assert f"artefact `{deep / 'other.onnx'}` is not there" in caught.value.message
    assert quote("x" * 100) == f"`{'x' * 100}`"
    assert quote("x" * 101) == f"`{'x' * 99}…`"


# --- admission -----------------------------------------------------------------------------------------------------


def test_admission_counts_and_releases_requests_and_bytes():
    async def scenario():
        admission = Admission(Limits(max_body=10, max_in_flight=5))
        with admission.lease() as one, admission.admit():
            one.hold_body(6)
            one.hold_body(4)
            with pytest.raises(RequestError) as caught:
                one.hold_body(1)
            assert caught.value.status == 413
            assert (admission.in_flight, admission.held) == (1, 10)
        assert (admission.in_flight, admission.held) == (0, 0)
        await asyncio.wait_for(admission.wait_idle(0), 1)

    asyncio.run(scenario())


def test_admission_refuses_requests_without_room():
    async def scenario():
        admission = Admission(Limits(max_body=10, max_in_flight=5))
        leases = [admission.lease() for _ in range(5)]
        for lease in leases[:4]:
            lease.__enter__().hold_body(10)
        with pytest.raises(RequestError) as caught:
            leases[4].__enter__().hold_body(1)
        assert (caught.value.status, caught.value.retry_after) == (429, 1)
        places = [admission.admit() for _ in range(5)]
        for place in places:
            place.__enter__()
        with pytest.raises(RequestError) as caught, admission.admit():
            pass
        assert (caught.value.status, caught.value.retry_after) == (429, 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(admission.wait_idle(0), 0.01)

    asyncio.run(scenario())


def test_zeros_have_the_runtime_s_types():
    feeds = WarmUpInputs(Interface((Tensor("s", "string", (2,)), Tensor("b", "bool", (1,))), (X,), {})).smallest()
    assert feeds["s"].tolist() == ["", ""]
    assert feeds["b"].dtype == np.bool_


def test_inflating_a_bomb_stops_at_the_limit():
    bomb = gzip.compress(bytes(50 << 20))
    admission = Admission(Limits(max_body=1 << 20))
    with admission.lease() as lease, pytest.raises(RequestError, match="after inflating") as caught:
        bodies.inflate(bomb, "gzip", 1 << 20, lease.hold)
    assert (caught.value.status, lease.size <= 1 << 20, admission.held) == (413, True, 0)


def test_only_known_tokens_are_accepted(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("# of the site\nfirst-token-of-all\n\nsecond-token-of-all\n")
    guard = Guard.read(path)
    for good in ("Bearer first-token-of-all", "bearer second-token-of-all"):
        guard.check(good)
    for bad in (None, "", "Bearer", "Bearer ", "Bearer first-token", "Basic first-token-of-all", "first-token-of-all"):
        with pytest.raises(RequestError) as caught:
            guard.check(bad)
        assert caught.value.status == 401
    Guard().check(None)
    for text in ("", "# nothing\n", "short\n"):
        path.write_text(text)
        with pytest.raises(StartError, match="expected tokens"):
            Guard.read(path)
    with pytest.raises(StartError, match="cannot be read"):
        Guard.read(tmp_path / "nowhere")
