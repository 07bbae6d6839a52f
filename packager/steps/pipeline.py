# SPDX-License-Identifier: Apache-2.0
"""Pipeline: derive what stands before and behind the graph from the source, and compare it with the source's own.

Only sources that are data are opened here, so that one worker may hold both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager import canonical, exporters
from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters import ExportOptions
from packager.runtime import load_runtime
from packager.server.pipeline.document import FILE
from packager.steps import _answers

if TYPE_CHECKING:
    from packager.pipelines.compare import Run
    from packager.server.pipeline.pipeline import Pipeline
    from packager.server.protocol.interface import Interface

VERSION = 1
ANSWER = _answers.record(
    {
        "task": _answers.TEXT,
        "reference": _answers.TEXT,
        "strings": _answers.WHOLE,
        "rows": _answers.WHOLE,
        "max_abs": _answers.NUMBER,
    }
)


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Write `pipeline.json` and its files; return what was compared, over how much, and the largest difference."""
    from packager.pipelines import compare, derive  # numpy is for workers
    from packager.pipelines.source import KINDS, Own
    from packager.server.protocol.interface import Interface

    if params["kind"] not in KINDS:
        raise StepError(
            f"a source of kind `{params['kind']}` has no pipeline that is known here",
            hint="remove `pipeline` from the recipe: the bundle then takes tensors only",
        )
    spec, interface = params["pipeline"], Interface.from_json(params["interface"])
    own = Own.of(inputs["source"], params["payload"])
    tokenizer = own.tokenizer()
    derived = derive.derive_text(own, tokenizer, spec, interface)
    for name, data in derived.files.items():
        (out / name).write_bytes(data)
    (out / FILE).write_bytes(canonical.dump(derived.document))
    pipeline = _opened(out, interface)
    strings = compare.compare_tokens(pipeline, tokenizer, params["strings"], params["seed"])
    source = _source(inputs["source"], params)
    run_graph = _runner(inputs["graph"] / params["path"], [port.name for port in interface.outputs])
    found = compare.compare_answers(pipeline, own, tokenizer, source, run_graph, params["bounds"], params["seed"])
    library = type(tokenizer).__module__.partition(".")[0]
    return {"task": spec["task"], "reference": library, "strings": strings, **found}


def _opened(folder: Path, interface: Interface) -> Pipeline:
    from packager.server.pipeline.pipeline import open_pipeline

    try:
        return open_pipeline(folder, interface)
    except (ValueError, OSError) as error:
        raise StepError(f"the pipeline cannot be opened: {error}", hint="remove `pipeline` from the recipe") from error


def _source(source: Path, params: Mapping[str, JSON]) -> Any:
    options = ExportOptions.from_params(params)
    exporter = exporters.exporter(params["kind"])
    return exporters.settle_lengths(exporter.load(source, params["payload"], options), options)


def _runner(path: Path, outputs: list[str]) -> Run:
    """Return what runs the graph on one thread, so that the order of its sums does not depend on the host."""
    session = load_runtime("onnxruntime").opener()(path, threads=1, device="cpu")
    return lambda feeds: dict(zip(outputs, session.run(dict(feeds)), strict=True))
