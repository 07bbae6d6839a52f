# SPDX-License-Identifier: Apache-2.0
"""Describe a bundle for tools that list models: the members of the ModelPack config, from the bundle's own files.

What is measured comes from the contract (parameters, precisions, inputs), what is declared from the SBOM (licence,
authors, architecture, links). What neither has is left out: nothing is guessed. There is no creation time, because no
record of a bundle holds one, and equal bundles are equal bytes.
Source: modelpack/model-spec d78bf32, its page of the config.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from packager.canonical import JSON
from packager.formats.modelpack import ModelDescription

_PRECISIONS = {
    "fp32": "float32",
    "fp32_optimised": "float32",
    "fp16": "float16",
    "mixed": "float16,float32",
    "bf16": "bfloat16",
    "int8": "int8",
    "int8_dynamic": "int8",
    "int4": "int4",
    "q8_0": "int8",
}
_QUANTISATIONS = {
    "int8": "onnxruntime-static",
    "int8_dynamic": "onnxruntime-dynamic",
    "int4": "onnxruntime-blockwise",
    "q8_0": "gguf-q8_0",
}
_SCALES = ((10**3, "K"), (10**6, "M"), (10**9, "B"), (10**12, "T"), (10**15, "Q"))
_TASKS = {  # kinds of inputs and outputs of a task
    "text-generation": (("text",), ("text",)),
    "text2text-generation": (("text",), ("text",)),
    "automatic-speech-recognition": (("audio",), ("text",)),
    "feature-extraction": (("text",), ("embedding",)),
    "sentence-similarity": (("text",), ("embedding",)),
    "text-classification": (("text",), ("other",)),
    "token-classification": (("text",), ("other",)),
    "question-answering": (("text",), ("text",)),
    "image-classification": (("image",), ("other",)),
    "object-detection": (("image",), ("other",)),
    "image-segmentation": (("image",), ("image",)),
    "zero-shot-image-classification": (("image", "text"), ("other",)),
    "audio-classification": (("audio",), ("other",)),
}
_COMMIT = re.compile(r"@([0-9a-f]{40})$")


def describe(name: str, version: str, contract: Mapping[str, Any], sbom: Mapping[str, Any]) -> ModelDescription:
    """Return the description; a member that a file lacks, or has in another form, is left out."""
    model = _at(sbom, "metadata", "component")
    parameters = _at(model, "modelCard", "modelParameters")
    precisions = [str(_at(target).get("precision")) for target in _at(contract, "targets").values()]
    task = parameters.get("task")
    reads, writes = _TASKS.get(task, ((), ())) if isinstance(task, str) else ((), ())
    links = {_text(row.get("type")): _text(row.get("url")) for row in _rows(model, "externalReferences")}
    origin = next((str(row.get("name")) for row in _rows(_at(model, "pedigree"), "ancestors")), "")
    revision = _COMMIT.search(origin)
    return ModelDescription(
        name,
        version,
        description=_text(model.get("description")),
        licenses=_texts(_rows(model, "licenses"), "expression"),
        authors=_texts(_rows(model, "authors"), "name"),
        family=next(_families(model), None),
        architecture=_text(parameters.get("modelArchitecture")),
        parameters=parameter_size(_count_parameters(contract)),
        precision=_joined(precisions, _PRECISIONS),
        quantization=_joined(precisions, _QUANTISATIONS),
        documentation=links.get("website"),
        source=links.get("vcs"),
        revision=revision[1] if revision else None,
        datasets=tuple(_datasets(sbom)),
        inputs=reads,
        outputs=writes,
        languages=tuple(_languages(model)),
    )


def _count_parameters(contract: Mapping[str, Any]) -> object:
    """Return the parameters of the graph; of an adapter its own, since the graph is its base's."""
    if "base" not in contract:
        return _at(contract, "graph").get("parameters")
    headers = (_at(target, "artefact", "header") for target in _at(contract, "targets").values())
    return next((header.get("parameters") for header in headers), None)


def parameter_size(count: object) -> str | None:
    """Return a number of parameters as ModelPack writes it, `784.5K`; None below a hundred, which it cannot write."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 100:
        return None
    for scale, letter in _SCALES:
        tenths = (count * 20 + scale) // (2 * scale)  # rounded half up, in whole numbers
        if tenths < 10_000:
            return f"{tenths // 10}.{tenths % 10}{letter}"
    return None


def _families(model: Mapping[str, Any]) -> Iterator[str]:
    """Yield the base models that the card declares, without the account that has them."""
    for row in _rows(_at(model, "pedigree"), "ancestors"):
        if str(row.get("bom-ref", "")).startswith("base:") and (name := _text(row.get("name"))):
            yield name.rpartition("/")[2]


def _languages(model: Mapping[str, Any]) -> Iterator[str]:
    for row in _rows(_at(model, "modelCard"), "properties"):
        if row.get("name") == "packager:declared:language" and re.fullmatch("[a-z]{2}", str(row.get("value"))):
            yield row["value"]


def _datasets(sbom: Mapping[str, Any]) -> Iterator[str]:
    for row in _rows(sbom, "components"):
        for item in _rows(row, "data") if row.get("type") == "data" else ():
            if address := _text(_at(item, "contents").get("url")):
                yield address


def _joined(precisions: list[str], words: Mapping[str, str]) -> str | None:
    found = {word for name in precisions for word in words.get(name, "").split(",") if word}
    return ",".join(sorted(found)) or None


def _at(value: JSON, *names: str) -> Mapping[str, Any]:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _rows(value: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    rows = value.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _texts(rows: list[dict[str, Any]], name: str) -> tuple[str, ...]:
    return tuple(text for row in rows if (text := _text(row.get(name))))


def _text(value: JSON) -> str | None:
    return value if isinstance(value, str) and value else None


def read_files(name: str, version: str, load: Callable[[str], JSON], paths: set[str]) -> ModelDescription:
    """Return the description of a bundle; `load` returns its JSON files by path, `paths` are those that are there."""
    contract, sbom = (load(path) if path in paths else {} for path in ("contract.json", "sbom.cdx.json"))
    return describe(name, version, _at(contract), _at(sbom))
