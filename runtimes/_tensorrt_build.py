# SPDX-License-Identifier: Apache-2.0
"""Build an engine with either library that has TensorRT's Python interface, and translate its errors.

Standard library only, and nothing of this program: the file is also run by itself, in a process that must hold as
little as possible besides the library (`tensorrt_rtx/builder.py`).
"""

from __future__ import annotations

import ctypes
import importlib
import json
import math
import os
import resource
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_NO_RANDOMISATION = 0x0040000  # ADDR_NO_RANDOMIZE of personality(2)
_ASK = 0xFFFFFFFF
_STACK = 8 << 20
_SETTLED = "settled"
HINT = "change the promise in the recipe (device, precision), or export the model without what is named here"
GPU_HINT = "data-centre engines are built where they run: on a machine with the GPU, its driver and the libraries"


class RefusedError(Exception):
    """The library does not build what it was given; `hint` is what can be done."""

    def __init__(self, message: str, hint: str = HINT) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def build(trt: Any, source: str, interface: Any, configure: Callable[[Any], None]) -> bytes:
    """Return the engine of the graph at `source`; `configure` gets the builder's configuration. Raises RefusedError."""
    log = logger(trt)
    builder = _made(trt.Builder, log)
    network = builder.create_network(_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(source):
        raise RefusedError(f"{trt.__name__} cannot read the graph: {_parser_errors(parser) or _said(log)}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32: TF32 keeps ten bits of its mantissa
    configure(config)
    _add_profile(builder, network, config, interface)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RefusedError(f"{trt.__name__} cannot build the engine: {_said(log)}")
    return bytes(memoryview(engine))


def logger(trt: Any) -> Any:
    """Return a logger of the library that keeps its errors in `errors`."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.errors.append(message)

    return Log()


def _made(maker: Callable[[Any], Any], log: Any) -> Any:
    """Create an object of the library, which fails without a GPU where it wants one."""
    try:
        made = maker(log)
    except (TypeError, RuntimeError) as error:  # the binding's word for a null pointer
        raise RefusedError(f"TensorRT does not start: {_said(log) or first_line(str(error))}", GPU_HINT) from error
    return made


def _flags(trt: Any) -> int:
    """Return the creation flag of a strongly typed network; newer libraries have no other kind."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parser_errors(parser: Any) -> str:
    """Return each operator that the parser refuses, with its message."""
    found = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(
        f"`{error.node_operator()}` {error.node_name()}: {str(error.code().name).lower().replace('_', ' ')}, "
        f"{first_line(error.desc())}"
        for error in found[:3]
    )


def _said(log: Any) -> str:
    return "; ".join(dict.fromkeys(first_line(text) for text in log.errors[-3:]))


def first_line(text: str) -> str:
    """Return the first line of a library's message that is not empty."""
    rows = [row.strip() for row in text.splitlines() if row.strip()]
    return (rows[0] if rows else "no reason given")[:300]


def _add_profile(builder: Any, network: Any, config: Any, interface: Any) -> None:
    """Bound every free axis by what the recipe promises; kernels are chosen for the geometric middle."""
    ranges = {name: (bounds["min"], bounds["max"]) for name, bounds in interface["dimensions"].items()}
    if not ranges:
        return
    profile = builder.create_optimization_profile()
    for port in interface["inputs"]:
        shapes = ([_length(axis, ranges, pick) for axis in port["shape"]] for pick in (min, find_middle, max))
        profile.set_shape(port["name"], *map(tuple, shapes))
    if config.add_optimization_profile(profile) < 0:
        raise RefusedError("the ranges under `dynamic` make no valid optimisation profile")


def _length(axis: int | str, ranges: Mapping[str, tuple[int, int]], pick: Callable[..., int]) -> int:
    return axis if isinstance(axis, int) else pick(*ranges[axis])


def find_middle(low: int, high: int) -> int:
    """Return the length between two that is as many times longer than the one as it is shorter than the other."""
    return min(high, max(low, round(math.sqrt(low * high))))


# -- the file as a program


def main(arguments: Sequence[str]) -> int:
    """Build the engine that the job on standard input describes; report the result on standard output.

    `arguments[0]` is the directory of the library.
    """
    settle(arguments)
    job = json.load(sys.stdin)
    sys.path.append(arguments[0])
    trt = importlib.import_module(job["module"])
    answer: dict[str, str] = {}
    worker = threading.Thread(target=_build_for, args=(trt, job, answer))
    worker.start()
    worker.join()
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def settle(arguments: Sequence[str]) -> None:
    """Start this program again with fixed addresses, unless that was done or is not allowed here."""
    libc = ctypes.CDLL(None)
    now = libc.personality(ctypes.c_ulong(_ASK))
    if _SETTLED in arguments or now == -1 or libc.personality(ctypes.c_ulong(now | _NO_RANDOMISATION)) == -1:
        return
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK if most < 0 else min(_STACK, most), most))
    os.execv(sys.executable, [*sys.orig_argv, _SETTLED])


def _build_for(trt: Any, job: Mapping[str, Any], answer: dict[str, str]) -> None:
    def configure(config: Any) -> None:
        # Without one the builder takes the one it knows; `CURRENT` would need a GPU.
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, job["capability"]), 0)

    try:
        engine = build(trt, job["graph"], job["interface"], configure)
    except RefusedError as error:
        answer |= {"error": error.message, "hint": error.hint}
    else:
        answer["version"] = trt.__version__
        Path(job["out"]).write_bytes(engine)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
