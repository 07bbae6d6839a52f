# SPDX-License-Identifier: Apache-2.0
"""Compile for OpenVINO: its intermediate representation (`model.xml`, `model.bin`), without a trace of its maker."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.errors import MissingToolError, StepError
from packager.graph import canonicalise
from packager.runtime import Batches, CompileFacts

FILE = "model.xml"
_NAMED = re.compile(rb'(<layer id="(\d+)" name="[A-Za-z][A-Za-z0-9]*_)\d+')
_NOTE = re.compile(rb"\t<rt_info>\n(?:(?!</rt_info>).)*?OpenVINO Runtime.*?\t</rt_info>\n(?=</net>)", re.DOTALL)


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
        raise StepError(f"OpenVINO cannot convert the graph: {_last_line(error)}") from error
    (out / FILE).write_bytes(_impersonal((out / FILE).read_bytes()))
    return {"path": FILE, "artefact": {"reproducibility": "bitwise", "header": _read_back(runtime, out), "needs": {}}}


def tool() -> Any:
    """Import `openvino` without its reports to its maker, or raise with how to install it."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module("openvino")
    except ImportError:
        raise MissingToolError("openvino", "openvino") from None


def _name_ports(model: Any, source: Path) -> None:
    """Check that every port kept the name it has in the graph: callers feed and read by it."""
    known = canonicalise.read(source).graph
    for ours, theirs in ((known.input, model.inputs), (known.output, model.outputs)):
        wanted = [value.name for value in ours]
        if len(wanted) != len(theirs) or any(
            name not in port.get_names() for name, port in zip(wanted, theirs, strict=True)
        ):
            raise StepError("OpenVINO changed the names of inputs or outputs", hint="please report this with the model")


def _impersonal(data: bytes) -> bytes:
    """Remove the note that says which build of the converter wrote the file (the lock knows it), and its counters.

    Layers without a name in the graph are called by kind and by how many were made in this process before; here by
    kind and the layer's own number.
    """
    data = _NAMED.sub(rb"\1\2", data)
    stripped, count = _NOTE.subn(b"", data)
    if count != 1:
        raise StepError("OpenVINO wrote its version where it is not expected", hint="please report this with the model")
    return stripped


def _read_back(runtime: Any, out: Path) -> JSON:
    """Open the files once more and return what they are."""
    data = (out / FILE).read_bytes()
    found = re.match(rb'<\?xml version="1\.0"\?>\n<net name="[^"]*" version="(\d+)">', data)
    if found is None:
        raise StepError("OpenVINO wrote something that is no IR")
    try:
        runtime.Core().read_model(str(out / FILE))
    except Exception as error:  # the runtime raises RuntimeError and other classes
        raise StepError(f"OpenVINO cannot read what it wrote: {_last_line(error)}") from error
    sets = sorted({name.decode() for name in re.findall(rb'<layer [^>]*\bversion="([^"]+)"', data)})
    return {"ir": int(found[1]), "opsets": sets}


def _last_line(error: BaseException) -> str:
    rows = [row.strip() for row in str(error).splitlines() if row.strip()]
    return (rows[-1] if rows else type(error).__name__)[:300]
