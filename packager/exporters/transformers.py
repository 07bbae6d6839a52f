# SPDX-License-Identifier: Apache-2.0
"""Hugging Face model directories: `config.json` and safetensors, with the architecture's own class and head.

The inputs are what the tokenizer and the processor beside the weights make, and what the model needs besides. A
sentence-transformers directory (`modules.json`) becomes one graph from token ids to `sentence_embedding`, pooling and
normalisation included. Everything is local, no code of the directory is run (`trust_remote_code` stays off), and a
weight that the class needs and the file lacks is an error: transformers would invent it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from packager.canonical import JSON
from packager.errors import SourceError
from packager.exporters import ExportOptions, GenerativeSource
from packager.exporters._files import mlflow
from packager.exporters._torch import program
from packager.exporters._transformers import files, graph, images, opening, quantised, sentence
from packager.exporters._transformers.inputs import Subject
from packager.formats import safetensors
from packager.server.generation.settings import SPEECH, TASK, TEXT_TO_TEXT

TOOLCHAIN: tuple[str, ...] = (*program.TOOLCHAIN, "transformers", "safetensors", "tokenizers")
EXTRA = "transformers"
EXECUTES = False
_PAIRS = ("T5", "MT5", "Bart", "MBart", "Pegasus", "M2M100")
_MARIAN = "MarianMTModel"
LOOKS_FOR = "a directory with `config.json` and `model.safetensors`, or MLflow's transformers and sentence_transformers"


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the model's directory inside the source, `.` for its root. Refuses pickled weights with SourceError."""
    for name, default in (("sentence_transformers", "model.sentence_transformer"), ("transformers", "model")):
        table = mlflow.read_flavor(name, paths, read)
        if table is not None:
            hints = mlflow.read_flavor("python_function", paths, read) or {}
            stated = table.get("model_binary") or hints.get("data") or default
            return _weights(str(stated), paths, read)
    return _weights(".", paths, read) if "config.json" in paths else None


def _weights(folder: str, paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return `folder` if its weights are floats in safetensors; a pickle of weights is refused, not opened."""
    prefix = "" if folder == "." else f"{folder}/"
    names = {path.removeprefix(prefix) for path in paths if path.startswith(prefix)}
    if "config.json" not in names:
        return None
    if names & {"model.safetensors", "model.safetensors.index.json"}:
        quantised.refuse(_read_table(f"{prefix}config.json", read), f"{prefix}config.json")
        return folder
    if any(name.startswith("pytorch_model") and name.endswith(".bin") for name in names):
        raise SourceError(
            f"`{prefix}pytorch_model.bin` is a pickle, expected `model.safetensors`",
            hint="load it once where you trust it and save it with `model.save_pretrained(DIR)`",
        )
    return None


def _read_table(path: str, read: Callable[[str], bytes]) -> Mapping[str, JSON]:
    """Return the object in a small JSON file; an empty one where it holds another thing, which the build names."""
    try:
        table = json.loads(read(path))
    except (ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


def load(source: Path, payload: str, options: ExportOptions) -> graph.Source:
    """Open the directory with the class its `config.json` names. Raises StepError when something does not fit."""
    folder = source if payload == "." else source / payload
    for path in sorted(folder.rglob("*.safetensors")):
        safetensors.check(path)
    steps = sentence.read_steps(folder)
    encoder = steps[0].folder if steps else folder
    model = opening.open_model(encoder, encoder=bool(steps), optional=("pooler.",) if steps else ())
    answer, parts = sentence.embedding(model, steps, _prompts(folder)) if steps else (graph.answer_all(model), [])
    tokens = files.tokenizer_inputs(files.tokenizer_folder(source, encoder))
    processor = files.read_processor(source, encoder)
    subjects = [Subject(model, tokens, processor, size) for size in images.image_sizes(model, processor)]
    found = graph.settle(subjects, options, answer)
    graph.check_attention(model, found.interface, answer)
    names = tuple(port.name for port in found.interface.inputs)
    module = graph.traced_module(model, answer, names, parts)
    travelling = files.bundled_files(source, encoder)
    return graph.Source(module, found.interface, names, options.outputs or found.outputs, travelling, along=found.along)


def task(payload: str, paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the task of a model that generates text and has a tokenizer, by its small files; None for any other."""
    prefix = "" if payload == "." else f"{payload}/"
    try:
        config = json.loads(read(f"{prefix}config.json"))
        named = str(next(iter(config.get("architectures") or ()), ""))
    except (ValueError, AttributeError, KeyError):
        return None
    tokenizers = (f"{prefix}tokenizer.json", f"{prefix}tokenizer_config.json", "components/tokenizer/tokenizer.json")
    if not set(tokenizers) & {*paths}:
        return None
    if config.get("is_encoder_decoder"):
        _refuse_settings(prefix, paths, read)
        if named == "WhisperForConditionalGeneration":
            return SPEECH if f"{prefix}preprocessor_config.json" in paths else None
        return TEXT_TO_TEXT if named.removesuffix("ForConditionalGeneration") in _PAIRS or named == _MARIAN else None
    return TASK if named.endswith(("ForCausalLM", "LMHeadModel")) else None


def _refuse_settings(prefix: str, paths: Collection[str], read: Callable[[str], bytes]) -> None:
    """Raise StepError for settings of generation that the build would refuse, by the small files."""
    from packager.exporters._generation import files as beside

    name = f"{prefix}generation_config.json"
    try:
        table = json.loads(read(name)) if name in paths else {}
    except ValueError:
        return  # the build says what is wrong with the file
    if isinstance(table, dict):
        beside.refuse_settings(table, beside.OF_PAIRS)


def load_generative(source: Path, payload: str, task: str | None = None) -> GenerativeSource:
    """Open the directory of a model that generates text, with its tokenizer. Raises StepError for any other model."""
    from packager.exporters._generation import seq2seq_source  # both compute with numpy
    from packager.exporters._generation.source import open_source

    folder = source if payload == "." else source / payload
    for path in sorted(folder.rglob("*.safetensors")):
        safetensors.check(path)
    if task in (TEXT_TO_TEXT, SPEECH):
        return seq2seq_source.open_source(source, folder, speech=task == SPEECH)
    return open_source(source, folder)


def _prompts(folder: Path) -> dict[str, str]:
    path = folder / "config_sentence_transformers.json"
    return (files.read_json(path).get("prompts") or {}) if path.is_file() else {}
