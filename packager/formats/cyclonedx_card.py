# SPDX-License-Identifier: Apache-2.0
"""What a model card declares, as members of a CycloneDX model component and properties beside them.

Source: CycloneDX 1.6 and 1.7 JSON schemas, the AI profile of SPDX 3.0.1 for terms that CycloneDX has no member for.
"""

from __future__ import annotations

import re

from packager.canonical import JSON
from packager.formats.cyclonedx_libraries import write_property
from packager.formats.model_cards import Metric, ModelCard

_SECTION_OF = {  # term of SPDX's AI profile to the section of a card that is about it
    "energyConsumption": "environmental impact",
    "hyperparameter": "hyperparameters",
    "informationAboutApplication": "application",
    "informationAboutTraining": "training procedure",
    "metricDecisionThreshold": "decision threshold",
    "modelDataPreprocessing": "preprocessing",
    "modelExplainability": "explainability",
}
_ENERGY = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*(kWh|MWh|Wh|MJ|J)\b")


def list_terms(card: ModelCard) -> list[tuple[str, str]]:
    """Return what a card declares in terms of SPDX's AI profile that CycloneDX has no member for, sorted."""
    found = dict(card.terms)
    for term, section in _SECTION_OF.items():
        if text := card.sections.get(section):
            found.setdefault(term, text)
    energy = _ENERGY.search(card.sections.get("environmental impact", ""))
    if energy:
        found |= {"energyQuantity": energy[1], "energyUnit": energy[2]}
    if card.results:
        found["metric"] = ", ".join(dict.fromkeys(item.kind for item in card.results))
    return sorted(found.items())


def describe_card(card: ModelCard | None) -> dict[str, JSON]:
    """Return what a card declares, where CycloneDX has a member for it, and the rest as properties of ours."""
    if card is None:
        return {}
    value: dict[str, JSON] = {}
    if card.results:
        value["quantitativeAnalysis"] = {"performanceMetrics": [_metric(item) for item in card.results]}
    if considerations := _considerations(card):
        value["considerations"] = considerations
    rows = [("language", text) for text in card.languages] + [("tag", text) for text in card.tags]
    rows += [
        ("library", card.library or ""),
        ("emissions", card.emissions or ""),
        ("licence", card.licence_words or ""),
    ]
    if properties := [write_property(f"declared:{name}", text) for name, text in rows if text]:
        value["properties"] = properties
    return value


def _metric(item: Metric) -> JSON:
    part = " ".join(text for text in (item.dataset, item.split) if text)
    return {"type": item.kind, "value": item.value, **({"slice": part} if part else {})}


def _considerations(card: ModelCard) -> dict[str, JSON]:
    use, beyond = card.sections.get("intended use"), card.sections.get("out-of-scope use")
    value: dict[str, JSON] = {}
    if use:
        value["useCases"] = [use]
    if limits := [text for text in (card.sections.get("limitations"), beyond) if text]:
        value["technicalLimitations"] = limits
    if risks := card.sections.get("risks"):
        value["ethicalConsiderations"] = [{"name": risks}]
    return value
