# SPDX-License-Identifier: Apache-2.0
"""TensorRT and TensorRT for RTX as an adapter of the suite: an engine of the bundle, run on the GPU it was built for.

`options.runtime` says which of the two is driven. Neither computes on a CPU, so there is nothing to fall back to:
without a GPU, a driver or the library the cell is skipped with their own reason.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from suite import kit

_NAMES = {"tensorrt": ("tensorrt", "tensorrt_bindings"), "tensorrt-rtx": ("tensorrt_rtx",)}


class Adapter(kit.Adapter):
    """One engine."""

    def __init__(self) -> None:
        self._engine: Any = None

    def hello(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return nothing yet: the library is known once `load` requests it."""
        return {}

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        runtime = message["options"]["runtime"]
        trt, session = _library(runtime), _session()
        name, capability = _gpu(session)
        wanted = _device(message)
        if wanted.startswith("sm_") and wanted != capability:
            raise kit.UnavailableError(f"the engine is for {wanted}, the GPU of this machine is {capability} ({name})")
        self._engine = session.Engine(trt, Path(message["model"]))
        return {"runtime": runtime, "version": trt.__version__, "provider": f"{name}, {capability}", "device": "cuda"}

    def metadata(self, message: dict[str, Any]) -> dict[str, Any]:
        return {
            role: [{"name": name, "dtype": dtype, "shape": list(shape)} for name, dtype, shape in ports]
            for role, ports in (("inputs", self._engine.inputs), ("outputs", self._engine.outputs))
        }

    def infer(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """Answer; refuse what the library would take for other bytes, since it is handed addresses alone."""
        known = {name: dtype for name, dtype, _ in self._engine.inputs}
        if set(feeds) != set(known):
            raise kit.BadRequestError(f"expected inputs {sorted(known)}, got {sorted(feeds)}")
        for name, array in feeds.items():
            if array.dtype.name != known[name]:
                raise kit.BadRequestError(f"input `{name}`: expected {known[name]}, got {array.dtype.name}")
        names = (name for name, _, _ in self._engine.outputs)
        return dict(zip(names, self._engine.run(feeds), strict=True))

    def stop(self) -> dict[str, Any]:
        self._engine = None
        return {}


def _library(runtime: str) -> Any:
    problem = f"{runtime} is not installed in this environment"
    for name in _NAMES[runtime]:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError) as error:
            problem = f"the libraries of {runtime} are not on this machine: {error}"
    raise kit.UnavailableError(problem)


def _session() -> Any:
    """Load the file beside the runtimes that opens engines, by its path: nothing of ours is installed here."""
    path = Path(__file__).parents[1] / "_tensorrt_session.py"
    spec = importlib.util.spec_from_file_location("tensorrt_session", path)
    if spec is None or spec.loader is None:
        raise kit.BrokenRuntimeError(f"`{path}` is missing: this installation is not complete")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _gpu(session: Any) -> tuple[str, str]:
    try:
        found: tuple[str, str] = session.gpu()
    except ImportError as error:
        raise kit.UnavailableError(f"`cuda-bindings` is not installed in this environment: {error}") from None
    except RuntimeError as error:
        raise kit.UnavailableError(f"no GPU can be used on this machine: {error}") from None
    return found


def _device(message: dict[str, Any]) -> str:
    """Return what the contract says the engine was built for."""
    targets = json.loads(Path(message["contract"]).read_bytes())["targets"].values()
    return next((str(item["device"]) for item in targets if message["model"].endswith(f"/{item['path']}")), "")


if __name__ == "__main__":
    kit.run(Adapter())
