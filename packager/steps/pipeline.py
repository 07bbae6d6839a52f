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
from packager.server.pipeline.parts import RAW, Passages
from packager.steps import _answers

if TYPE_CHECKING:
    from packager.pipelines.compare import Run
    from packager.pipelines.derive import Derived
    from packager.server.pipeline.pipeline import Pipeline
    from packager.server.protocol.interface import Interface

VERSION = 1
ANSWER = _answers.record_schema(
    {
        "task": _answers.TEXT,
        "reference": _answers.TEXT,
        "inputs": _answers.WHOLE,
        "largest": _answers.NUMBER,
        "rows": _answers.WHOLE,
        "max_abs": _answers.NUMBER,
    }
)


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Write `pipeline.json` and its files; return what was compared, over how much, and the largest difference."""
    from packager.pipelines import (  # numpy is for workers
        compare,
        compare_images,
        compare_questions,
        compare_sounds,
        derive,
        derive_images,
        derive_sounds,
    )
    from packager.pipelines.source import KINDS, Own
    from packager.server.protocol.interface import Interface

    if params["kind"] not in KINDS:
        raise StepError(
            f"a source of kind `{params['kind']}` has no pipeline that is known here",
            hint="remove `pipeline` from the recipe: the bundle then takes tensors only",
        )
    spec, interface = params["pipeline"], Interface.from_json(params["interface"])
    own = Own.of(inputs["source"], params["payload"])
    run_graph = _runner(inputs["graph"] / params["path"], [port.name for port in interface.outputs])
    bounds, seed = params["bounds"], params["seed"]
    raw = RAW[spec["task"]]
    if spec["task"] == "zero-shot-image-classification":
        processor, tokenizer = own.processor(), own.tokenizer()
        made = derive_images.derive_choices(own, processor, tokenizer, spec, interface)
        pipeline = _written(made, out, interface)
        found = compare_images.compare_pixels(pipeline, processor, seed)
        found["inputs"] += compare.compare_tokens(pipeline, tokenizer, params["strings"], seed)
        found |= compare_images.compare_answers(pipeline, own, processor, run_graph, bounds, seed)
    elif raw == "image":
        processor = own.processor()
        pipeline = _written(derive_images.derive_image(own, processor, spec, interface), out, interface)
        found = compare_images.compare_pixels(pipeline, processor, seed)
        found |= compare_images.compare_answers(pipeline, own, processor, run_graph, bounds, seed)
    elif raw == "audio":
        extractor = own.extractor()
        pipeline = _written(derive_sounds.derive_sound(own, extractor, spec, interface), out, interface)
        found = compare_sounds.compare_features(pipeline, extractor, seed)
        found |= compare_sounds.compare_answers(pipeline, own, extractor, run_graph, bounds, seed)
    else:
        tokenizer = own.tokenizer()
        pipeline = _written(derive.derive_text(own, tokenizer, spec, interface), out, interface)
        if isinstance(answer := pipeline.about.answer, Passages):
            count = compare_questions.compare_windows(pipeline, tokenizer, params["strings"], seed)
            pairs = compare_questions.compare_passages(pipeline, answer, own, tokenizer, run_graph, seed)
            found = {"inputs": count, "largest": 0, **compare.compare_pairs(pairs, bounds)}
        else:
            found = {"inputs": compare.compare_tokens(pipeline, tokenizer, params["strings"], seed), "largest": 0}
            source = _source(inputs["source"], params)
            found |= compare.compare_answers(pipeline, own, tokenizer, source, run_graph, bounds, seed)
    return {"task": spec["task"], "reference": "transformers", **found}


def _written(derived: Derived, out: Path, interface: Interface) -> Pipeline:
    """Write a pipeline and open it as a site does."""
    for name, data in derived.files.items():
        (out / name).write_bytes(data)
    (out / FILE).write_bytes(canonical.dump(derived.document))
    return _opened(out, interface)


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
