# SPDX-License-Identifier: Apache-2.0
"""Compile for TensorRT for RTX: one engine per compute capability, built ahead of time without a GPU.

Engines are `recorded`: some follow the memory addresses of the process that builds them. `builder` fixes those, so one
machine gives the same bytes every time; another kernel, Python or C library may lay memory out in another way.

An engine begins with 64 bytes that say what it is. Their layout is not documented; it was read off engines of every
capability and is used to check what was requested of the builder, never to decide anything:

    0  magic `vtrt`    16  size of the file, 64 bits    24  version, four bytes    32  mask of compute capabilities
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from packager.runtimes import _tensorrt
from packager.runtimes.tensorrt_rtx import builder

from packager.canonical import JSON
from packager.errors import StepError
from packager.runtime import ArtefactFacts, Batches, CompileFacts

_MAGIC = b"vtrt"
_HEADER = 64
_MASKS = {"sm_75": 1, "sm_80": 2, "sm_86": 4, "sm_89": 8, "sm_120": 16, "sm_121": 32}


def compile_graph(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON], batches: Batches) -> CompileFacts:
    """Write the engine of the graph `inputs["graph"]/params["path"]` for `params["device"]` and read it back."""
    trt = _tensorrt.tool(("tensorrt_rtx",), "tensorrt-rtx", "rtx")
    _tensorrt.check_promise(params["versions"], trt.__version__, "tensorrt-rtx")
    device, engine_path = params["device"], out / _tensorrt.FILE
    with _tensorrt.typed(inputs, params) as path:
        builder.build(path, device, params["interface"], engine_path)
    engine = engine_path.read_bytes()
    header = read_header(engine)
    expected = {"format": "tensorrt-rtx", "version": trt.__version__, "gpus": [device], "bytes": len(engine)}
    if header != expected:
        raise StepError(f"the engine is not what was requested: expected {expected}, got {header}")
    artefact: ArtefactFacts = {"reproducibility": "recorded", "header": header, "needs": {"gpu": device}}
    return {"path": _tensorrt.FILE, "artefact": artefact}


def read_header(data: bytes) -> JSON:
    """Return what the first bytes of an engine say. Raises StepError if they are not those of an engine."""
    if len(data) < _HEADER or data[:4] != _MAGIC:
        raise StepError(f"expected an engine of TensorRT for RTX, got bytes that begin with {data[:4]!r}")
    size, version, mask = (*struct.unpack_from("<Q4s", data, 16), struct.unpack_from("<I", data, 32)[0])
    return {
        "format": "tensorrt-rtx",
        "version": ".".join(str(part) for part in version),
        "gpus": [device for device, bit in _MASKS.items() if mask & bit],
        "bytes": size,
    }
