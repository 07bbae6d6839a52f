# SPDX-License-Identifier: Apache-2.0
"""Compile for ONNX Runtime: other forms of the graph behind its unchanged interface.

    fp16, mixed       half precision, everywhere or where it is harmless
    fp32_optimised    what the runtime would simplify at each start, done once, in standard operators only
    int8              quantised with ranges seen on calibration data, as QuantizeLinear/DequantizeLinear pairs
    int8_dynamic      quantised weights; the ranges of everything else are found at run time
    int4              weights of linear layers in blocks of four bits, everything else as it is

All but int8 rewrite the graph without doing its arithmetic, so they are as reproducible as the graph. The ranges of
int8 are seen on the host's CPU: they are rounded so that the last bits of it do not matter, but that is no proof.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from packager.runtimes import _precision
from packager.runtimes.onnxruntime import _int4, _rewrite

from packager import error_causes
from packager.canonical import JSON
from packager.errors import StepError
from packager.graph import canonicalise, nbits, needs, saturation
from packager.runtime import ArtefactFacts, Batches, CompileFacts, Reproducibility


def compile_graph(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON], batches: Batches) -> CompileFacts:
    """Write the artefact for `params["precision"]` of the graph `inputs["graph"]/params["path"]`.

    `batches` reads the data to calibrate on; only what is calibrated calls it.
    `params` are those of the step: `precision`, `path`, `opset`, `ir`, and optionally `shard_bytes`. Facts besides
    those of the step: what the `graph` needs, and of half precision `clipped`: constants beyond ±65504.
    """
    form = params["precision"]
    if form not in _FORMS and form != "int4":
        raise StepError(
            f"onnxruntime compiles {', '.join(sorted((*_FORMS, 'int4')))}, got `{form}`",
            hint="change `precision` in the recipe",
        )
    source = inputs["graph"] / params["path"]
    original = canonicalise.read(source, infer=True)
    before = [canonicalise.read_port(value) for value in (*original.graph.input, *original.graph.output)]
    domains = {entry.domain for entry in original.opset_import}
    clipped = _precision.count_clipped(original) if form in ("fp16", "mixed") else None
    quantised = _to_blocks(original, params) if form == "int4" else None
    rewritten = original if quantised else _FORMS[form](original, source, batches)
    model = canonicalise.canonicalise(rewritten, opset=params["opset"], ir=params["ir"])
    _check(model, form, before, domains | ({nbits.DOMAIN} if quantised else set()))
    needed = {**canonicalise.list_facts(model), **needs.list_needs(model)}
    if saturates := saturation.count_saturating(model):
        needed["saturates"] = saturates
    canonicalise.write(model, out, shard_bytes=params.get("shard_bytes", canonicalise.SHARD_BYTES))
    _check_loads(out / canonicalise.FILE, form)
    header = {"opset": needed["opset"], "ir": needed["ir"]}
    level: Reproducibility = "recorded" if form == "int8" else "bitwise"
    artefact: ArtefactFacts = {"reproducibility": level, "header": header, "needs": {}}
    if quantised:
        artefact["quantised"] = quantised
    facts: CompileFacts = {"path": canonicalise.FILE, "graph": needed, "artefact": artefact}
    if clipped is not None:
        facts["clipped"] = clipped
    return facts


_BLOCKS_ON = ("cpu", "cuda")

_FORMS: Mapping[str, Callable[[Any, Path, Batches], Any]] = {
    "fp16": lambda model, source, batches: _precision.convert_to_half(model, mixed=False),
    "fp32_optimised": lambda model, source, batches: _rewrite.optimised(source),
    "int8": lambda model, source, batches: _rewrite.static(model, source, batches),
    "int8_dynamic": lambda model, source, batches: _rewrite.dynamic(model),
    "mixed": lambda model, source, batches: _precision.convert_to_half(model, mixed=True),
}


def _to_blocks(model: Any, params: Mapping[str, JSON]) -> JSON:
    """Put weights into blocks of four bits, in place; return what the contract says of them."""
    if params["device"] not in _BLOCKS_ON:
        raise StepError(
            f"`{params['device']}` has no kernel for weights in blocks of four bits",
            hint=f"promise int4 on {' or '.join(_BLOCKS_ON)}",
        )
    return _int4.convert(model, _int4.Options(**params["int4"]))


def _check(model: Any, form: str, before: object, domains: set[str]) -> None:
    """Refuse another interface, and operators beyond the standard: other versions and providers may lack those."""
    if before != [canonicalise.read_port(value) for value in (*model.graph.input, *model.graph.output)]:
        raise StepError(f"the {form} graph has another interface than the graph it comes from")
    added = sorted({entry.domain for entry in model.opset_import} - domains)
    if added:
        raise StepError(f"the {form} graph needs operators of `{added[0]}`, which no other runtime promises")


def _check_loads(path: Path, form: str) -> None:
    """Open the artefact once: a rewrite can leave a node with mixed types, which only the runtime notices."""
    session = importlib.import_module("packager.runtimes.onnxruntime.session")
    try:
        session.open_session(path, threads=1)
    except Exception as error:  # the runtime's exceptions share no class
        raise StepError(
            f"the {form} graph does not load in onnxruntime: {error_causes.find_cause_line(str(error))}"
        ) from error
