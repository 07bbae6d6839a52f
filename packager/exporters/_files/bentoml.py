# SPDX-License-Identifier: Apache-2.0
"""Read the `model.yaml` of a BentoML model directory, without BentoML.

BentoML names the payload after its form, not its content (LightGBM's text is `saved_model.ubj`), so the module that
saved it decides which exporter opens it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from packager.canonical import JSON
from packager.errors import SourceError, did_you_mean
from packager.exporters._files import yaml

MODEL_YAML = "model.yaml"
_LIMIT = 1 << 20
_MODULES: dict[str, tuple[str, tuple[str, ...]]] = {
    "lightgbm": ("lightgbm", ("saved_model.ubj", "saved_model.txt")),
    "onnx": ("onnx", ("saved_model.onnx",)),
    "picklable_model": ("sklearn-pickle", ("saved_model.pkl",)),
    "pytorch": ("torch-pickle", ("saved_model.pt",)),
    "pytorch_lightning": ("torchscript", ("saved_model.pt",)),
    "sklearn": ("sklearn-pickle", ("saved_model.pkl",)),
    "torchscript": ("torchscript", ("saved_model.pt",)),
    "transformers": ("transformers", ("config.json",)),
    "xgboost": ("xgboost", ("saved_model.ubj", "saved_model.json")),
}
"""The module of BentoML that saved a model: the exporter that opens it, and the names of its payload."""
_REMEDY = (
    "save it with one of those, as ONNX, or put a `.pt2`, `.skops` or safetensors directory in with `models.create`"
)


def read_model_yaml(paths: Collection[str], read: Callable[[str], bytes]) -> dict[str, JSON] | None:
    """Return the `model.yaml` at the root if it is BentoML's, else None. Raises SourceError for a broken one."""
    if MODEL_YAML not in paths:
        return None
    value = yaml.parse_mapping(read(MODEL_YAML), MODEL_YAML, _LIMIT)
    return value if {"name", "version", "module", "api_version"} <= set(value) else None


def detect(paths: Collection[str], read: Callable[[str], bytes], known: Collection[str]) -> tuple[str, str] | None:
    """Return exporter and payload of a BentoML model directory; None if it is none, or if no module saved it.

    `known` are the exporters that exist. Raises SourceError for a module that none of them opens.
    """
    value = read_model_yaml(paths, read)
    module = str(yaml.keep_plain_values(value).get("module") or "").removeprefix("bentoml.")
    if not module:
        return None  # `bentoml.models.create`: the files speak for themselves
    kind, payloads = _MODULES.get(module, ("", ()))
    if kind not in known:
        names = [name for name, (opens, _) in _MODULES.items() if opens in known]
        listed = did_you_mean(module, names)
        raise SourceError(f"models saved by `bentoml.{module:.60}` are not exported", hint=f"{listed}; {_REMEDY}")
    payload = next((name for name in payloads if name in paths), None)
    if payload is None:
        raise SourceError(f"the model says `bentoml.{module}` and has no `{payloads[0]}`", hint="save the model again")
    return kind, "." if payload == "config.json" else payload


def read_option(source: Path, name: str) -> str:
    """Return one of the options that BentoML recorded beside the payload, or an empty text."""
    paths = {MODEL_YAML} if (source / MODEL_YAML).is_file() else set()
    options = (read_model_yaml(paths, lambda path: (source / path).read_bytes()) or {}).get("options")
    return str(yaml.keep_plain_values(options).get(name) or "")
