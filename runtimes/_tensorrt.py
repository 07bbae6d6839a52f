# SPDX-License-Identifier: Apache-2.0
"""Build engines with either library of NVIDIA's that has TensorRT's Python interface: TensorRT, or TensorRT for RTX.

The network is strongly typed: the precision of an engine is that of its graph, and the builder may not lower it. The
libraries return None instead of raising, and say why through a logger; here that becomes an error.
"""

from __future__ import annotations

import importlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packager.runtimes import _precision
from packager.runtimes._tensorrt_session import logger
from packaging.specifiers import SpecifierSet

from packager import graph
from packager.canonical import JSON
from packager.errors import MissingToolError, StepError

FILE = "model.engine"
PRECISIONS = ("fp32", "fp16", "mixed")


def tool(names: Sequence[str], distribution: str, extra: str) -> Any:
    """Import the first module of `names` that is there; a library that it lacks is an error of its own."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError) as error:
            raise StepError(
                f"`{distribution}` is installed without its libraries: {_first_line(str(error))}",
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
        model = _precision.half(graph.read(source, infer=True), mixed=params["precision"] == "mixed")
        graph.write(graph.canonicalise(model, opset=params["opset"], ir=params["ir"]), Path(folder))
        yield Path(folder) / graph.FILE


def build(trt: Any, source: Path, interface: JSON, configure: Callable[[Any], None]) -> bytes:
    """Return the engine of a graph; `configure` gets the builder's configuration. Raises StepError."""
    log = logger(trt)
    builder = _made(trt.Builder, log)
    network = builder.create_network(_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(source)):
        raise StepError(f"{trt.__name__} cannot read the graph: {_parser_errors(parser) or _said(log)}", hint=_HINT)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32: TF32 keeps ten bits of its mantissa
    configure(config)
    _add_profile(builder, network, config, interface)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise StepError(f"{trt.__name__} cannot build the engine: {_said(log)}", hint=_HINT)
    return bytes(memoryview(engine))


_HINT = "change the promise in the recipe (device, precision), or export the model without what is named here"


def _made(maker: Callable[[Any], Any], log: Any) -> Any:
    """Create an object of the library, which fails without a GPU where it wants one."""
    try:
        made = maker(log)
    except (TypeError, RuntimeError) as error:  # the binding's word for a null pointer
        raise StepError(f"TensorRT does not start: {_said(log) or _first_line(str(error))}", hint=_GPU_HINT) from error
    return made


_GPU_HINT = "data-centre engines are built where they run: on a machine with the GPU, its driver and the libraries"


def _flags(trt: Any) -> int:
    """Return the creation flag of a strongly typed network; newer libraries have no other kind."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parser_errors(parser: Any) -> str:
    """Say what each operator that the parser refuses is, and how it put it."""
    found = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(
        f"`{error.node_operator()}` {error.node_name()}: {str(error.code().name).lower().replace('_', ' ')}, "
        f"{_first_line(error.desc())}" for error in found[:3]
    )  # fmt: skip


def _said(log: Any) -> str:
    return "; ".join(dict.fromkeys(_first_line(text) for text in log.errors[-3:]))


def _first_line(text: str) -> str:
    rows = [row.strip() for row in text.splitlines() if row.strip()]
    return (rows[0] if rows else "no reason given")[:300]


def _add_profile(builder: Any, network: Any, config: Any, interface: JSON) -> None:
    """Bound every free axis by what the recipe promises; kernels are chosen for the geometric middle."""
    ranges = {name: (bounds["min"], bounds["max"]) for name, bounds in interface["dimensions"].items()}
    if not ranges:
        return
    profile = builder.create_optimization_profile()
    for port in interface["inputs"]:
        shapes = ([_length(axis, ranges, pick) for axis in port["shape"]] for pick in (min, middle, max))
        profile.set_shape(port["name"], *map(tuple, shapes))
    if config.add_optimization_profile(profile) < 0:
        raise StepError("the ranges under `dynamic` make no valid optimisation profile")


def _length(axis: int | str, ranges: Mapping[str, tuple[int, int]], pick: Callable[..., int]) -> int:
    return axis if isinstance(axis, int) else pick(*ranges[axis])


def middle(low: int, high: int) -> int:
    """Return the length between two that is as many times longer than the one as it is shorter than the other."""
    return min(high, max(low, round(math.sqrt(low * high))))
