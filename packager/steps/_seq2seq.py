# SPDX-License-Identifier: Apache-2.0
"""Open an encoder-decoder as a site has it: the graphs of an artefact, the tokenizer, what the contract says."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packager import error_causes
from packager.canonical import JSON
from packager.errors import PackagerError, StepError
from packager.runtime import load_runtime


def open_site(inputs: Mapping[str, Path], params: Mapping[str, JSON]) -> tuple[Any, Any, Any]:
    """Return the two graphs of an artefact, the tokenizer of `graph`, and what the contract says of generation.

    Raises StepError.
    """
    pairs, settings, tokenizers = (
        importlib.import_module(f"packager.server.generation.{name}")
        for name in ("encoder_decoder", "settings", "tokenizer")
    )
    opener, device = load_runtime(params["runtime"]).opener(), params.get("device", "cpu")
    try:
        model = pairs.open_pair(
            lambda path: opener(path, threads=1, device=device), inputs["artefact"] / params["path"]
        )
    except PackagerError:
        raise
    except Exception as error:  # each runtime has its own tree of exceptions
        raise StepError(f"the graphs do not load in {params['runtime']}: {error_causes.find_cause(error)}") from error
    try:
        tokenizer = tokenizers.Tokenizer.open(inputs["graph"] / settings.TOKENIZER)
        about = settings.Generation.from_json(params["generation"])
    except ValueError as error:
        raise StepError(str(error), hint="correct it in the source and save that again") from error
    return model, tokenizer, about
