# SPDX-License-Identifier: Apache-2.0
"""Build engines with either library of NVIDIA's that has TensorRT's Python interface: TensorRT, or TensorRT for RTX.

The network is strongly typed: the precision of an engine is that of its graph, and the builder may not lower it. The
libraries return None instead of raising, and say why through a logger; that becomes an error (`_tensorrt_build`).
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packager.runtimes import _precision, _tensorrt_build
from packaging.specifiers import SpecifierSet

from packager.canonical import JSON
from packager.errors import MissingToolError, StepError
from packager.graph import canonicalise

FILE = "model.engine"
PRECISIONS = ("fp32", "fp16", "mixed")


def tool(names: Sequence[str], distribution: str, extra: str) -> Any:
    """Import the first module of `names` that is there; a library that it lacks is a different error."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError) as error:
            raise StepError(
                f"`{distribution}` is installed without its libraries: {_tensorrt_build.first_line(str(error))}",
                hint="install them from NVIDIA's package index or image, on a machine with an NVIDIA driver",
            ) from error
    raise MissingToolError(distribution, extra)


def check_promise(versions: str, found: str, runtime: str) -> None:
    """Refuse a builder outside of the promised range: an engine runs on the version that built it."""
    if not SpecifierSet(versions).contains(found, prereleases=True):
        raise StepError(
            f"`{runtime}` promises {versions}, but the engines are built by {found}",
            hint=f"promise that version, or install one that is promised (`pip install '{runtime}{versions}'`)",
        )


@contextmanager
def typed(inputs: Mapping[str, Path], params: Mapping[str, JSON]) -> Iterator[Path]:
    """Yield the path of the graph in the precision of the target; a temporary file unless that is fp32."""
    source = inputs["graph"] / params["path"]
    if params["precision"] == "fp32":
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        model = _precision.convert_to_half(canonicalise.read(source, infer=True), mixed=params["precision"] == "mixed")
        canonicalise.write(canonicalise.canonicalise(model, opset=params["opset"], ir=params["ir"]), Path(folder))
        yield Path(folder) / canonicalise.FILE


def build(trt: Any, source: Path, interface: JSON, configure: Callable[[Any], None]) -> bytes:
    """Return the engine of a graph; `configure` gets the builder's configuration. Raises StepError."""
    try:
        return _tensorrt_build.build(trt, str(source), interface, configure)
    except _tensorrt_build.RefusedError as error:
        raise StepError(error.message, hint=error.hint) from error
