# SPDX-License-Identifier: Apache-2.0
"""Report the completeness of an SBOM: by cluster of the G7 "SBOM for AI" minimum elements, by NTIA's and CISA's, its
score, and its licences.

Facts only; policies judge gaps. An element is filled, or it is missing and the report names the remedy. Sources: NTIA,
The Minimum Elements For an SBOM (2021); CISA, BSI and others, SBOM for AI: Minimum Elements (May 2026), seven clusters.
The names of the clusters are the source's, those of the elements are ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from packager.canonical import JSON
from packager.policy.elements import Element as Element
from packager.policy.sbom_scores import Score, aibom_score, cisa_elements


@dataclass(frozen=True, slots=True)
class Report:
    """The filled and missing elements. `licences` counts components by licence; `unlicensed` names those without.

    `cisa` are the elements of 2026, which replace NTIA's; `aibom` is OWASP's score.
    """

    clusters: Mapping[str, tuple[Element, ...]]
    ntia: tuple[Element, ...]
    cisa: tuple[Element, ...]
    aibom: Score
    licences: Mapping[str, int]
    unlicensed: tuple[str, ...]

    @property
    def licensed_share(self) -> float:
        """The part of all components, 0 to 1, whose licence is an SPDX expression."""
        total = sum(self.licences.values()) + len(self.unlicensed)
        return sum(self.licences.values()) / total if total else 1.0

    def to_json(self) -> JSON:
        return {
            "clusters": {name: [item.to_json() for item in items] for name, items in self.clusters.items()},
            "ntia": [item.to_json() for item in self.ntia],
            "cisa": [item.to_json() for item in self.cisa],
            "aibom": self.aibom.to_json(),
            "licences": dict(self.licences),
            "unlicensed": list(self.unlicensed),
            "licensed_share": round(self.licensed_share, 4),
        }


def assess_sbom(bom: Mapping[str, JSON], *, signed: bool) -> Report:
    """Return how complete one of our SBOMs is; `signed`: whether a statement is attached to its bundle."""
    everything = [bom["metadata"]["component"], *list_components(bom)]
    named = Counter(text for component in everything if (text := _expression(component)))
    unlicensed = tuple(component["name"] for component in everything if not _expression(component))
    clusters = {
        "Metadata": _metadata(bom),
        "System level properties": _system(bom),
        "Models": _models(bom),
        "Dataset properties": _datasets(bom),
        "KPI": _kpi(bom),
        "Infrastructure": _infrastructure(bom),
        "Security properties": _security(bom, everything, signed),
    }
    elements = cisa_elements(bom, everything, signed=signed)
    return Report(clusters, _ntia(bom, everything), elements, aibom_score(bom), dict(sorted(named.items())), unlicensed)


def list_components(bom: Mapping[str, JSON]) -> Iterator[JSON]:
    """Yield every component below the main one, nested ones included."""

    def walk(items: Sequence[JSON]) -> Iterator[JSON]:
        for item in items:
            yield item
            yield from walk(item.get("components", []))

    return walk(bom["components"])


def _expression(component: JSON) -> str | None:
    return next((item["expression"] for item in component.get("licenses", []) if "expression" in item), None)


def _kind(bom: Mapping[str, JSON], kind: str) -> list[JSON]:
    return [component for component in bom["components"] if component["type"] == kind]


def _metadata(bom: Mapping[str, JSON]) -> tuple[Element, ...]:
    about = bom["metadata"]
    return (
        Element("author of the SBOM", "authors" in about, "`authors` in the recipe"),
        Element("format and version", "specVersion" in bom, ""),
        Element("unique identifier", "serialNumber" in bom, ""),
        Element("tool", "tools" in about, ""),
        Element(
            "time", "timestamp" in about, "absent on purpose: equal bundles are equal bytes; signatures carry times"
        ),
        Element("life cycle phase", "lifecycles" in about, ""),
        Element("dependency relationships", len(bom["dependencies"]) > 1, ""),
    )


def _system(bom: Mapping[str, JSON]) -> tuple[Element, ...]:
    model = bom["metadata"]["component"]
    parameters = model["modelCard"]["modelParameters"]
    return (
        Element("name and version", bool(model["name"] and model["version"]), ""),
        Element("producer", "supplier" in model, "`authors` in the recipe"),
        Element("intended use", "description" in model, "`description` in the recipe"),
        Element("inputs and outputs", bool(parameters["inputs"] and parameters["outputs"]), ""),
        Element("components", bool(bom["components"]), ""),
    )


def _models(bom: Mapping[str, JSON]) -> tuple[Element, ...]:
    model = bom["metadata"]["component"]
    roles = {
        row["value"] for part in _kind(bom, "file") for row in part["properties"] if row["name"] == "packager:role"
    }
    return (
        Element("identifier", "purl" in model, ""),
        Element("licence", _expression(model) is not None, "`license` in the recipe"),
        Element("description", "description" in model, "`description` in the recipe"),
        Element("origin", bool(model["pedigree"]["ancestors"]), ""),
        Element("graph and weights with hashes", "graph" in roles, ""),
        Element("model card", "model card" in roles, "`card` in the recipe"),
    )


def _datasets(bom: Mapping[str, JSON]) -> tuple[Element, ...]:
    data = _kind(bom, "data")
    remedy = "`datasets: [{name: …, uri: …, digest: …, license: …, classification: …}]` in the recipe"
    return (
        Element("name", bool(data), remedy),
        Element("origin", bool(data) and all("contents" in item["data"][0] for item in data), remedy),
        Element("hash", bool(data) and all("hashes" in item for item in data), remedy),
        Element("licence", bool(data) and all(_expression(item) for item in data), remedy),
        Element("sensitivity", bool(data) and all("classification" in item["data"][0] for item in data), remedy),
    )


def _kpi(bom: Mapping[str, JSON]) -> tuple[Element, ...]:
    card = bom["metadata"]["component"]["modelCard"]
    return (Element("performance", "quantitativeAnalysis" in card, "the model card and signed measurements hold it"),)


def _infrastructure(bom: Mapping[str, JSON]) -> tuple[Element, ...]:
    libraries = _kind(bom, "library")
    files = [part for item in libraries for part in item["components"]]
    return (
        Element("software with versions", bool(libraries) and all("version" in item for item in libraries), ""),
        Element("software with hashes", bool(files) and all("hashes" in part for part in files), ""),
        Element("build tools", any(item.get("components") for item in bom["formulation"]), ""),
        Element("platforms", any(row["name"].startswith("packager:runtime:") for row in bom["properties"]), ""),
    )


def _security(bom: Mapping[str, JSON], everything: Sequence[JSON], signed: bool) -> tuple[Element, ...]:
    files = [item for item in everything if item["type"] == "file"]
    return (
        Element("hash of every file", all("hashes" in item for item in files), ""),
        Element("signature", signed, "`packager sign`"),
        Element(
            "vulnerabilities", "vulnerabilities" in bom, "an attestation, because they change while the bundle does not"
        ),
    )


def _ntia(bom: Mapping[str, JSON], everything: Sequence[JSON]) -> tuple[Element, ...]:
    """The seven data fields; only distributions and the model need a supplier, files have that of their container."""
    owned = [item for item in everything if item["type"] in ("library", "machine-learning-model")]
    anonymous = [item["name"] for item in owned if "supplier" not in item]
    return (
        Element("supplier name", not anonymous, f"missing in the metadata of {', '.join(anonymous)}"),
        Element("component name", all(item.get("name") for item in everything), ""),
        Element("component version", all(item.get("version") for item in owned), ""),
        Element("other unique identifiers", all("purl" in item for item in owned), ""),
        Element("dependency relationship", bool(bom["dependencies"]), ""),
        Element("author of SBOM data", "authors" in bom["metadata"], "`authors` in the recipe"),
        Element(
            "timestamp",
            "timestamp" in bom["metadata"],
            "absent on purpose: equal bundles are equal bytes; signatures carry times",
        ),
    )
