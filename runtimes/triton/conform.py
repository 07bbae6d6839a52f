# SPDX-License-Identifier: Apache-2.0
"""Triton under test: real `tritonserver` processes from NVIDIA's wheels, Python backend, ONNX Runtime inside.

The wheels of `nvidia-pytriton` carry `tritonserver` itself; which version is in which was measured. They hold the
Python backend only, so the model is run by `model.py` beside this file, in the version of ONNX Runtime that NVIDIA's
image of that release carries: what loads here is what loads there. Their stub reads numpy arrays by the layout of numpy
1: under numpy 2 its answers are silently wrong, which `model.py` refuses at load.
"""

from __future__ import annotations

from packager.contract import runtime_support
from packager.contract.runtime_tables import Tables, load_shipped

ACCEPTS = ("onnxruntime", "triton")
CHANNELS = ("http", "grpc", "shm")
DEVICE = "cpu"
LIBRARY = "onnxruntime"
ENGINE = "onnxruntime"  # what computes inside
KNOBS = (
    "batch.max",
    "runtime.threads",
    "triton.instances",
    "triton.max_queue",
    "triton.queue_delay",
    "triton.threads",
)  # of the bundle, that its adapter can set

_WHEELS = {"2.36.0": "0.3.1", "2.39.0": "0.4.2", "2.41.0": "0.5.0", "2.46.0": "0.5.8", "2.51.0": "0.7.0"}
RELEASES = {"2.36.0": "23.07", "2.39.0": "23.10", "2.41.0": "23.12", "2.46.0": "24.05", "2.51.0": "24.10"}


def versions() -> tuple[str, ...]:
    """Return the versions of `tritonserver` that can be tested, oldest first."""
    return tuple(_WHEELS)


def requirements(version: str, python: str, tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return the pinned packages of the environment: server and stub share one."""
    numpy = {"3.8": "1.24.4"}.get(python, "1.26.4")
    return (f"nvidia-pytriton=={_WHEELS[version]}", f"numpy=={numpy}", f"onnxruntime=={engine(version, tables)}")


def engine(version: str, tables: Tables = load_shipped) -> str:
    """Return the version of ONNX Runtime inside a release, as NVIDIA builds it."""
    row = runtime_support.find_row(tables("triton"), version)
    return row.inside["onnxruntime"] if row else "1.19.2"


def pythons(version: str) -> tuple[str, ...]:
    """Return the Python versions that the wheel has a stub for, and ONNX Runtime a wheel."""
    return ("3.10", "3.11", "3.12") if version in ("2.46.0", "2.51.0") else ("3.10", "3.11")


def deviations(version: str) -> dict[str, str]:
    """Return the laws that this release breaks for every model, each with what was seen."""
    law = "test_a_malformed_body_is_refused"
    found = {}
    if version != "2.51.0":
        found[f"{law}[no body]"] = "Triton before 2.51 answers an empty body with 200 and uninitialised memory"
    if version == "2.36.0":
        name = "test_a_bad_request_is_refused_in_a_sentence[grpc-too large]"
        found[name] = "the Python backend before 2.38 has no status for a refusal, so that gRPC says INTERNAL"
    if version in ("2.46.0", "2.51.0"):
        reason = "Triton since 2.46 answers a body it cannot parse with 500"
        found |= {f"{law}[{kind}]": reason for kind in ("not JSON", "no inputs", "a list")}
    return found
