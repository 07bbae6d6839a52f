# SPDX-License-Identifier: Apache-2.0
"""An installed model asked at many sizes over HTTP, beside the original file in ONNX Runtime."""

from __future__ import annotations

import contextlib
import math
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tritonclient.http as triton
import tritonclient.utils as triton_utils

from packager.contract.contract import Contract, Port

_LENGTHS = (1, 2, 3, 4, 7, 8, 16, 32, 48, 64, 96, 100, 160, 224, 256, 320, 512, 576, 640, 1000, 1536, 4000)
_PER_AXIS = 6  # lengths of one axis that are compared
_MOST = 4 << 20  # elements of one input
_SLOW = 8.0  # seconds of one run of the original; that axis is not tried any longer
Feeds = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """`sizes` are how many were answered alike; `max_abs` is the largest difference."""

    verdict: str
    max_abs: float | None
    sizes: int
    reason: str = ""


def compare(original: Path, contract: Contract, name: str, site: Path) -> Found:
    """Ask the installation whatever the original takes: one axis after the other, at up to six lengths each."""
    session = _session(original, optimised=True)
    plain = _session(original, optimised=False)
    names = [port.name for port in session.get_outputs()]
    worst, sizes, asked = 0.0, 0, Counter[str]()
    with _serving(site) as address:
        client = triton.InferenceServerClient(address, network_timeout=300, connection_timeout=300)
        for axis, lengths in _sizes(contract):
            if asked[axis] >= _PER_AXIS or _elements(contract, lengths) > _MOST:
                continue
            said = f"at {', '.join(f'{axis}={length}' for axis, length in lengths.items()) or 'its one size'}"
            feeds = {port.name: _tensor(np.random.default_rng(sizes), port, lengths) for port in contract.inputs}
            started = time.monotonic()
            expected = _answer(session, feeds)
            slow = time.monotonic() - started > _SLOW
            asked[axis] += _PER_AXIS if slow else expected is not None
            if slow or expected is None:
                continue
            try:
                got = _ask(client, contract, name, feeds)
            except triton_utils.InferenceServerException as error:
                return Found("wrong", None, sizes, f"cut: {said} the original answers, and the server says: {error}")
            moved = _moved(plain, feeds, expected)
            for output, wanted, loose in zip(names, expected, moved, strict=True):
                if output in got and isinstance(wanted, np.ndarray):
                    off, far = _differs(wanted, got[output], loose)
                    worst = max(worst, off)
                    if far:
                        return Found("wrong", off, sizes, f"{said}, output `{output}`: {far}")
            sizes += 1
    if not sizes:
        return Found("wrong", None, 0, "the original took none of the sizes that the contract names")
    return Found("right", worst, sizes)


def _session(path: Path, *, optimised: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception:
        if optimised:
            raise
        return None  # some files open only with it


def _answer(session: Any, feeds: Feeds) -> list[Any] | None:
    """Return what the original answers; None where it does not take the sizes."""
    try:
        return list(session.run(None, dict(feeds)))
    except Exception:
        return None


def _elements(contract: Contract, lengths: Mapping[str, int]) -> int:
    return max(
        math.prod(lengths[axis] if isinstance(axis, str) else axis for axis in port.shape) for port in contract.inputs
    )


def _sizes(contract: Contract) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield an axis and lengths of all: a short measured one of each, then this one alone at others, measured or not."""
    axes = {name: axis for name, axis in contract.dimensions.items() if axis.tied is None}
    base = {name: axis.lengths.near(0) for name, axis in axes.items()}
    yield "", _with_tied(contract, base)
    for name, axis in axes.items():
        low, high, step = axis.lengths.near(0), axis.high, axis.lengths.step
        near = [high, high + step, 2 * high, low + step, (low + high) // (2 * step) * step, 3 * step - 1, *_LENGTHS]
        for length in dict.fromkeys(length for length in near if length > 0):
            yield name, _with_tied(contract, {**base, name: length})


def _with_tied(contract: Contract, lengths: Mapping[str, int]) -> dict[str, int]:
    ties = {name: axis.tied for name, axis in contract.dimensions.items() if axis.tied}
    return {**lengths, **{name: factor * lengths[of] for name, (factor, of) in ties.items()}}


def _tensor(random: Any, port: Port, lengths: Mapping[str, int]) -> Any:
    """Return values that the contract names; without any, small ones."""
    shape = [lengths[axis] if isinstance(axis, str) else axis for axis in port.shape]
    low, high = port.limit or port.range or ((-2.0, 2.0) if port.dtype.startswith("float") else (0, 1))
    if port.listed:
        return random.choice(np.array(port.listed), shape).astype(_dtype(port))
    if port.dtype == "bool":
        return random.random(shape) < 0.5
    if port.dtype == "string":
        return random.choice(np.array(["a", "word", "Ösl", ""], object), shape)
    if port.dtype.startswith("float"):
        return np.asarray(random.uniform(max(low, -1e6), min(high, 1e6), shape)).astype(port.dtype)
    return np.asarray(random.integers(max(int(low), -(1 << 31)), min(int(high), 1 << 31), shape, endpoint=True)).astype(
        port.dtype
    )


def _dtype(port: Port) -> Any:
    return object if port.dtype == "string" else port.dtype


def _ask(client: Any, contract: Contract, name: str, feeds: Feeds) -> dict[str, Any]:
    """Return every output of the server."""
    given = []
    for port in contract.inputs:
        values = feeds[port.name]
        kind = triton_utils.np_to_triton_dtype(values.dtype)
        given.append(triton.InferInput(port.name, list(values.shape), kind))
        given[-1].set_data_from_numpy(values, binary_data=True)
    answer = client.infer(name, given)
    return {port.name: answer.as_numpy(port.name) for port in contract.outputs}


def _moved(plain: Any, feeds: Feeds, expected: Sequence[Any]) -> list[float]:
    """Return how far ONNX Runtime's own optimisation moves each output."""
    found = None if plain is None else _answer(plain, feeds)
    if found is None:
        return [0.0] * len(expected)
    return [_gap(left, right) for left, right in zip(expected, found, strict=True)]


def _gap(left: Any, right: Any) -> float:
    if not isinstance(left, np.ndarray) or left.dtype.kind != "f" or left.shape != right.shape or not left.size:
        return 0.0
    return float(np.nanmax(np.abs(left.astype("float64") - right.astype("float64")), initial=0.0))


def _differs(wanted: Any, got: Any, loose: float) -> tuple[float, str]:
    """Return the largest difference, and in words what is beyond tolerance or of another form."""
    if wanted.shape != tuple(got.shape):
        return 0.0, f"shape {list(wanted.shape)}, got {list(got.shape)}"
    if wanted.dtype.kind in "OUS":
        same = [str(item) for item in wanted.ravel()] == [
            item.decode() if isinstance(item, bytes) else str(item) for item in got.ravel()
        ]
        return 0.0, "" if same else "another text"
    if wanted.dtype.kind != "f":
        unequal = int(np.count_nonzero(wanted != got))
        return 0.0, f"{unequal} of {wanted.size} elements are unequal" if unequal else ""
    close = np.isclose(wanted.astype("float64"), got.astype("float64"), rtol=1e-4, atol=1e-5 + loose, equal_nan=True)
    off = _gap(wanted, got)
    return off, "" if close.all() else f"off by {off:.3g}, of which optimisation moves {loose:.3g}"


@contextlib.contextmanager
def _serving(site: Path) -> Iterator[str]:
    """Serve an installation on a free port of this machine; yield its address when it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "packager", "serve", str(site), "--port", str(port), "--quiet"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 600  # a busy machine takes minutes to import
        while time.monotonic() < end and server.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5)
                break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"the installation is not ready, status {server.poll()}")
        yield f"127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
