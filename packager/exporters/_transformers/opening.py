# SPDX-License-Identifier: Apache-2.0
"""Open a directory with the class its `config.json` names, in fp32; a weight that is missing is never invented."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packager import error_causes
from packager.canonical import JSON
from packager.errors import MissingToolError, StepError
from packager.exporters._torch import program
from packager.exporters._transformers import files, quantised

LOG_AS_PT2 = "export the model with `torch.export` and log it as pt2"


def import_transformers() -> Any:
    """Import transformers, silent, or say how to install it."""
    program.import_torch()
    try:
        found = importlib.import_module("transformers")
    except ModuleNotFoundError:
        raise MissingToolError("transformers", "transformers") from None
    found.logging.set_verbosity_error()
    found.logging.disable_progress_bar()
    return found


def open_model(folder: Path, *, encoder: bool = False, pair: bool = False, optional: Sequence[str] = ()) -> Any:
    """Open the weights with the class of the architecture, or, for an `encoder`, its body without a head.

    With `pair` it has to be an encoder-decoder, and must not be one without. Weights under the `optional` prefixes may
    be missing.
    """
    config = files.read_json(folder / "config.json")
    _check(config)
    kind = _class(import_transformers(), config, encoder, pair)
    model, missing = _opened(kind, folder)
    lacking = sorted(key for key in missing if not key.startswith(tuple(optional)))
    if lacking:
        raise StepError(
            f"the weights lack `{lacking[0]}`, which `{type(model).__name__}` needs ({len(lacking)} in all)",
            hint="set `architectures` in `config.json` to the class that the weights were saved from",
        )
    return model.eval()


def _check(config: Mapping[str, JSON]) -> None:
    if config.get("auto_map"):
        raise StepError("`config.json` names its own code (`auto_map`), which is never run", hint=LOG_AS_PT2)
    quantised.refuse(config)


def _class(lib: Any, config: Mapping[str, JSON], encoder: bool, pair: bool) -> Any:
    """Return the class to open the weights with; refuses those whose answer is not one pass through one graph."""
    name = next(iter(config.get("architectures") or ()), "")
    if encoder and not name.endswith("Model"):
        return lib.AutoModel
    kind = getattr(lib, name, None)
    if kind is None or not hasattr(kind, "from_pretrained"):
        raise StepError(f"architecture `{name or 'nothing'}` is not in this version of transformers", hint=LOG_AS_PT2)
    is_pair = "decoder_input_ids" in inspect.signature(kind.forward).parameters
    if pair and not is_pair:
        raise StepError(f"`{name}` is no encoder-decoder", hint="leave `task` out, or state the task of its kind")
    if is_pair and not pair:
        raise StepError(
            f"encoder-decoder models (`{name}`) are two graphs and a loop, which one graph cannot hold",
            hint="state `task: text2text-generation`, or `automatic-speech-recognition` for one that reads audio",
        )
    return kind


def _opened(kind: Any, folder: Path) -> tuple[Any, Sequence[str]]:
    try:
        model, report = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=program.import_torch().float32,
            output_loading_info=True,
        )
    except Exception as error:  # transformers wraps the failures of a dozen libraries
        said = error_causes.find_cause_line(str(error))
        raise StepError(
            f"the weights cannot be opened as `{kind.__name__}`: {said}",
            hint="load it with the release of transformers that saved it and save it again, or lock that release",
        ) from error
    return model, list(report["missing_keys"])


def disable_cache(model: Any) -> dict[str, bool]:
    """Have the model return what it computed by name and keep nothing of it; return `forward`'s other arguments."""
    model.config.return_dict = True
    for config in (model.config, model.config.get_text_config()):
        if hasattr(config, "use_cache"):
            config.use_cache = False
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
