# SPDX-License-Identifier: Apache-2.0
"""Compile for TensorRT on the GPU of this host; the facts of the engine are read from the engine itself.

Not run where this was written, which had no GPU (docs/limits.md): held against the API of 11.4, and the parts that it
shares with TensorRT for RTX are run there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packager.runtimes import _tensorrt, _tensorrt_build
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from packager.canonical import JSON
from packager.errors import StepError
from packager.runtime import ArtefactFacts, Batches, CompileFacts

_MODULES = ("tensorrt", "tensorrt_bindings")


def compile_graph(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON], batches: Batches) -> CompileFacts:
    """Write the engine of the graph `inputs["graph"]/params["path"]` for `params["device"]` and read it back.

    The tree `timings` holds the timing cache that the build is bound to.
    """
    trt = _tensorrt.tool(_MODULES, "tensorrt", "tensorrt")
    versions, device = params["versions"], params["device"]
    _tensorrt.check_promise(versions, trt.__version__, "tensorrt")
    portable = spans(versions, trt.__version__)
    timings = next(inputs["timings"].iterdir()).read_bytes() if "timings" in inputs else None

    def configure(config: Any) -> None:
        config.hardware_compatibility_level = _level(trt, device)
        if portable:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if timings is not None:
            bind(trt, config, timings)

    with _tensorrt.typed(inputs, params) as path:
        engine = _tensorrt.build(trt, path, params["interface"], configure)
    _check(trt, engine, params["interface"], device)
    (out / _tensorrt.FILE).write_bytes(engine)
    header = {
        "format": "tensorrt",
        "version": trt.__version__,
        "hardware": device,
        "version_compatible": portable,
        "bytes": len(engine),
    }
    artefact: ArtefactFacts = {"reproducibility": "recorded", "header": header, "needs": {"gpu": device}}
    return {"path": _tensorrt.FILE, "artefact": artefact}


def spans(versions: str, found: str) -> bool:
    """Return whether a promised range reaches beyond the minor version that builds."""
    major, minor = Version(found).release[:2]
    near = (f"{major}.{minor + 1}.0", f"{major}.{minor - 1}.0", f"{major + 1}.0.0")
    return any(SpecifierSet(versions).contains(version) for version in near)


def bind(trt: Any, config: Any, timings: bytes) -> None:
    """Take kernels from recorded timings alone: one that is not among them is an error, and none is added."""
    cache = config.create_timing_cache(timings)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise StepError(
            "the timing cache of the recipe does not belong to this GPU and version of TensorRT",
            hint="record it anew on this machine, or leave out `timing-cache`",
        )
    config.set_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)


def _level(trt: Any, device: str) -> Any:
    levels = trt.HardwareCompatibilityLevel
    return levels.AMPERE_PLUS if device == "ampere_plus" else levels.SAME_COMPUTE_CAPABILITY


def _check(trt: Any, engine: bytes, interface: JSON, device: str) -> None:
    """Open the engine: the library checks magic, version and GPU; the rest is compared with what was requested."""
    log = _tensorrt_build.logger(trt)
    opened = trt.Runtime(log).deserialize_cuda_engine(engine)
    if opened is None:
        raise StepError(f"TensorRT cannot read the engine it built: {'; '.join(log.errors)[:300]}")
    if opened.hardware_compatibility_level != _level(trt, device):
        raise StepError(f"the engine is not for `{device}`, got {opened.hardware_compatibility_level}")
    found = {opened.get_tensor_name(index) for index in range(opened.num_io_tensors)}
    wanted = {port["name"] for role in ("inputs", "outputs") for port in interface[role]}
    if found != wanted:
        raise StepError(f"expected an engine with {sorted(wanted)}, got {sorted(found)}")
