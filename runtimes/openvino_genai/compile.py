# SPDX-License-Identifier: Apache-2.0
"""Write the folder that `LLMPipeline` opens: the decoder as stateful IR, tokenizer and detokenizer as IR, defaults.

The IR is made of the canonical graph, whose key-value cache becomes state of the infer request: inputs are `input_ids`,
`attention_mask`, `position_ids` where the model has them, and `beam_idx`, which rows of the cache go on.
"""

from __future__ import annotations

import importlib
import itertools
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packager.runtimes import _openvino_ir as ir
from packager.runtimes._generation import find_special_names

from packager.canonical import JSON
from packager.errors import MissingToolError, StepError
from packager.formats.gguf_texts import name_split
from packager.runtime import Batches, CompileFacts

FILE = "openvino_model.xml"
TOKENIZER, DETOKENIZER = "openvino_tokenizer.xml", "openvino_detokenizer.xml"
_SOURCE, _TEMPLATE = "generation/tokenizer.json", "generation/chat_template.jinja"
_COUNTED = re.compile(rb'((?<=[",])(?:Parameter|Result)_)[0-9]+(?=[",])')
_DIGITS_AND_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"
_PAST, _PRESENT = "past_key_values.", "present."


def compile_graph(inputs: Mapping[str, Path], out: Path, params: Mapping[str, Any], batches: Batches) -> CompileFacts:
    """Write the folder; return its facts. Raises StepError for a graph that is none of a decoder."""
    generation = params.get("generation")
    if generation is None:
        raise StepError(
            "openvino-genai runs models that generate text", hint="write `task: text-generation` in the recipe"
        )
    runtime = ir.tool()
    try:
        model = runtime.Core().read_model(str(inputs["graph"] / params["path"]))
        hold_cache(model)
        runtime.save_model(model, str(out / FILE), compress_to_fp16=False)
    except StepError:
        raise
    except Exception as error:  # the runtime raises RuntimeError and other classes
        raise StepError(f"OpenVINO cannot convert the graph: {ir.last_line(error)}") from error
    (out / FILE).write_bytes(ir.without_maker((out / FILE).read_bytes()))
    _write_texts(runtime, inputs["graph"], out, generation["special"])
    _write(out / "generation_config.json", _defaults(generation))
    header = {**ir.read_back(runtime, out / FILE), "type": "stateful decoder"}
    return {"path": FILE, "artefact": {"reproducibility": "bitwise", "header": header, "needs": {}}}


def hold_cache(model: Any) -> None:
    """Turn the key-value cache of a decoder into state, empty at first, and add `beam_idx` [batch].

    Source: openvino's `apply_make_stateful_transformation`, and what openvino.genai 2026.4 asks of a decoder
    (`src/cpp/src/llm/pipeline_stateful.cpp`): state of [batch, heads, 0, size] that `beam_idx` gathers.
    Raises StepError for a graph without a cache.
    """
    numpy, ops = importlib.import_module("numpy"), importlib.import_module("openvino.opset13")
    past = [port for port in model.inputs if port.get_any_name().startswith(_PAST)]
    if not past:
        raise StepError("the graph has no key-value cache, so openvino-genai cannot run it")
    zero = ops.constant(numpy.int64(0))
    rows = ops.parameter([-1], numpy.int32, name="beam_idx")
    rows.output(0).get_tensor().set_names({"beam_idx"})
    model.add_parameters([rows])
    for port in past:
        users = list(port.get_target_inputs())
        gathered = ops.gather(port, rows, zero)
        for user in users:
            user.replace_source_output(gathered.output(0))
    model.validate_nodes_and_infer_types()
    names = [port.get_any_name() for port in past]
    make = importlib.import_module("openvino._offline_transformations").apply_make_stateful_transformation
    make(model, {name: _PRESENT + name.removeprefix(_PAST) for name in names})
    ids = ops.shape_of(model.input("input_ids"), output_type="i64")
    batch = ops.gather(ids, ops.constant(numpy.array([0], numpy.int64)), zero)
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            shape = node.get_output_partial_shape(0)
            sizes = [shape[axis].get_length() if shape[axis].is_static else 0 for axis in range(1, len(shape))]
            first = ops.concat([batch, ops.constant(numpy.array(sizes, numpy.int64))], 0)
            node.set_arguments([ops.broadcast(ops.constant(numpy.float32(0)), first).output(0)])
    model.validate_nodes_and_infer_types()


def _write_texts(runtime: Any, graph: Path, out: Path, special: JSON) -> None:
    """Convert the tokenizer, which `openvino_tokenizers` takes in transformers' neutral class. Raises StepError."""
    try:
        convert = importlib.import_module("openvino_tokenizers").convert_tokenizer
        neutral = importlib.import_module("transformers").PreTrainedTokenizerFast
    except ImportError:
        raise MissingToolError("openvino-genai", "openvino-genai") from None
    names = find_special_names(graph / _SOURCE, special)
    inner = importlib.import_module("tokenizers").Tokenizer.from_str(
        _in_one_pattern((graph / _SOURCE).read_text("utf-8"))
    )
    tokenizer = neutral(tokenizer_object=inner, clean_up_tokenization_spaces=False, **names)
    if (graph / _TEMPLATE).is_file():
        tokenizer.chat_template = (graph / _TEMPLATE).read_text("utf-8")
        shutil.copyfile(graph / _TEMPLATE, out / "chat_template.jinja")
    try:
        both = convert(tokenizer, with_detokenizer=True)
    except Exception as error:  # of every kind of tokenizer that it does not read
        raise StepError(
            f"openvino_tokenizers cannot convert the tokenizer: {ir.last_line(error)}",
            hint="promise `onnxruntime` alone: there the tokenizer's own library reads it",
        ) from error
    for model, name in zip(both, (TOKENIZER, DETOKENIZER), strict=True):
        runtime.save_model(model, str(out / name), compress_to_fp16=False)
        (out / name).write_bytes(_name_ports(ir.by_number((out / name).read_bytes())))


def _in_one_pattern(text: str) -> str:
    """Return `tokenizer.json` that splits digits and words in one step where it does so in two, with the same pieces.

    openvino_tokenizers 2026.4 looks beyond the end of a piece in the second step: white space before a digit is split
    otherwise there.
    """
    table = json.loads(text)
    if name_split(table.get("pre_tokenizer")) != "smollm":
        return text
    split = {"type": "Split", "pattern": {"Regex": _DIGITS_AND_WORDS}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return json.dumps({**table, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}})


def _name_ports(data: bytes) -> bytes:
    """Return IR whose ports without a name of their own are called by their place, not by a counter of the process."""
    places = itertools.count()
    return _COUNTED.sub(lambda match: match[1] + b"%d" % next(places), data)


def _defaults(generation: JSON) -> JSON:
    """Return `generation_config.json`: greedy, and where an answer ends."""
    special = generation["special"]
    known = {f"{name}_token_id": special[name] for name in ("bos", "pad") if special[name] is not None}
    ends = {"eos_token_id": special["eos"]} if special["eos"] else {}
    return {**known, **ends, "do_sample": False}


def _write(path: Path, value: JSON) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
