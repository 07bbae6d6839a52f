# SPDX-License-Identifier: Apache-2.0
"""Files beside the weights: the tokenizer's and the processor's, and the inputs they make."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path

from packager.canonical import JSON
from packager.error_causes import first_line
from packager.errors import StepError

_TRAVELLING = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentence_bert_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_PARTS = ("image_processor", "feature_extractor")  # a processor's own file holds one table per part


def read_json(path: Path) -> JSON:
    """Return the JSON of a file. Raises StepError that names the file."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StepError(f"`{path.name}` is missing or is not JSON: {error}") from error


def tokenizer_folder(source: Path, encoder: Path) -> Path:
    """Return where the tokenizer lies: MLflow's transformers flavor keeps it apart from the weights."""
    apart = source / "components" / "tokenizer"
    return apart if apart.is_dir() else encoder


def tokenizer_inputs(folder: Path) -> tuple[str, ...] | None:
    """Return the names of what the tokenizer makes, or None when there is no tokenizer."""
    if not any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json")):
        return None
    stated = (folder / "tokenizer_config.json").is_file() and read_json(folder / "tokenizer_config.json")
    if stated and isinstance(stated.get("model_input_names"), list):
        return tuple(map(str, stated["model_input_names"]))
    library = importlib.import_module("transformers")
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of whichever library the tokenizer is written in
        raise StepError(
            f"the tokenizer beside the weights cannot be opened: {first_line(error):.200}",
            hint="name what it makes as `model_input_names` in `tokenizer_config.json`, or save it again",
        ) from error
    return tuple(tokenizer.model_input_names)


def read_processor(source: Path, encoder: Path) -> Mapping[str, JSON]:
    """Return the settings of the image processor or feature extractor; empty when there is none."""
    positions = [source / "components" / part for part in _PARTS] + [encoder]
    found: dict[str, JSON] = {}
    for path in (folder / name for folder in positions for name in _PROCESSORS):
        if path.is_file():
            table = read_json(path)
            for part in (table.get(name) for name in _PARTS):
                found |= part if isinstance(part, dict) else {}
            found |= {key: value for key, value in table.items() if key not in _PARTS}
    return found


def bundled_files(source: Path, encoder: Path) -> dict[str, Path]:
    """Return the files that clients need, by their path in the bundle; the weights' neighbours first."""
    apart = [source / "components" / part for part in ("tokenizer", *_PARTS)]
    folders = (*(folder for folder in apart if folder.is_dir()), encoder)
    found = {
        f"tokenizer/{name}": folder / name
        for folder in reversed(folders)
        for name in _TRAVELLING
        if (folder / name).is_file()
    }
    return dict(sorted(found.items()))
