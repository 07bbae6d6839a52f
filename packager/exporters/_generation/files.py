# SPDX-License-Identifier: Apache-2.0
"""The files of generation beside the weights, in one form: tokenizer, chat template, special tokens, defaults.

What the bundle carries is data: `tokenizer.json`, the template's text, and plain members of the contract. No class
name of a tokenizer travels, because a name selects code: which ids a text has follows from `tokenizer.json` alone, and
the build compares those with what the source's own tokenizer makes.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.error_causes import first_line
from packager.errors import StepError
from packager.exporters._generation import marian
from packager.exporters._transformers.files import read_json, tokenizer_folder
from packager.server.generation.settings import SAMPLING

_NEUTRAL: Mapping[str, tuple[JSON, ...]] = {
    "bad_words_ids": (None,),
    "begin_suppress_tokens": (None,),
    "constraints": (None,),
    "diversity_penalty": (None, 0.0),
    "dola_layers": (None,),
    "encoder_no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "exponential_decay_length_penalty": (None,),
    "force_words_ids": (None,),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "guidance_scale": (None, 1.0),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "min_p": (None, 0.0),
    "no_repeat_ngram_size": (None, 0),
    "num_beam_groups": (None, 1),
    "num_beams": (None, 1),
    "penalty_alpha": (None, 0.0),
    "sequence_bias": (None,),
    "stop_strings": (None,),
    "suppress_tokens": (None, []),
    "top_h": (None,),
    "typical_p": (None, 1.0),
    "watermarking_config": (None,),
}
"""Settings of transformers that change tokens and that the loop does not have, with the values that change nothing."""

OF_PAIRS = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "min_length",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "num_beams",
    "suppress_tokens",
)
"""Of these what the loop of an encoder-decoder has."""


@dataclass(frozen=True, slots=True)
class Special:
    """Special tokens by id."""

    bos: int | None
    eos: tuple[int, ...]
    pad: int | None


def open_tokenizer(source: Path, folder: Path) -> Any:
    """Open the tokenizer as transformers does, without code of its own. Raises StepError."""
    found = tokenizer_folder(source, folder)
    library = importlib.import_module("transformers")
    try:
        return library.AutoTokenizer.from_pretrained(str(found), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of whichever library the tokenizer is written in
        hint = "save it again with `tokenizer.save_pretrained(DIR)`"
        if any(found.glob("*.spm")) and find_spec("sentencepiece") is None:
            hint = "it needs the library sentencepiece: pip install 'model-packager[marian]'"
        raise StepError(
            f"the tokenizer beside the weights cannot be opened: {first_line(error):.200}", hint=hint
        ) from error


def tokenizer_json(source: Path, folder: Path) -> bytes:
    """Return `tokenizer.json` without truncation and padding, which belong to a call; else made of the other files."""
    place = tokenizer_folder(source, folder)
    if (place / "tokenizer.json").is_file():
        table = read_json(place / "tokenizer.json")
    else:
        opened = open_tokenizer(source, folder)
        inner = getattr(opened, "backend_tokenizer", None)
        if inner is None and marian.is_marian(place):
            named = (("eos", opened.eos_token), ("unk", opened.unk_token), ("pad", opened.pad_token))
            return marian.tokenizer_json(place, {name: str(text) for name, text in named})
        if inner is None:
            raise StepError(
                "the tokenizer has no form in `tokenizer.json`", hint="save its fast form with `save_pretrained`"
            )
        table = json.loads(inner.to_str())
    if not isinstance(table, dict) or "model" not in table:
        raise StepError(
            "`tokenizer.json` holds no tokenizer", hint="save it again with `tokenizer.save_pretrained(DIR)`"
        )
    table |= {"truncation": None, "padding": None}
    return json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()


def chat_template(source: Path, folder: Path) -> bytes | None:
    """Return the text of the chat template, None without one; of several the one called `default`."""
    for place in (tokenizer_folder(source, folder), folder):
        if (place / "chat_template.jinja").is_file():
            return (place / "chat_template.jinja").read_bytes()
        table = read_json(place / "tokenizer_config.json") if (place / "tokenizer_config.json").is_file() else {}
        stated = table.get("chat_template")
        if isinstance(stated, list):
            stated = next((item.get("template") for item in stated if item.get("name") == "default"), None)
        if isinstance(stated, str):
            return stated.encode()
    return None


def special_tokens(folder: Path, tokenizer: Any) -> Special:
    """Return the special tokens: `generation_config.json` comes first, then `config.json`, then the tokenizer."""
    tables = [_table(folder / "generation_config.json"), _table(folder / "config.json")]
    return Special(
        next(iter(_ids(tables, "bos_token_id", tokenizer)), None),
        _ids(tables, "eos_token_id", tokenizer),
        next(iter(_ids(tables, "pad_token_id", tokenizer)), None),
    )


def _ids(tables: list[Mapping[str, JSON]], name: str, tokenizer: Any) -> tuple[int, ...]:
    stated = next((table[name] for table in tables if table.get(name) is not None), getattr(tokenizer, name, None))
    found = stated if isinstance(stated, list) else [stated]
    return tuple(sorted({token for token in found if type(token) is int and token >= 0}))


def sampling(folder: Path, table: Mapping[str, JSON] | None = None, honoured: Collection[str] = ()) -> dict[str, float]:
    """Return the publisher's defaults of sampling. Raises StepError for a setting that the loop does not have.

    `table` takes the place of `generation_config.json`; a loop may have settings that others have not.
    """
    table = _table(folder / "generation_config.json") if table is None else table
    refuse_settings(table, honoured)
    stated = {name: table[name] for name in SAMPLING if type(table.get(name)) in (int, float)}
    if not table.get("do_sample"):
        stated = {name: value for name, value in stated.items() if name == "repetition_penalty"}
    elif "temperature" not in stated:
        stated["temperature"] = 1.0  # transformers' own default
    return {name: float(value) for name, value in stated.items() if not (name == "repetition_penalty" and value == 1)}


def refuse_settings(table: Mapping[str, JSON], honoured: Collection[str] = ()) -> None:
    """Raise StepError for a setting that changes tokens and that the loop does not have."""
    for name, neutral in _NEUTRAL.items():
        if name in table and table[name] not in neutral and name not in honoured:
            raise StepError(
                f"`generation_config.json` sets `{name}` to `{table[name]!s:.60}`, which the loop does not do",
                hint=f"remove `{name}` if the model is right without it; it changes which tokens come out",
            )


def _table(path: Path) -> Mapping[str, JSON]:
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}
