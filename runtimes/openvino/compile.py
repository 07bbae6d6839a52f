# SPDX-License-Identifier: Apache-2.0
"""Compile for OpenVINO: its intermediate representation (`model.xml`, `model.bin`), without a trace of its maker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packager.runtimes._openvino_ir import last_line, read_back, tool, without_maker

from packager.canonical import JSON
from packager.errors import StepError
from packager.graph import canonicalise
from packager.runtime import Batches, CompileFacts

FILE = "model.xml"


def compile_graph(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON], batches: Batches) -> CompileFacts:
    """Write the IR of the graph `inputs["graph"]/params["path"]`; fp16 halves the weights, not the arithmetic."""
    runtime = tool()
    source = inputs["graph"] / params["path"]
    try:
        model = runtime.Core().read_model(str(source))
        _name_ports(model, source)
        runtime.save_model(model, str(out / FILE), compress_to_fp16=params["precision"] == "fp16")
    except StepError:
        raise
    except Exception as error:  # the runtime raises RuntimeError and other classes
        raise StepError(f"OpenVINO cannot convert the graph: {last_line(error)}") from error
    (out / FILE).write_bytes(without_maker((out / FILE).read_bytes()))
    header = read_back(runtime, out / FILE)
    return {"path": FILE, "artefact": {"reproducibility": "bitwise", "header": header, "needs": {}}}


def _name_ports(model: Any, source: Path) -> None:
    """Check that every port kept the name it has in the graph: callers feed and read by it."""
    known = canonicalise.read(source).graph
    for ours, theirs in ((known.input, model.inputs), (known.output, model.outputs)):
        wanted = [value.name for value in ours]
        if len(wanted) != len(theirs) or any(
            name not in port.get_names() for name, port in zip(wanted, theirs, strict=True)
        ):
            raise StepError("OpenVINO changed the names of inputs or outputs", hint="please report this with the model")
