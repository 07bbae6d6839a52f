# SPDX-License-Identifier: Apache-2.0
"""Draft a recipe for a source: text for a person to edit, which parses as it stands."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template

from packager import sources
from packager.canonical import JSON
from packager.yamltext import Scalar, Where

SCHEMA = "recipe.schema.json"
"""Where an editor finds the schema, as seen from the recipe: the one place to change once it has a public address."""

_PLAIN = re.compile(r"[A-Za-z0-9./_][A-Za-z0-9./_@+-]*(:/[A-Za-z0-9./_@+-]+)?")
_EXAMPLE = {"image": {"dtype": "float32", "shape": ["batch", 3, 224, 224], "range": [0, 1]}}
_ENDING = "(" + "|".join(map(re.escape, (*sources.SINGLE_FILES, ".bundle.tar"))) + ")$"
_ALIAS_OR_VERSION = re.compile(r"@[^@/]*$|/([0-9]+|latest)$", re.IGNORECASE)


def draft(source: str, facts: Mapping[str, JSON] | None = None) -> str:
    """Return the text of a commented `bundle.yaml` for `source`.

    `facts` holds what is known already: `name`, `version`, `registry`, and `inputs` and `dynamic` as in a recipe.
    Raises UsageError when no source reads `source`.
    """
    sources.load_for(source)
    known = facts or {}
    registry = known.get("registry")
    text = resources.files("packager.templates").joinpath("recipe/bundle.yaml").read_text("utf-8")
    return Template(text).substitute(
        schema=SCHEMA,
        name=_scalar(known.get("name") or name_from(source)),
        version=_scalar(known.get("version") or "0.1.0"),
        source=_scalar(source),
        registry=f"registry: {_scalar(registry)}"
        if registry
        else "# registry: sqlite:///mlflow.db   # or https://host",
        inputs=_shapes(known.get("inputs"), known.get("dynamic")),
    )


def schema() -> bytes:
    """Return the JSON Schema of recipes, for editors."""
    return resources.files("packager").joinpath("recipe.schema.json").read_bytes()


def name_from(source: str) -> str:
    """Return a valid bundle name made of what people call the source: the model's, directory's or file's name."""
    last = _ALIAS_OR_VERSION.sub("", source.partition(":/")[2]) if source.startswith("models:/") else source
    last = re.sub(r"[:@][^/]*$", "", last.partition(":")[2]) if source.startswith(("oci:", "bentoml:")) else last
    stem = re.sub(_ENDING, "", last.rstrip("/").rpartition("/")[2], flags=re.IGNORECASE)
    words = re.findall(r"[a-z0-9]+", stem.lower())
    return "-".join(words)[:63].rstrip("-") or "model"


def seen_from(source: str, directory: Path) -> str:
    """Return a source given relative to the working directory as a recipe in `directory` must write it."""
    path = sources.local_path(source, Path())
    if path is None or path.is_absolute():
        return source
    return Path(os.path.relpath(path.resolve(), directory.resolve())).as_posix()


def _shapes(inputs: JSON, dynamic: JSON) -> str:
    """Write inputs one per line, or an example behind `#`."""
    lines = ["inputs:", *(f"  {_scalar(name)}: {_flow(spec)}" for name, spec in (inputs or _EXAMPLE).items())]
    lines.append(f"dynamic: {_flow(dynamic or {'batch': [1, 64]})}")
    if inputs:
        return "\n".join(lines if dynamic else lines[:-1])
    return "\n".join(f"# {line}" for line in lines)


def _flow(value: JSON) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(member)}" for key, member in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value) if isinstance(value, str) else json.dumps(value)


def _scalar(text: str) -> str:
    """Write text so that YAML reads text: plain where that is safe, else quoted as JSON, which is YAML too."""
    plain = _PLAIN.fullmatch(text) and Scalar(text, True, Where("", 1)).kind == "text"
    return text if plain else json.dumps(text, ensure_ascii=False)
