# SPDX-License-Identifier: Apache-2.0
"""An adapter that PEFT saved for a language model: `adapter_config.json` and `adapter_model.safetensors`.

It is no model: a recipe of one names the bundle of its base. What the bundle carries are the matrices; what they are
compared with is transformers' model of the base with PEFT's adapter on it.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from packager import error_causes
from packager.errors import MissingToolError, SourceError, StepError
from packager.exporters import ExportOptions, GenerativeSource, SourceModel
from packager.exporters._generation import lora
from packager.exporters._torch import program
from packager.server.generation.settings import TASK

TOOLCHAIN: tuple[str, ...] = (*program.TOOLCHAIN, "transformers", "safetensors", "tokenizers", "peft")
EXTRA = "adapters"
EXECUTES = False
ADAPTS = True
LOOKS_FOR = "a directory with `adapter_config.json` and `adapter_model.safetensors`, as PEFT saves an adapter"
_NO_MODEL = "an adapter is no model: it changes the layers of one"
_HINT = "write `base: NAME:VERSION`, the bundle of the model that it was trained on, and `task: text-generation`"


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the root of a source with an adapter. Refuses one that is saved as a pickle with SourceError."""
    if lora.CONFIG not in paths or "config.json" in paths:
        return None
    if lora.WEIGHTS in paths:
        return "."
    if lora.PICKLE in paths:
        raise SourceError(
            f"`{lora.PICKLE}` is a pickle, expected `{lora.WEIGHTS}`",
            hint="load it once where you trust it and save it with `model.save_pretrained(DIR)`",
        )
    return None


def task(payload: str, paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the task of adapters."""
    return TASK


def base_of(payload: str, read: Callable[[str], bytes]) -> str:
    """Return what the adapter calls the model that it was trained on; `base` where it does not say."""
    try:
        named = json.loads(read(lora.CONFIG)).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        named = None
    return named.rstrip("/").rpartition("/")[2] if isinstance(named, str) and named.strip("/") else "base"


def load(source: Path, payload: str, options: ExportOptions) -> SourceModel:
    """Refuse a graph of one pass. Raises StepError."""
    raise StepError(_NO_MODEL, hint=_HINT)


def load_generative(
    source: Path, payload: str, task: str | None = None, base: tuple[Path, str] | None = None
) -> GenerativeSource:
    """Open the base, a directory of transformers and the model's folder in it, with the adapter on it, by PEFT."""
    from packager.exporters._generation.source import open_source  # computes with numpy

    if base is None:
        raise StepError(_NO_MODEL, hint=_HINT)
    folder = source / payload
    lora.read_adapter(folder)  # refuses what is not done here, before a library opens it
    root, model = base
    opened = open_source(root, root / model)
    try:
        library = importlib.import_module("peft")
    except ModuleNotFoundError:
        raise MissingToolError("peft", EXTRA) from None
    try:
        with program.silence_warnings():
            adapted = library.PeftModel.from_pretrained(opened.decoder.model, str(folder), is_trainable=False)
    except Exception as error:  # of whichever library
        raise StepError(
            f"PEFT does not put the adapter on the base: {error_causes.first_line(error):.200}",
            hint="the adapter was trained on another model: name that one's bundle as `base`",
        ) from error
    return replace(opened, decoder=replace(opened.decoder, model=adapted.eval()))
