# SPDX-License-Identifier: Apache-2.0
"""Export: a source tree to a canonical ONNX graph, with the files that must travel with it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from packager import exporters
from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters import ExportOptions, Port, SourceModel
from packager.graph import canonicalise, needs, saturation
from packager.steps import _answers, _cases, _outputs
from packager.steps._inputs import describe_inputs
from packager.types import check_path

VERSION = 9  # 9: the form of products in blocks; 8: no limit where a look was cut short
ANSWER = _answers.EXPORT


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Write `model/model.onnx`, its weights and `tokenizer/…`; return the interface and what the graph needs to run."""
    exporter = exporters.exporter(params["kind"])
    options = ExportOptions.from_params(params)
    source = exporters.settle_lengths(exporter.load(inputs["source"], params["payload"], options), options)
    model = canonicalise.canonicalise(source.to_onnx(params["opset"]), opset=params["opset"], ir=params["ir"])
    accepted = shorten_to_measurable(source, describe_inputs(exporters.bound_integers(source, model)), options)
    seen = _outputs.observe(source, accepted, params.get("seed", 0))
    _outputs.correct_output_shapes(model, seen)
    accepted |= _outputs.find_missing_inputs(source, accepted, params.get("seed", 0))
    for path, file in source.extra_files().items():
        _copy(file, out / check_path(path))
    saturates = saturation.count_saturating(model)
    canonicalise.write(model, out / "model", shard_bytes=params.get("shard_bytes", canonicalise.SHARD_BYTES))
    classes = {name: list(labels) for name, labels in exporters.classes_of(source).items()}
    about = {"classes": classes} if classes else {}
    # The weights have left memory: what is left is small enough to be analysed.
    return {**describe(model, accepted, saturates), **about}


def shorten_to_measurable(source: SourceModel, accepted: JSON, options: ExportOptions) -> JSON:
    """Return what callers may send, with lengths that are not promised as long as they can be measured.

    That follows from shapes and an estimate of the work alone: the same cases are chosen when it is measured.
    """
    samples, work = exporters.samples_of(source), exporters.work_of(source)
    while shorter := _unpromised(
        _cases.shortened_dimensions(_cases.build_cases(accepted, samples, work), accepted), options
    ):
        found = _cases.read_spans(accepted)
        for name, high in shorter.items():
            lengths = found[name].lengths
            kept = tuple(length for length in lengths.listed if length <= high)
            found[name] = replace(found[name], lengths=replace(lengths, high=high, listed=kept))
        for name, span in found.items():
            if span.tied:
                high = span.tied[0] * found[span.tied[1]].high
                found[name] = replace(span, lengths=replace(span.lengths, high=high))
        accepted = {**accepted, "dimensions": {name: span.to_json() for name, span in found.items()}}
    return accepted


def _unpromised(shorter: JSON, options: ExportOptions) -> dict[str, int]:
    return {name: length for name, length in shorter.items() if name not in options.dynamic}


def describe(model: Any, accepted: JSON, saturates: Mapping[str, int] | None = None) -> JSON:
    """Return the facts of a canonical graph; its weights may have been written already.

    `saturates` counts the operators whose sums depend on the processor (`saturation`).
    """
    bounds = {name: (span["min"], span["max"]) for name, span in accepted["dimensions"].items()}
    outputs = [Port(*canonicalise.read_port(value)).to_json() for value in model.graph.output]
    return {
        "interface": {"inputs": accepted["inputs"], "outputs": outputs, "dimensions": accepted["dimensions"]},
        "ranges": accepted["ranges"],
        **{key: accepted[key] for key in ("values", "firm", "missing") if key in accepted},
        "graph": {
            **canonicalise.list_facts(model),
            **needs.list_needs(model, bounds),
            **({"saturates": dict(saturates)} if saturates else {}),
        },
        "nondeterministic": canonicalise.find_nondeterministic(model),
    }


def _copy(file: Path, target: Path) -> None:
    if file.is_symlink() or not file.is_file():
        raise StepError(f"`{file.name}` of the source is not a regular file")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
